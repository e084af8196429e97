"""Spread: how much runs differ that only chance sets apart, pooled over the published runs and ours; Student's t."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sweeps.table.cells import Cell, Schedule
from sweeps.table.published import Table, published_cells, replicates

Kind = tuple[str, int, Schedule]
"""What runs must have in common to be pooled: data set, resolution and schedule."""
OWN_RECIPE: tuple[Table, ...] = ("official", "paper")
"""The tables whose kinds of runs the published repeats are of."""
MIN_DEGREES_OF_FREEDOM = 4
"""Of our own runs, where none of their kind are published: with fewer the published runs of another kind are better."""


@dataclass(frozen=True)
class Spread:
    """How much runs of one cell differ that only chance sets apart."""

    deviation: float
    """Standard deviation of one run, as a fraction; positive."""
    degrees_of_freedom: int
    """Degrees of freedom of its estimate; at least 1."""
    runs: str = ""
    """Which runs it is pooled over, in words."""


def kind_of(cell: Cell) -> Kind:
    """A cell's kind."""
    return cell.dataset, cell.resolution, cell.schedule


def spread_for(cell: Cell, own: Iterable[Sequence[float]] = ()) -> Spread:
    """The spread behind a cell's verdict: of the published runs of its kind and of ours.

    Where none of its kind are published, of ours alone; with few of those, of the published runs of its data set.

    Args:
        own: accuracies (fractions) of our runs of that kind, a list for what only chance sets apart.

    Raises:
        InputError: nobody has published how much runs on this data set differ.
    """
    published = spread_of(cell.dataset)
    groups = [group for group in own if len(group) > 1]
    ours = f"{sum(map(len, groups))} of ours"
    if kind_of(cell) in {kind_of(each) for table in OWN_RECIPE for each in published_cells(table)}:
        return pooled([*replicates(cell.dataset), *groups], f"{published.runs}, {ours}" if groups else published.runs)
    if sum(len(group) - 1 for group in groups) >= MIN_DEGREES_OF_FREEDOM and (alone := pooled(groups, ours)).deviation:
        return alone
    return replace(published, runs=f"{published.runs} of another schedule or resolution")


@lru_cache
def spread_of(dataset: str) -> Spread:
    """How much published runs of one cell differ on a data set, pooled over its cells.

    Raises:
        InputError: no published run of this data set.
    """
    groups = replicates(dataset)
    return pooled(groups, f"{sum(len(group) for group in groups if len(group) > 1)} published")


def pooled(groups: Iterable[Sequence[float]], runs: str = "") -> Spread:
    """Standard deviation within groups (one-way analysis of variance); a group of one adds nothing.

    >>> spread = pooled([[0.91, 0.93], [0.81, 0.83], [0.70]])
    >>> round(spread.deviation, 4), spread.degrees_of_freedom
    (0.0141, 2)

    Args:
        groups: accuracies (fractions), none empty; within one, only chance sets the runs apart.
        runs: what they are, in words.
    """
    squares, degrees_of_freedom = 0.0, 0
    for group in groups:
        mean = math.fsum(group) / len(group)
        squares += math.fsum((accuracy - mean) ** 2 for accuracy in group)
        degrees_of_freedom += len(group) - 1
    assert degrees_of_freedom, "a spread needs two runs of one group"
    return Spread(math.sqrt(squares / degrees_of_freedom), degrees_of_freedom, runs)


def chance_beyond(t: float, degrees_of_freedom: int) -> float:
    """How likely Student's t is at least so far from zero, on either side (Abramowitz and Stegun 26.7.3 and 26.7.4).

    >>> f"{chance_beyond(2.145, 14):.4f}, {chance_beyond(12.706, 1):.4f}"
    '0.0500, 0.0500'
    """
    is_odd = degrees_of_freedom % 2
    angle = math.atan(abs(t) / math.sqrt(degrees_of_freedom))
    term, total = math.cos(angle) if is_odd else 1.0, 0.0
    for k in range(2 + is_odd, degrees_of_freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    within = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + within) if is_odd else within))


@lru_cache
def t_beyond(chance: float, degrees_of_freedom: int) -> float:
    """How far from zero Student's t is with this chance, on either side; the inverse of `chance_beyond`."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        far = math.sqrt(degrees_of_freedom) * math.tan(middle)
        low, high = (middle, high) if chance_beyond(far, degrees_of_freedom) > chance else (low, middle)
    return math.sqrt(degrees_of_freedom) * math.tan(low)
