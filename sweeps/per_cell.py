"""PerCellASHA: one ASHA per cell behind Tune's scheduler interface, every decision on record.

Across cells ASHA would compare CIFAR-10 with ImageNet and stop whole rows of the table. Here a candidate is compared
only with its cell's other candidates, and a cell's last live candidate is never stopped: every cell ends with a number.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from sweeps.cells import Cell, Trial
from sweeps.trainable import Assignment
from vit_trainer.run_dir import Row

METRIC = "val/accuracy"
REDUCTION_FACTOR = 2
"""Of the candidates at a rung, about 1 in 2 goes on."""
GRACE_FRACTION = 0.25
"""No candidate is stopped before this fraction of its steps."""


@dataclass(frozen=True)
class Decision:
    """Why a candidate was stopped."""

    trial_id: str
    step: int
    value: float
    compared: tuple[float, ...]
    """What the cell's earlier candidates had at the same rung."""

    @property
    def rule(self) -> str:
        """One line for result.json."""
        others = ", ".join(f"{value:.4f}" for value in sorted(self.compared, reverse=True))
        return f"ASHA at step {self.step}: {METRIC} {self.value:.4f} is below the better half of this cell's {others}"


@dataclass(frozen=True)
class _Candidate:
    """What Ray's scheduler looks at in a trial; our ids, since Ray's change when a sweep is run again."""

    trial_id: str


@dataclass
class _CellState:
    asha: Any
    """An AsyncHyperBandScheduler, which looks at no more of a trial than a _Candidate has."""
    live: dict[str, _Candidate] = field(default_factory=dict)
    """Candidates that may still end with a number: waiting, running or finished."""


class PerCellASHA(FIFOScheduler):
    """Ray's AsyncHyperBandScheduler, once per cell, with rungs in optimiser steps."""

    def __init__(self, trials: list[Trial]) -> None:
        """trials: all of the sweep, also those that are done; see `replay` for these."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.decisions: dict[str, Decision] = {}
        self._trials = {trial.trial_id: trial for trial in trials}
        self._cells: dict[Cell, _CellState] = {}
        for trial_id, trial in self._trials.items():
            if trial.cell not in self._cells:
                self._cells[trial.cell] = _CellState(_asha(trial.cell.schedule.total_steps))
            candidate = _Candidate(trial_id)
            self._cells[trial.cell].live[trial_id] = candidate
            self._cells[trial.cell].asha.on_trial_add(None, candidate)

    def decide(self, trial_id: str, row: Row) -> bool:
        """Take a candidate's report in; whether it goes on. NaN and missing metrics count as the worst value."""
        trial = self._trials[trial_id]
        cell = self._cells[trial.cell]
        if row["step"] >= trial.cell.schedule.total_steps or trial_id not in cell.live:
            return True
        value = row.get(METRIC)
        value = -math.inf if value is None or math.isnan(value) else float(value)
        rungs = cell.asha._brackets[0]._rungs
        open_rungs = {step: tuple(recorded.values()) for step, recorded in rungs if trial_id not in recorded}
        action = cell.asha.on_trial_result(None, cell.live[trial_id], {"step": row["step"], METRIC: value})
        if action != TrialScheduler.STOP or len(cell.live) == 1:
            return True
        reached = next(step for step, recorded in rungs if trial_id in recorded and step in open_rungs)
        self.decisions[trial_id] = Decision(trial_id, row["step"], value, open_rungs[reached])
        del cell.live[trial_id]
        return False

    def replay(self, trial_id: str, rows: list[Row], *, stopped: bool) -> None:
        """Take in what a candidate reported in an earlier session, without deciding about it again."""
        cell = self._cells[self._trials[trial_id].cell]
        candidate = cell.live[trial_id]
        for row in rows:
            if METRIC in row and row["step"] < self._trials[trial_id].cell.schedule.total_steps:
                cell.asha.on_trial_result(None, candidate, {"step": row["step"], METRIC: row[METRIC]})
        if stopped:
            del cell.live[trial_id]

    def give_up(self, trial_id: str) -> None:
        """A candidate failed: the others of its cell must go on without it."""
        self._cells[self._trials[trial_id].cell].live.pop(trial_id, None)

    # Tune's interface, beyond what FIFOScheduler does.

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        if "step" not in result:
            return str(TrialScheduler.CONTINUE)
        goes_on = self.decide(trial_id_of(trial), result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        self.give_up(trial_id_of(trial))

    def debug_string(self) -> str:
        return f"PerCellASHA: {len(self.decisions)} candidates stopped in {len(self._cells)} cells"


def trial_id_of(trial: TuneTrial) -> str:
    """Our id of a trial of Tune's."""
    assignment = trial.config["assignment"]
    assert isinstance(assignment, Assignment)
    return assignment.config.trial_id


def _asha(total_steps: int) -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(
        time_attr="step",
        metric=METRIC,
        mode="max",
        max_t=total_steps + 1,  # the last report is the result, not a rung
        grace_period=max(1, math.ceil(GRACE_FRACTION * total_steps)),
        reduction_factor=REDUCTION_FACTOR,
    )
