"""Race: which of a cell's candidates go on at its rungs, decided by whole rungs alone.

Successive halving as the paper of ASHA has it (Li et al., arXiv 1810.05934): who reaches a rung pauses, and the best go
on once all are there. So what is decided doesn't depend on who came first, and nobody is stopped for good before the
cell has its number: where one that goes on fails, the next best takes its place.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sweeps.options import SweepOptions
from sweeps.planning.halving import Halving, halving_of
from sweeps.records.decisions import METRIC, Decision
from sweeps.selection.asha_rule import WORST
from sweeps.table.cells import Cell, Trial
from sweeps.table.published import is_published
from vit_trainer.files.run_dir import Row


@dataclass(frozen=True)
class Leg:
    """A part of a trial that is run in one go."""

    trial: Trial
    until: int | None = None
    """Pauses with the first validation at or after so many optimiser steps; None: runs to its end."""


def races(options: SweepOptions, trials: Iterable[Trial]) -> dict[Cell, "Race"]:
    """The race in each cell of a grid; without early stopping one that all win."""
    by_cell: dict[Cell, list[Trial]] = {}
    for trial in trials:
        by_cell.setdefault(trial.cell, []).append(trial)
    halving = halving_of(options)
    return {cell: Race(cell.name, own, halving, is_published) for cell, own in by_cell.items()}


class Race:
    """The candidates of one cell. Seeds of one recipe are one contender, which counts by their mean.

    Of a contender the first seed runs to the first rung; its others start once it goes on.
    """

    def __init__(
        self,
        group: str,
        trials: Sequence[Trial],
        halving: Halving,
        is_certain: Callable[[Trial], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            group: name of the cell.
            trials: its candidates; where values are equal, the earlier one counts as the better.
            is_certain: whether one goes on whatever the rungs say, as the published learning rate does.
        """
        self.group, self._halving = group, halving
        self._rungs = halving.steps(trials[0].cell.schedule)
        self._contenders: dict[Trial, list[Trial]] = {}
        for trial in trials:
            self._contenders.setdefault(replace(trial, seed=0), []).append(trial)
        self._certain = [contender for contender in self._contenders if is_certain(contender)]
        self._values: dict[Trial, dict[int, float]] = {trial: {} for trial in trials}
        self._statuses: dict[Trial, str] = {}
        self._legs: list[Leg] | None = None

    @property
    def trials(self) -> list[Trial]:
        return list(self._values)

    # What has happened.

    def reported(self, trial: Trial, row: Row) -> None:
        """Take in a row of a candidate's journal; the first validation at or after a rung is its value there."""
        if METRIC not in row or "step" not in row:
            return
        value = row[METRIC]
        number = float(value) if isinstance(value, int | float) and math.isfinite(value) else WORST
        for rung in self._rungs:
            if rung <= row["step"]:
                self._values[trial].setdefault(rung, number)
        self._legs = None

    def ended(self, trial: Trial, status: str) -> None:
        """A candidate has a result: `finished`, `stopped` or `failed`."""
        self._statuses[trial] = status
        self._legs = None

    # What follows.

    @property
    def legs(self) -> list[Leg]:
        """What is to be run, the most important first, also what runs already; empty once the cell has its number."""
        if self._legs is None:
            self._legs = self._find_legs()
        return self._legs

    def _find_legs(self) -> list[Leg]:
        certain = {trial: Leg(trial) for trial in self._open(self._certain)}
        *_, (rung, _, among, _) = self._stages()
        if rung is not None:
            first = [certain.pop(trial, Leg(trial, rung)) for trial in self._open(self._best_first(among), rung)]
            return first + list(certain.values())
        legs = [Leg(trial) for trial in self._open(self._best_first(among))]
        if legs or "finished" in self._statuses.values():
            return legs
        # All that went on were stopped by an earlier version of the rule, or there are none: anything is better.
        by_value = self._best_first(self._contenders)
        others = self._open(by_value) or [
            trial for each in by_value for trial in self._contenders[each] if self._statuses.get(trial) == "stopped"
        ]
        return [Leg(trial) for trial in others[:1]]

    @property
    def is_done(self) -> bool:
        return not self.legs

    def decisions(self) -> list[Decision]:
        """What the whole rungs say about each of their candidates, the same each time that it is asked."""
        return [
            self._decision(contender, rung, kept, ranked, going_on)
            for rung, kept, ranked, going_on in self._stages()
            if rung is not None and going_on
            for contender in ranked
        ]

    def shares(self) -> dict[Trial, float]:
        """The share of its schedule that each candidate is expected to run: certain once the rungs are whole."""
        *_, (rung, kept, among, _) = self._stages()
        if rung is None:
            going_on = {leg.trial for leg in self.legs}
            return {trial: float(trial in going_on) for trial in self._values}
        before, chance = rung / self.trials[0].cell.schedule.total_steps, kept / len(among)
        shares = {}
        for contender, trials in self._contenders.items():
            for trial in trials:
                to_rung = before if trial is trials[0] else chance * before
                shares[trial] = to_rung + chance * (1 - before) if contender in among else 0.0
                shares[trial] = 1.0 if contender in self._certain else shares[trial]
        return shares

    def _stages(self) -> Iterator[tuple[int | None, int, list[Trial], list[Trial]]]:
        """(rung, how many are kept, who is there by rank, who goes on): the whole rungs, then one that isn't yet.

        Nobody goes on there. Once all are whole, (None, 0, who runs to the end, nobody).
        """
        among = list(self._contenders)
        for rung in self._rungs:
            kept = self._halving.kept(len(among))
            if kept >= len(among):
                continue
            if self._open(among, rung):
                yield rung, kept, among, []
                return
            alive = [each for each in among if not self._is_out(each)]
            means = self._means(alive, rung)
            ranked = sorted(alive, key=lambda each: -round(means[each], 9))  # stable; rounded as in `choose`
            going_on = [each for each in alive if each in ranked[:kept] or each in self._certain]
            yield rung, kept, ranked, going_on
            among = going_on
        yield None, 0, among, []

    def _open(self, contenders: Iterable[Trial], rung: int | None = None) -> list[Trial]:
        """Candidates that have yet to come to a rung, or to their end."""
        at_first = rung is not None and rung == self._rungs[0]
        found = []
        for contender in contenders:
            able = [trial for trial in self._contenders[contender] if self._statuses.get(trial) != "failed"]
            for trial in able[:1] if at_first else able:
                if trial not in self._statuses and (rung is None or rung not in self._values[trial]):
                    found.append(trial)
        return found

    def _is_out(self, contender: Trial) -> bool:
        return all(self._statuses.get(trial) == "failed" for trial in self._contenders[contender])

    def _means(self, among: list[Trial], rung: int) -> dict[Trial, float]:
        """What contenders have at a rung: the mean over the seeds that all have there, or else over their own."""
        there = {
            each: {
                trial.seed: self._values[trial][rung] for trial in self._contenders[each] if rung in self._values[trial]
            }
            for each in among
        }
        shared = set.intersection(*map(set, there.values())) if there else set()
        own = {
            each: [v for seed, v in values.items() if seed in shared or not shared] for each, values in there.items()
        }
        return {each: math.fsum(values) / len(values) if values else WORST for each, values in own.items()}

    def _best_first(self, contenders: Iterable[Trial]) -> list[Trial]:
        """By what they had at their last rungs; a budget may end before all of them have run."""

        def last(contender: Trial) -> float:
            seeds = [values for trial in self._contenders[contender] if (values := self._values[trial])]
            return max((values[max(values)] for values in seeds), default=WORST)

        return sorted(contenders, key=last, reverse=True)

    def _decision(self, contender: Trial, rung: int, kept: int, ranked: list[Trial], going_on: list[Trial]) -> Decision:
        values = self._means(ranked, rung)
        rank, goes_on = ranked.index(contender) + 1, contender in going_on
        why = f"number {rank} of {len(ranked)}, of which the best {kept} {'goes' if kept == 1 else 'go'} on"
        if goes_on and rank > kept:
            why += "; as the published one it goes on too"
        return Decision(
            trial_id=self._contenders[contender][0].trial_id,
            group=self.group,
            rung=rung,
            step=rung,
            value=values[contender],
            compared=tuple(values[each] for each in ranked if each != contender),
            cutoff=values[ranked[min(kept, len(ranked)) - 1]],
            action="goes on" if goes_on else "stays paused",
            rule=f"rung of {len(ranked)} candidates at step {rung}: {METRIC} {values[contender]:.4f} is {why}",
        )
