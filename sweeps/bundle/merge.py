"""Merge: bundles from elsewhere, several of them laid into one storage."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sweeps.bundle.private import SPOKEN
from sweeps.bundle.snapshot import EVALUATIONS, REPEATS
from sweeps.records.unpacked import MANIFEST, unpacked
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import CONFIG, ENVIRONMENTS, JOURNAL, RESULT
from vit_trainer.files.schema import json_of
from vit_trainer.files.storage import Storage

HIDDEN = (*SPOKEN, "host", "node", "environment", "group")
"""What of a line is no longer what it was, where bundles hide what is private."""


def merge(bundles: Sequence[str], into: str) -> list[str]:
    """Lay the trials of bundles into one storage, which `report.py` then reads; one seed counts once.

    A trial that several sites ran is that of the first who finished it; the others lie in REPEATS, and how far they
    agree is said. A later bundle of the same runs takes the place of an earlier one.

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
                ours, theirs = _state(there), _state(trial)
                if not (there / CONFIG).exists():
                    _lay_trial(trial, there, folder)
                    num_new += 1
                elif theirs != ours == theirs[: len(ours)]:
                    _lay_trial(trial, there, folder)  # the same run, which has gone on since
                elif theirs != ours[: len(theirs)]:
                    line, is_better = _repeated(there, trial, bundle)
                    lines += [line] if line else []
                    if is_better:
                        _copy(there, root / REPEATS / "here" / trial.name)
                        shutil.rmtree(there)
                    _lay_trial(trial, there if is_better else root / REPEATS / name / trial.name, folder)
            if (folder / REPEATS).is_dir():
                _copy(folder / REPEATS, root / REPEATS)
            for evaluation in _folders(folder / EVALUATIONS):
                (root / EVALUATIONS).mkdir(parents=True, exist_ok=True)
                shutil.copy(evaluation, root / EVALUATIONS / f"{evaluation.stem.removesuffix(f'-{name}')}-{name}.json")
            for sweep in _folders(folder / "sweeps"):
                _lay_sweep(sweep, root / "sweeps", f"{sweep.name}-{name}")
            lines.insert(0, f"{bundle}: {len(trials)} trials, {num_new} of them new")
    return lines


def _folders(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else []


def _lay_trial(trial: Path, there: Path, bundle: Path) -> None:
    """Lay a trial's folder into a storage, with what its attempts ran in."""
    (there / RESULT).unlink(missing_ok=True)
    _copy(trial, there)
    for attempt in Storage(there.parent.parent).run_dir(there.name).attempts():
        environment = bundle / ENVIRONMENTS / f"{attempt.get('environment')}.json"
        if environment.is_file():
            (there / ENVIRONMENTS).mkdir(exist_ok=True)
            shutil.copy(environment, there / ENVIRONMENTS)


def _lay_sweep(sweep: Path, into: Path, other_name: str) -> None:
    """Lay a sweep's files into a storage: where they go on with what is there, else under another name."""
    for there in [into / sweep.name, *sorted(into.glob(f"{sweep.name}-*"))]:
        files = [(_lines(there / each.name), _lines(each)) for each in sweep.glob("*.jsonl")]
        if there.is_dir() and all(theirs == ours[: len(theirs)] for ours, theirs in files):
            return
        if not there.exists() or all(ours == theirs[: len(ours)] for ours, theirs in files):
            _copy(sweep, there)
            return
    _copy(sweep, into / other_name)


def _lines(path: Path) -> list[Any]:
    """What a file has, a JSON value a line, but for what bundles hide."""
    found: list[Any] = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append({name: value for name, value in json_of(line).items() if name not in HIDDEN})
        except (ValueError, AttributeError):
            found.append(line)
    return found


def _state(trial: Path) -> list[Any]:
    """How far a trial has come: the lines of its journal, and its accuracy once it is finished."""
    result = _result(trial)
    return _lines(trial / JOURNAL) + ([result["test/accuracy"]] if result.get("status") == "finished" else [])


def _result(trial: Path) -> dict[str, Any]:
    return Storage(trial.parent.parent).run_dir(trial.name).result() or {}


def _repeated(first: Path, second: Path, bundle: str) -> tuple[str | None, bool]:
    """How far two sites' runs of a trial agree, unless one of them isn't finished; whether the second one alone is."""
    results = [_result(first), _result(second)]
    is_finished = [result.get("status") == "finished" for result in results]
    if not all(is_finished):
        return None, is_finished[1]
    ours, theirs = (float(result["test/accuracy"]) for result in results)
    return f"repeated: {first.name}: {100 * ours:.2f}%, {100 * (theirs - ours):+z.2f} points in {bundle}", False


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, dirs_exist_ok=True)
