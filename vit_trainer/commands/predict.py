"""python -m vit_trainer predict: the most probable classes of image files."""

import csv
import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vit_trainer.data.class_folders import IMAGE_SUFFIXES, Walk
from vit_trainer.errors import DataError, InputError, reason_of
from vit_trainer.weights.choice import WeightsChoice

if TYPE_CHECKING:
    from torch import Tensor

    from vit_trainer.inference.classifier import Classifier

DEFAULT_CHOICE = WeightsChoice()
Answers = Iterable[tuple[Path, list[tuple[str, float]]]]
"""Each file with its most probable classes and their probabilities, falling."""


def predict(
    *images: Path,
    choice: Annotated[WeightsChoice, Parameter(name="*")] = DEFAULT_CHOICE,
    top_k: int = 5,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
    csv_: Annotated[bool, Parameter(name="--csv", negative=())] = False,
) -> int:
    """Print the most probable classes of image files, which are seen whole, as in an evaluation.

    Files that can't be read are named on stderr, the others go on, and the exit code is 1.

    Parameters
    ----------
    images
        Image files, folders with all below them, or patterns such as "photos/**/*.jpg".
    top_k
        How many classes to print.
    json_
        Print a JSON array with an object per image.
    csv_
        Print CSV with a line per image.
    """
    if top_k < 1 or (json_ and csv_):
        raise InputError(f"top-k {top_k} is below 1: give 1 or more" if top_k < 1 else "give one of --json and --csv")
    files, unreadable = _files(images)
    with choice.opened() as weights:
        from vit_trainer.inference.classifier import Classifier, top

        classifier = Classifier.load(weights)
        classifier.require_head(weights.source)
        names = classifier.names(weights)
        rows = ((path, top(each, names, top_k)) for path, each in _probabilities(classifier, files, unreadable))
        (_print_json if json_ else _print_csv if csv_ else _print_table)(rows, files, min(top_k, len(names)))
    if unreadable:
        print(f"{len(unreadable)} of {len({*files, *unreadable})} could not be read", file=sys.stderr)
    return 1 if unreadable else 0


def _files(given: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Image files as given, those below folders, and those that match patterns, in order, each once.

    Returns:
        Them, and what can't be looked into, such as links that lead nowhere, which is named; what is passed over too.

    Raises:
        InputError: nothing is there.
    """
    found: dict[Path, None] = {}
    unreadable: list[Path] = []
    for each in given:
        matches = [each] if each.exists() else [Path(name) for name in sorted(glob.glob(str(each), recursive=True))]
        if not matches:
            raise InputError(f"no file, folder or match of {each}: give image files, folders or patterns")
        for match in matches:
            if not match.is_dir():
                found[match] = None
                continue
            walk = Walk(match)
            try:
                found.update(dict.fromkeys(match / name for name in sorted(walk.images(str(match), frozenset()))))
            except OSError as error:
                raise InputError(f"cannot list {error.filename} ({reason_of(error)}): make it readable") from error
            for name, reason in walk.unreadable.items():
                unreadable.append(match / name)
                print(f"cannot read {match / name} ({reason})", file=sys.stderr)
            if walk.passed_over:
                print(f"passed over {walk.passed_over}", file=sys.stderr)
    if not found:
        none_in = f" in {', '.join(map(str, given))}: give files that end with {', '.join(sorted(IMAGE_SUFFIXES))}"
        raise InputError("no image given: name one or more image files" if not given else f"no images{none_in}")
    return list(found), unreadable


def _probabilities(
    classifier: "Classifier", files: list[Path], unreadable: list[Path]
) -> Iterator[tuple[Path, "Tensor"]]:
    """Each file that can be read with (num_classes,) float64; the others are named and added to `unreadable`.

    While the model sees a batch, threads decode and resize the next one: large images are kept one per thread.
    """
    import torch

    from vit_trainer.data.decoding import read_image
    from vit_trainer.machine import num_cores

    batch_size = classifier.batch_size

    def read(path: Path) -> "Tensor":
        return classifier.input_of(read_image(path))

    with ThreadPoolExecutor(min(num_cores(), 8)) as pool:

        def begin(first: int) -> dict[Path, "Future[Tensor]"]:
            return {path: pool.submit(read, path) for path in files[first : first + batch_size]}

        begun = begin(0)
        for first in range(0, len(files), batch_size):
            batch, begun = begun, begin(first + batch_size)
            inputs = {}
            for path, pending in batch.items():
                try:
                    inputs[path] = pending.result()
                except DataError as error:
                    unreadable.append(path)
                    print(f"cannot read {path} ({error})", file=sys.stderr)
            if inputs:
                probabilities = classifier.probabilities(torch.cat(list(inputs.values()))).cpu()
                yield from zip(inputs, probabilities, strict=True)


def _print_table(answers: Answers, files: list[Path], top_k: int) -> None:
    width = max(len(str(path)) for path in files) + 1
    for path, best in answers:
        classes = ", ".join(f"{name} {100 * probability:.1f}%" for name, probability in best)
        print(f"{f'{path}:':{width}} {classes}", flush=True)


def _print_csv(answers: Answers, files: list[Path], top_k: int) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    numbers = [""] + [f"_{place}" for place in range(2, top_k + 1)]
    writer.writerow(["file", *(f"{column}{number}" for number in numbers for column in ("class", "probability"))])
    for path, best in answers:
        writer.writerow([path, *(value for name, probability in best for value in (name, f"{probability:.6g}"))])


def _print_json(answers: Answers, files: list[Path], top_k: int) -> None:
    before = "["
    for path, best in answers:
        classes = [{"class": name, "probability": probability} for name, probability in best]
        print(before, json.dumps({"file": str(path), "classes": classes}), sep="\n", end="", flush=True)
        before = ","
    print("\n]" if before == "," else "[]")
