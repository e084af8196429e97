"""python -m vit_trainer evaluate: a checkpoint with its own head, without training."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vit_trainer.config import Execution, Precision
from vit_trainer.data.datasets import DATASETS, dataset_info, is_folder
from vit_trainer.errors import InputError
from vit_trainer.files.folder import write_atomically
from vit_trainer.weights.choice import WeightsChoice

if TYPE_CHECKING:
    from vit_trainer.inference.evaluate_checkpoint import CheckpointEvaluation

DEFAULT_CHOICE = WeightsChoice()


def evaluate(
    *,
    choice: Annotated[WeightsChoice, Parameter(name="*")] = DEFAULT_CHOICE,
    split: Literal["train", "validation", "test"] = "test",
    batch_size: int = 256,
    precision: Precision = "auto",
    num_workers: int | None = None,
    skip_unreadable: bool = False,
    json_to: Annotated[Path | None, Parameter(name="--json", allow_leading_hyphen=True)] = None,
    predictions: Path | None = None,
) -> None:
    """Evaluate a checkpoint or a finished trial with its own head on every image of a split, without training.

    The data set's classes must be the head's, in whatever order where both have names.

    Several processes share the images: torchrun --nproc-per-node 8 -m vit_trainer evaluate ...

    Parameters
    ----------
    split
        The part of the data set.
    batch_size
        Images per forward pass and process; the result doesn't depend on it.
    precision
        Numbers in matrix products; auto is bfloat16 on GPUs that have it, else float32.
    num_workers
        Processes that decode image files, 0 for none; as many as there are cores for them unless given.
    skip_unreadable
        Leave unreadable image files out, named and counted, instead of failing.
    json_to
        File for the result as JSON; - prints it instead of the lines for people.
    predictions
        File for the five likeliest classes of every image, which python -m vit_trainer score reads.
    """
    if choice.dataset is not None:
        dataset_info(choice.dataset)  # raises unless it is known
    if batch_size < 1:
        raise InputError(f"batch-size {batch_size} is below 1: give a whole number of at least 1")
    Execution(num_workers=num_workers)  # raises if it is negative
    for file in (json_to, predictions):
        if file is not None and (file.is_dir() or not file.resolve().parent.is_dir()):
            raise InputError(f"cannot write {file}: it is a folder, or in none; give a file in a folder that exists")

    with replace(choice, dataset=None).opened() as weights:
        dataset = choice.dataset or weights.dataset
        if dataset is None or not (dataset in DATASETS or is_folder(dataset)):
            raise InputError(f"give --dataset: what {weights.source} was trained on isn't known here")
        from vit_trainer.inference.evaluate_checkpoint import evaluate_checkpoint
        from vit_trainer.loop.accelerator import start_accelerator
        from vit_trainer.machine import card_and_versions
        from vit_trainer.weights.npz_files import file_sha256

        accelerator = start_accelerator(precision)
        result = evaluate_checkpoint(
            weights,
            dataset,
            accelerator,
            split=split,
            batch_size=batch_size,
            num_workers=num_workers,
            skip_unreadable=skip_unreadable,
        )
        known = {"checkpoint_sha256": file_sha256(weights.path), "computed_by": card_and_versions()} if json_to else {}
    if accelerator.is_main_process:
        text = json.dumps(result.to_dict() | known, indent=1)
        if json_to is not None and str(json_to) != "-":
            write_atomically(json_to, f"{text}\n".encode())
        sums = result.sums
        if predictions is not None and sums.predictions is not None:
            write_atomically(predictions, sums.predictions.to_bytes())
        top5 = f", top-5 {100 * sums.accuracy_top5:.2f}%" if dataset_info(dataset).num_classes > 5 else ""
        line = (
            f"{result.model} at {result.resolution} px on {dataset} {split}: top-1 {100 * sums.accuracy:.2f}%{top5} "
            f"of {sums.num_images} images, "
            f"{result.images_per_second:.0f} images/s"
        )
        print(text if str(json_to) == "-" else "\n".join([line, *_beside_known(result)]))
        if result.note:
            print(result.note, file=sys.stderr)
    accelerator.end_training()


def _beside_known(result: "CheckpointEvaluation") -> list[str]:
    """How far chance reaches, and what others measured of the released checkpoint."""
    from vit_trainer.inference.scores import binomial_interval
    from vit_trainer.weights.known_accuracies import known_accuracies

    low, high = binomial_interval(result.sums.num_correct, result.sums.num_images)
    known = known_accuracies(result.model, result.dataset, result.split, result.resolution)
    return [f"{100 * low:.2f}% to {100 * high:.2f}% with 95% confidence, by the number of images"] + [
        f"the released one: {100 * each.accuracy:.2f}% by {each.source}; this is "
        f"{100 * (result.sums.accuracy - each.accuracy):+z.2f} points"
        for each in known
    ]
