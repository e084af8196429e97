"""Verdict: whether a cell's result is the published one, given how much runs differ. The method: docs/verdict.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sweeps.table.published import PublishedFigure
from sweeps.table.spread import Spread, chance_beyond, spread_of, t_beyond
from vit_trainer.errors import InputError, counted

SIGNIFICANCE = 0.05
"""Chance of a wrong verdict: `reproduced` beyond the margin, or `above` or `below` where there is no difference."""
MAX_NUM_SEEDS = 100
"""How many seeds of ours are considered when asking how many would decide."""
MARGINS = {"cifar10": 0.002, "cifar100": 0.006, "imagenet2012": 0.003, "oxford_pets": 0.006, "oxford_flowers102": 0.001}
"""Differences (fractions) that still count as the same result: the largest between two official runs of one cell, and
of Oxford's, of which no single runs are published, four of their deviations; rounded up to 0.1 points."""


class Status(StrEnum):
    """What is known of a cell's result beside the published one."""

    REPRODUCED = "reproduced"
    """The difference is smaller than the margin."""
    ABOVE = "above"
    """The difference may exceed the margin, and it is above zero."""
    BELOW = "below"
    """The difference may exceed the margin, and it is below zero."""
    INCONCLUSIVE = "inconclusive"
    """The runs can't tell."""


MARKS = {Status.REPRODUCED: "✓", Status.ABOVE: "▲", Status.BELOW: "▼", Status.INCONCLUSIVE: "?"}


@dataclass(frozen=True)
class Verdict:
    """What the runs of a cell say about its published figure. Accuracies are fractions."""

    status: Status
    """reproduced, above, below or inconclusive."""
    difference: float
    """Mean of our runs minus the published accuracy."""
    interval_95: tuple[float, float]
    """Where the true difference is, with 95% confidence."""
    p_value: float
    """How likely a difference at least so large is by chance alone."""
    error: float
    """Standard error of the difference."""
    spread: Spread
    """What the error is made of."""
    margin: float
    """The difference that would still count as the same."""
    num_seeds: int
    """Our runs."""
    more_seeds_needed: int | None
    """How many more would decide if the difference stays: 0 if decided; None: not even MAX_NUM_SEEDS in all."""

    def __str__(self) -> str:
        """One line, in percentage points."""
        low, high = self.interval_95
        line = (
            f"{self.status}: {_points(self.difference)} points ({_points(low)} to {_points(high)} with 95% confidence; "
            f"margin {100 * self.margin:g}; {counted(self.num_seeds, 'seed')})"
        )
        if self.status is not Status.INCONCLUSIVE:
            return line
        if self.more_seeds_needed is None:
            return f"{line}; not even {MAX_NUM_SEEDS} seeds would decide: too few runs are published"
        return f"{line}; {counted(self.more_seeds_needed, 'more seed')} would decide if the difference stays"


def verdict_on(
    figure: PublishedFigure, accuracies: Sequence[float], spread: Spread | None = None, margin: float | None = None
) -> Verdict:
    """The verdict on a cell.

    Args:
        figure: what was published.
        accuracies: test accuracies (fractions) of our runs, one per seed; see `Chosen.accuracies`.
        spread: how much runs differ by chance; None: as the published ones of the data set do.
        margin: the difference (fraction) that still counts as the same; None: that of MARGINS.

    Raises:
        InputError: nobody has published how much runs on this data set differ, or the margin makes no sense.
    """
    spread = spread or spread_of(figure.cell.dataset)
    margin = MARGINS[figure.cell.dataset] if margin is None else margin
    return judge(accuracies, figure.accuracy, figure.num_seeds, spread, margin)


def judge(
    accuracies: Sequence[float], published: float, num_published_seeds: int, spread: Spread, margin: float
) -> Verdict:
    """Compare our runs with a published mean.

    `reproduced` by two one-sided t tests (Schuirmann 1987) against the margin; else `above` or `below` if the 95%
    interval of the difference leaves zero out.

    Args:
        accuracies: of our runs, fractions; at least one.
        published: mean of the published runs.
        num_published_seeds: how many these are.
        spread: of single runs, the same on both sides.
        margin: the difference that still counts as the same; positive.

    Raises:
        InputError: no accuracy, one that is no fraction, or a margin outside (0, 1).
    """
    num_seeds = len(accuracies)
    if not num_seeds or not all(0 <= accuracy <= 1 for accuracy in accuracies):
        raise InputError(f"accuracies {list(accuracies)} give no verdict: give one or more fractions in [0, 1]")
    if not 0 < margin < 1:
        raise InputError(f"margin {margin} is outside (0, 1): give a fraction such as 0.003, which is 0.3 points")
    difference = _mean(accuracies) - published
    one_sided = t_beyond(2 * SIGNIFICANCE, spread.degrees_of_freedom)
    two_sided = t_beyond(SIGNIFICANCE, spread.degrees_of_freedom)

    def error(num_seeds: int) -> float:
        return spread.deviation * math.sqrt(1 / num_seeds + 1 / num_published_seeds)

    def status(num_seeds: int) -> Status:
        if abs(difference) + one_sided * error(num_seeds) < margin:
            return Status.REPRODUCED
        if abs(difference) > two_sided * error(num_seeds):
            return Status.ABOVE if difference > 0 else Status.BELOW
        return Status.INCONCLUSIVE

    counts = range(num_seeds, max(num_seeds, MAX_NUM_SEEDS) + 1)
    half = two_sided * error(num_seeds)
    return Verdict(
        status=status(num_seeds),
        difference=difference,
        interval_95=(difference - half, difference + half),
        p_value=chance_beyond(difference / error(num_seeds), spread.degrees_of_freedom),
        error=error(num_seeds),
        spread=spread,
        margin=margin,
        num_seeds=num_seeds,
        more_seeds_needed=next((n - num_seeds for n in counts if status(n) is not Status.INCONCLUSIVE), None),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _points(fraction: float) -> str:
    return f"{100 * fraction:+z.2f}"
