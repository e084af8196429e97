"""Rungs: ASHA's rule for candidates that compete with each other."""

import math

import numpy as np

from sweeps.planning.halving import rungs_of
from sweeps.records.decisions import METRIC, Decision

WORST = 0.0
"""What a candidate without a number counts as: the lowest accuracy there is."""


class Rungs:
    """Asynchronous successive halving (arXiv 1810.05934) among the candidates of one group.

    The rule is that of Ray's AsyncHyperBandScheduler with stop_last_trials=False (async_hyperband.py, _Bracket): a
    report enters the highest rung that it has reached, once, and stops below a percentile of those that came before.
    It is written out here because Ray doesn't tell what it compared and because its rungs can't be refilled. Two
    things differ: no number is the worst value rather than none, and the last live candidate never stops.
    """

    def __init__(self, group: str, *, total_steps: int, reduction_factor: float, grace_fraction: float) -> None:
        """Rungs in steps: at grace_fraction of total_steps, then each at reduction_factor times the one before.

        >>> Rungs("a cell", total_steps=80, reduction_factor=2, grace_fraction=0.25).steps
        [40, 20]
        """
        self.group = group
        self.live: set[str] = set()
        """Candidates that may still end with a number: waiting, running or finished."""
        self._total_steps, self._reduction_factor = total_steps, reduction_factor
        rungs = rungs_of(total_steps, reduction_factor, grace_fraction)
        self._values: dict[int, dict[str, float | None]] = {step: {} for step in reversed(rungs)}

    @property
    def steps(self) -> list[int]:
        """The rungs as optimiser steps, highest first."""
        return list(self._values)

    def decide(self, trial_id: str, step: int, value: object, *, went_on: bool | None = None) -> Decision | None:
        """Take a report in; None where there is nothing to decide.

        That is before the first rung, at a rung that the candidate has entered already, and at the last step: its
        test accuracy is the result.

        Args:
            step: optimiser steps taken.
            value: METRIC; anything but a finite number counts as WORST.
            went_on: whether the candidate is known to have gone on after this report, whatever the rule says.
        """
        rung = next((rung for rung in self._values if rung <= step < self._total_steps), None)
        if rung is None or trial_id in self._values[rung]:
            return None
        compared = tuple(self._values[rung].values())
        value = float(value) if isinstance(value, int | float) and math.isfinite(value) else None
        self._values[rung][trial_id] = value
        cutoff = self._cutoff(compared)
        verdict, goes_on = self._verdict(trial_id, _counted(value), compared, cutoff)
        if went_on is not None and went_on != goes_on:
            goes_on = went_on
            verdict += f", but the candidate {'had gone on' if went_on else 'had been stopped'} already"
        what = "is no number, counts as the worst and" if value is None else f"{value:.4f}"
        if not goes_on:
            self.live.discard(trial_id)
        return Decision(
            trial_id,
            self.group,
            rung,
            step,
            value,
            compared,
            cutoff,
            "goes on" if goes_on else "stops",
            f"ASHA at step {step}: {METRIC} {what} is {verdict}",
        )

    def restore(self, decision: Decision) -> None:
        """Put back what a candidate had at a rung; a rung that other flags made is forgotten."""
        if decision.rung in self._values:
            self._values[decision.rung][decision.trial_id] = decision.value

    def _cutoff(self, compared: tuple[float | None, ...]) -> float | None:
        if not compared:
            return None
        percent = (1 - 1 / self._reduction_factor) * 100
        return float(np.percentile([_counted(value) for value in compared], percent))

    def _verdict(
        self, trial_id: str, value: float, compared: tuple[float | None, ...], cutoff: float | None
    ) -> tuple[str, bool]:
        """The rule in words, and whether the candidate goes on by it."""
        if cutoff is None:
            return "the first at the rung", True
        best = sorted(map(_counted, compared), reverse=True)
        others = ", ".join(f"{other:.4f}" for other in best[:8]) + (f" and {len(best) - 8} more" if best[8:] else "")
        if value >= cutoff:
            return f"at or above the cutoff {cutoff:.4f} of {others}", True
        below = f"below the cutoff {cutoff:.4f} of {others}"
        if self.live <= {trial_id}:
            return f"{below}, but this is the last live candidate", True
        return below, False


def _counted(value: float | None) -> float:
    return WORST if value is None else value
