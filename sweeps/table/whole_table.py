"""WholeTable: what the verdicts of many cells say together. The method and its error rates: docs/verdict.md."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeps.table.spread import Kind, t_beyond
from sweeps.table.verdict import SIGNIFICANCE, Status, Verdict


@dataclass(frozen=True)
class MeanDifference:
    """How far a data set's cells are from their published figures on average. Accuracies are fractions."""

    difference: float
    """Mean over the cells of ours minus the published."""
    interval_90: tuple[float, float]
    """Where the true mean difference is, with 90% confidence."""
    is_within: bool
    """Whether the interval lies within the margin: wrong in at most 5% of cases."""


@dataclass(frozen=True)
class WholeTable:
    """What the verdicts of many cells say together."""

    differs: tuple[bool, ...]
    """Of each cell, whether it is shown to differ: a wrong one among all cells in at most 5% of tables."""
    means: dict[Kind, MeanDifference]
    """Of the cells of each kind, which have one spread and one margin."""
    counts: Counter[Status]
    """How many cells have each status, one by one."""


def whole_table(verdicts: Sequence[tuple[Kind, Verdict]]) -> WholeTable:
    """What verdicts, each with the kind of its cell, say together."""
    groups: dict[Kind, list[Verdict]] = {}
    for kind, verdict in verdicts:
        groups.setdefault(kind, []).append(verdict)
    return WholeTable(
        differs=tuple(holm([verdict.p_value for _, verdict in verdicts])),
        means={kind: mean_difference(own) for kind, own in groups.items()},
        counts=Counter(verdict.status for _, verdict in verdicts),
    )


def holm(p_values: Sequence[float], significance: float = SIGNIFICANCE) -> list[bool]:
    """Which hypotheses are rejected, so that any true one is among them with this chance at most (Holm 1979).

    >>> holm([0.02, 0.001, 0.03, 0.9])
    [False, True, False, False]
    """
    rejected = [False] * len(p_values)
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > significance / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def mean_difference(verdicts: Iterable[Verdict]) -> MeanDifference:
    """The mean over cells of one spread and margin, by two one-sided t tests as for one cell."""
    own = list(verdicts)
    difference = math.fsum(verdict.difference for verdict in own) / len(own)
    error = math.sqrt(math.fsum(verdict.error**2 for verdict in own)) / len(own)
    half = t_beyond(2 * SIGNIFICANCE, own[0].spread.degrees_of_freedom) * error
    return MeanDifference(difference, (difference - half, difference + half), abs(difference) + half < own[0].margin)
