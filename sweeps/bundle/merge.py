"""Merge: bundles from elsewhere, several of them laid into one storage."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sweeps.records.unpacked import MANIFEST, unpacked
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import CONFIG, ENVIRONMENTS, JOURNAL, RESULT
from vit_trainer.files.storage import Storage

REPEATS = "repeats"
"""In a storage: trials that a second site ran too, a folder for each bundle."""


def merge(bundles: Sequence[str], into: str) -> list[str]:
    """Lay the trials of bundles into one storage, which `report.py` then reads; one seed counts once.

    A trial that several sites ran is the first one's; the others lie in REPEATS, and how far they agree is said.

    Returns:
        Lines to print.

    Raises:
        InputError: one is no bundle, or the storage isn't a local folder.
    """
    storage = Storage(into)
    if not storage.is_local:
        raise InputError(f"storage {into} is no folder of this machine: give one to lay the trials into")
    root, lines = Path(storage.location), []
    with ExitStack() as stack:
        opened = [(bundle, stack.enter_context(unpacked(bundle))) for bundle in bundles]  # all, before any is merged
        for bundle, folder in opened:
            name = f"{Path(bundle).stem}-{json.loads((folder / MANIFEST).read_bytes())['root'][:8]}"
            trials, num_new = _folders(folder / "runs"), 0
            for trial in trials:
                there = root / "runs" / trial.name
                if not (there / CONFIG).exists():
                    _copy(trial, there)
                    for attempt in storage.run_dir(trial.name).attempts():
                        environment = folder / ENVIRONMENTS / f"{attempt.get('environment')}.json"
                        if environment.is_file():
                            (there / ENVIRONMENTS).mkdir(exist_ok=True)
                            shutil.copy(environment, there / ENVIRONMENTS)
                    num_new += 1
                elif not _same(trial, there):
                    if (line := _repeated(there, trial, bundle)) is not None:
                        lines.append(line)
                    _copy(trial, root / REPEATS / name / trial.name)
            for sweep in _folders(folder / "sweeps"):
                there = root / "sweeps" / sweep.name
                is_same = all(_content(there / file.name) == file.read_bytes() for file in sweep.iterdir())
                _copy(sweep, there if is_same or not there.exists() else there.with_name(f"{sweep.name}-{name}"))
            lines.insert(0, f"{bundle}: {len(trials)} trials, {num_new} of them new")
    return lines


def _folders(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else []


def _same(one: Path, other: Path) -> bool:
    names = [CONFIG, RESULT, JOURNAL]
    return all(_content(one / name) == _content(other / name) for name in names)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _repeated(first: Path, second: Path, bundle: str) -> str | None:
    """How far two sites' runs of one trial agree; None unless both finished."""
    accuracies = []
    for path in (first, second):
        result = Storage(path.parent.parent).run_dir(path.name).result()
        if result is None or result["status"] != "finished":
            return None
        accuracies.append(float(result["test/accuracy"]))
    difference = 100 * (accuracies[1] - accuracies[0])
    return f"repeated: {first.name}: {100 * accuracies[0]:.2f}%, {difference:+z.2f} points in {bundle}"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, dirs_exist_ok=True)
