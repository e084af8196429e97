"""Rehearsal: a cell's candidates are ranked by complete short schedules, and the best then run whole.

Early rungs of a long schedule mislead: high rates look bad until they decay. A rehearsal has its own warm-up and decay.
It is a sweep of its own, so that it resumes, reports and shares trials as every sweep does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates
from sweeps.records.decisions import METRIC, Decision, read_decisions, record_decision
from sweeps.records.hours import hours_billed
from sweeps.records.slots import read_slots
from sweeps.table.cells import Cell, Schedule, Trial
from sweeps.table.published import is_published
from vit_trainer.errors import InputError
from vit_trainer.files.schema import UNFINISHED

REHEARSAL_STEPS = 500
"""The published short schedule; a quarter of a schedule that has less than four times that."""


def is_rehearsal(decision: Decision) -> bool:
    """Whether a decision was made by a rehearsal, not at a rung."""
    return decision.rule.startswith("rehearsal of ")


def short(schedule: Schedule) -> Schedule:
    """A schedule's rehearsal: with a tenth of its steps as warm-up, as the published 500 steps have 50.

    >>> short(Schedule(10_000, 500))
    Schedule(total_steps=500, warmup_steps=50, global_batch_size=512)
    """
    steps = max(1, min(REHEARSAL_STEPS, schedule.total_steps // 4))
    return replace(schedule, total_steps=steps, warmup_steps=min(schedule.warmup_steps, steps // 10))


@dataclass(frozen=True)
class FixedRates(SweepOptions):
    """A sweep's flags, but for learning rates that were found for each cell."""

    rates: Mapping[Cell, tuple[float, ...]] = field(default_factory=dict)

    def base_lrs_of(self, cell: Cell) -> tuple[float, ...]:
        return self.rates[cell]

    @property
    def selection(self) -> str:
        return "rehearsal"


class Rehearsal:
    """What is rehearsed of a sweep, and what comes of it."""

    def __init__(self, name: str, cells: Sequence[Cell], options: SweepOptions) -> None:
        """
        Args:
            name: of the sweep.
            cells: those of the sweep; one with no more learning rates than are kept needs no rehearsal.

        Raises:
            InputError: Optuna proposes the candidates.
        """
        if options.search == "optuna":
            raise InputError("--early-stopping rehearsal ranks the candidates of a grid: leave --search optuna out")
        self._sweep, self._options = name, options
        self._rates = {cell: options.base_lrs_of(cell) for cell in cells}
        self._short = {
            cell: replace(cell, schedule=short(cell.schedule))
            for cell, rates in self._rates.items()
            if len(rates) > options.keep
        }
        self.name = f"{name}-rehearsal"
        """Name of the sweep that runs it."""
        self.cells = list(self._short.values())
        """Cells of the sweep that runs it."""
        self.options = self._fixed({self._short[cell]: self._rates[cell] for cell in self._short}, register=False)
        """Flags of the sweep that runs it; what is registered is a cell's whole trial."""

    def _fixed(self, rates: Mapping[Cell, tuple[float, ...]], **changes: object) -> FixedRates:
        values = {each.name: getattr(self._options, each.name) for each in fields(SweepOptions)}
        return FixedRates(**values | {"early_stopping": None, "rates": rates} | changes)

    @property
    def trials(self) -> list[Trial]:
        """The short ones."""
        return candidates(self.options, self.cells)

    @property
    def is_over(self) -> bool:
        """Whether every short trial has come to its end, a failure being one, a stop by another sweep not."""
        runs = [self.options.run_of(trial) for trial in self.trials]
        return all(run is not None and run.status not in (UNFINISHED, "stopped") for run in runs)

    def accuracies(self, cell: Cell) -> dict[float, float | None]:
        """What each learning rate of a cell of the sweep reached in its rehearsal.

        Validation accuracy at the last step, the mean over seeds; None where a seed failed or hasn't ended.
        """
        found: dict[float, float | None] = {}
        for base_lr in self._rates[cell]:
            values = [self._accuracy(Trial(self._short[cell], base_lr, seed)) for seed in self._options.seeds]
            known = [value for value in values if value is not None]
            found[base_lr] = sum(known) / len(known) if len(known) == len(values) else None
        return found

    def _accuracy(self, trial: Trial) -> float | None:
        run = self.options.run_of(trial)
        return float((run.result or {})[METRIC]) if run is not None and run.status == "finished" else None

    def best(self, cell: Cell) -> tuple[float, ...]:
        """The learning rates that a cell of the sweep goes on with; none if none of its rehearsals finished.

        The best `--keep` of them, and the published one where there is a figure to compare with.
        """
        if cell not in self._short:
            return self._rates[cell]
        known = {rate: value for rate, value in self.accuracies(cell).items() if value is not None}
        ranked = sorted(known, key=lambda rate: -known[rate])
        return self._kept(cell, ranked)

    def _kept(self, cell: Cell, ranked: Sequence[float]) -> tuple[float, ...]:
        """Of rates in their order the first `--keep`, and the published one."""
        return tuple(
            rate for i, rate in enumerate(ranked) if i < self._options.keep or is_published(Trial(cell, rate, seed=0))
        )

    def whole(self) -> tuple[list[Cell], SweepOptions]:
        """The cells that can go on once the rehearsal is over, and their flags; a budget is what is left of it."""
        best = {cell: rates for cell in self._rates if (rates := self.best(cell))}
        limit = self._options.max_gpu_hours
        if limit is not None:
            holds = read_slots(self._options.opened_storage)
            runs = [run for trial in self.trials if (run := self.options.run_of(trial)) is not None]
            used = [hours_billed(run.lines, holds.get(run.trial_id, ())) for run in runs]
            limit = max(limit - sum(used), 1e-9)
        return list(best), self._fixed(best, max_gpu_hours=limit)

    def planned(self) -> list[Trial]:
        """What a plan counts: the short trials, and of each cell those that are kept, once per seed."""
        whole = {cell: self.best(cell) or self._kept(cell, rates) for cell, rates in self._rates.items()}
        return self.trials + [
            Trial(cell, rate, seed) for cell, rates in whole.items() for rate in rates for seed in self._options.seeds
        ]

    def record(self) -> None:
        """Write down what was decided about each candidate and from what, unless it stands there."""
        storage = self._options.opened_storage
        on_record = set(read_decisions(storage, self._sweep)[0])
        for cell in self._short:
            for decision in self._decisions(cell):
                if decision not in on_record:
                    record_decision(storage, self._sweep, decision)

    def _decisions(self, cell: Cell) -> list[Decision]:
        steps, accuracies, best = self._short[cell].schedule.total_steps, self.accuracies(cell), self.best(cell)
        if not best:
            return []
        highest, decisions = max(value for value in accuracies.values() if value is not None), []
        for rate, value in accuracies.items():
            said = "no number" if value is None else f"{value:.4f}"
            goes_on = ", ".join(f"{accuracies[other]:.4f} of base_lr {other:g}" for other in best)
            end = "among those that go on" if rate in best else f"not among those that go on: {goes_on}"
            decisions.append(
                Decision(
                    Trial(cell, rate, self._options.seeds[0]).trial_id,
                    cell.name,
                    rung=steps,
                    step=steps,
                    value=value,
                    compared=tuple(other for other_rate, other in accuracies.items() if other_rate != rate),
                    cutoff=highest,
                    action="goes on" if rate in best else "stops",
                    rule=f"rehearsal of {steps} steps: {METRIC} {said} is {end}",
                )
            )
        return decisions
