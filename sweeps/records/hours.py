"""Costs: what a sweep took, what early stopping saved and faults lost, against what was predicted.

Hours are GPU-hours, or hours of a slot where trials run on CPU cores.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.planning.rates import Rates
from sweeps.table.cells import Trial
from vit_trainer.files.run_dir import Result, Row


@dataclass(frozen=True)
class Comparison:
    """Predicted against actual hours of the steps that were run."""

    num_trials: int
    """Trials that are finished or stopped: of failed ones the hours are in their journals only."""
    predicted_hours: float | None
    """None if nothing was predicted: a miniature without a probe."""
    actual_hours: float


def hours_of(row: Mapping[str, Any]) -> float:
    """Hours until a journal's row or in a result; 0 where none are recorded."""
    return float(row.get("gpu_hours") or row.get("runtime_hours") or 0.0)


def predicted_and_actual(trials: Iterable[Trial], results: Mapping[str, Result | None], rates: Rates) -> Comparison:
    """Compare the hours of finished and stopped trials with what the same steps were predicted to take.

    Args:
        results: of trials by id; what is missing or None isn't counted.
    """
    num_trials, predicted, actual, is_known = 0, 0.0, 0.0, True
    for trial in trials:
        result = results.get(trial.trial_id)
        if result is None or result["status"] not in ("finished", "stopped"):
            continue
        whole = rates.hours(trial)
        num_trials += 1
        actual += hours_of(result)
        is_known &= whole is not None
        predicted += (whole or 0.0) * result["step"] / trial.config.total_steps
    return Comparison(num_trials, predicted if is_known else None, actual)


def hours_saved(trials: Iterable[Trial], results: Mapping[str, Result | None], rows: Mapping[str, list[Row]]) -> float:
    """Hours that stopped trials would have gone on for: their steps not run, at their own measured speed.

    A lower bound: they weren't tested either.

    Args:
        results, rows: of trials by id; rows as `RunDir.journal` gives them.
    """
    return sum(
        hours_not_run(results.get(trial.trial_id), rows.get(trial.trial_id, []), trial.config.total_steps)
        for trial in trials
    )


def hours_not_run(result: Result | None, journal: Sequence[Row], total_steps: int) -> float:
    """What `hours_saved` counts of one trial: 0 unless it was stopped."""
    if result is None or result["status"] != "stopped" or not journal:
        return 0.0
    last = journal[-1]
    return hours_of(last) / int(last["step"]) * (total_steps - int(last["step"]))


def hours_lost(lines: Iterable[Row]) -> float:
    """Hours of steps that had to be run again, because a process ended between checkpoints.

    A lower bound: what an attempt did after its last row, and starting again, leave no trace. Of a checkpoint
    between rows, the next row's hours count as its own.

    Args:
        lines: of one trial's journal in the order written, as `RunDir.lines` gives them: rows, notes, and the
            beginning of each attempt with the step of the checkpoint that it went on from.
    """
    lost = 0.0
    rows: dict[int, Row] = {}
    for line in lines:
        if "step" in line:
            rows[line["step"]] = line
        elif "attempt" in line:
            kept = line["from_step"]
            undone = [rows.pop(step) for step in sorted(rows) if step > kept]
            if undone:
                base = 0.0 if kept == 0 else hours_of(rows.get(kept, undone[0]))
                lost += hours_of(undone[-1]) - base
    return lost
