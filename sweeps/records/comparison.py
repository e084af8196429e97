"""Comparison: predicted against actual hours."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sweeps.planning.rates import Rates
from sweeps.records.hours import hours_of
from sweeps.table.cells import Trial
from vit_trainer.files.run_dir import Result


@dataclass(frozen=True)
class Comparison:
    """Predicted against actual hours of the steps that were run."""

    num_trials: int
    """Trials that are finished or stopped: of failed ones the hours are in their journals only."""
    predicted_hours: float | None
    """None if nothing was predicted: a miniature without a probe."""
    actual_hours: float


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
