"""Halving: where the rungs of a cell's candidates are, how many go on there, and what share of the work that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sweeps.options import SweepOptions
from sweeps.table.cells import Schedule, Trial
from sweeps.table.published import is_published


@dataclass(frozen=True)
class Halving:
    """Where rungs are, and how many go on there."""

    grace_fraction: float = 0.25
    """The first rung, as a fraction of the schedule."""
    reduction_factor: float = 2
    """One contender in so many goes on, at least one; the next rung is so many times later."""
    num_rungs: int = 1
    """Rungs at most."""

    def steps(self, schedule: Schedule) -> list[int]:
        """The rungs as optimiser steps, in order.

        >>> Halving(num_rungs=3).steps(Schedule(80, 0))
        [20, 40]
        """
        return rungs_of(schedule.total_steps, self.reduction_factor, self.grace_fraction)[: self.num_rungs]

    def kept(self, num_contenders: int) -> int:
        """How many of so many go on."""
        return max(1, int(num_contenders / self.reduction_factor))

    def share(self, num_contenders: int, *, num_certain: int = 0, num_seeds: int = 1) -> float:
        """The share of a cell's work that is expected to be run.

        Args:
            num_contenders: those that compete.
            num_certain: how many go on whatever the rungs say, each as likely as any other to be among the best.
            num_seeds: of each contender; those beyond the first run if it goes on.

        >>> Halving().share(4), Halving().share(4, num_certain=1), Halving().share(4, num_seeds=2)
        (0.625, 0.71875, 0.5625)
        """
        work, among, before = 0.0, num_contenders, 0.0
        rungs = [step / 1_000_000 for step in self.steps(Schedule(1_000_000, 0))]
        for rung in rungs:
            work += among * (rung - before)
            among, before = min(among, self.kept(among)), rung
        extra = num_certain * (1 - among / num_contenders)
        work += among * (1 - before) + extra * (1 - rungs[0] if rungs else 0)
        return (work + (among + extra) * (num_seeds - 1)) / num_contenders / num_seeds


def expected_range(candidates: Sequence[Trial], halving: Halving) -> tuple[float, float]:
    """The share of a cell's work that its rungs are expected to leave.

    Low: the best alone go on. High: so does the published rate where it isn't one of them.
    """
    contenders = dict.fromkeys(replace(trial, seed=0) for trial in candidates)
    num, num_seeds = len(contenders), max(1, len(candidates) // len(contenders))
    certain = sum(map(is_published, contenders))
    return halving.share(num, num_seeds=num_seeds), halving.share(num, num_certain=certain, num_seeds=num_seeds)


def halving_of(options: SweepOptions) -> Halving:
    """What a sweep's flags say; without early stopping there are no rungs."""
    num_rungs = options.num_rungs if options.early_stopping == "asha" else 0
    return Halving(options.grace_fraction, options.reduction_factor, num_rungs)


def rungs_of(total_steps: int, reduction_factor: float, grace_fraction: float) -> list[int]:
    """Optimiser steps of rungs: at grace_fraction of total_steps, then each reduction_factor times the one before."""
    rungs, rung = set(), float(max(1, _ceil(grace_fraction * total_steps)))
    while rung < total_steps:
        rungs.add(_ceil(rung))
        rung *= reduction_factor
    return sorted(rungs)


def _ceil(steps: float) -> int:
    return math.ceil(round(steps, 6))  # 0.07 * 100 is 7.000000000000001
