"""PerCellASHA: one ASHA per cell as a scheduler of Ray Tune's, rebuilt from journals after a restart.

Across cells ASHA would compare CIFAR-10 with ImageNet and stop whole rows of the table. Here a candidate is compared
only with its cell's other candidates, and a cell's last live candidate is never stopped: every cell ends with a number.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.records.decisions import METRIC, Decision
from sweeps.selection.asha_rule import Rungs
from sweeps.table.cells import Cell, Trial
from vit_trainer.files.run_dir import Row

log = logging.getLogger(__name__)


class PerCellASHA(FIFOScheduler):
    """ASHA among the candidates of each cell, with rungs in optimiser steps."""

    def __init__(
        self,
        trials: Iterable[Trial],
        *,
        reduction_factor: float = 2,
        grace_fraction: float = 0.25,
        record: Callable[[Decision], None] | None = None,
    ) -> None:
        """The flags are those of SweepOptions.

        Args:
            trials: all of the sweep, also those that are done; see `replay_all` for these, `add` for later ones.
            record: called once with every decision, also with those that stop nothing.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.decisions: dict[str, Decision] = {}
        """The stops, by trial id."""
        self._reduction_factor, self._grace_fraction = reduction_factor, grace_fraction
        self._record = record
        self._groups: dict[Cell, Rungs] = {}
        self._rungs: dict[str, Rungs] = {}
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Let another candidate take part; it counts as live from now on."""
        if trial.cell not in self._groups:
            self._groups[trial.cell] = Rungs(
                trial.cell.name,
                total_steps=trial.cell.schedule.total_steps,
                reduction_factor=self._reduction_factor,
                grace_fraction=self._grace_fraction,
            )
        trial_id = trial.trial_id
        self._rungs[trial_id] = self._groups[trial.cell]
        self._rungs[trial_id].live.add(trial_id)

    def decide(self, trial_id: str, row: Row) -> bool:
        """Take a candidate's report in; whether it goes on.

        A row without METRIC or step is no validation, so nothing is decided; NaN counts as the worst value. A stopped
        candidate stays stopped; one that had failed counts as live again, since it evidently runs. Who takes no part
        goes on.
        """
        if trial_id in self.decisions or trial_id not in self._rungs:
            return trial_id not in self.decisions
        self._rungs[trial_id].live.add(trial_id)
        self._take_in(trial_id, row)
        return trial_id not in self.decisions

    def stop_of(self, trial_id: str) -> Decision | None:
        """The decision that stopped a candidate, or None."""
        return self.decisions.get(trial_id)

    def give_up(self, trial_id: str) -> None:
        """A candidate failed for good: the others of its group must go on without it."""
        if trial_id in self._rungs:
            self._rungs[trial_id].live.discard(trial_id)

    def replay_all(
        self,
        journals: Mapping[str, Sequence[Row]],
        results: Mapping[str, Mapping[str, Any] | None],
        on_record: Iterable[Decision] = (),
    ) -> list[Decision]:
        """Rebuild what the rungs held when an earlier session ended; before the first `decide`.

        What is on record stands. Reports that aren't are taken in in the order of their `time`, and recorded: a
        candidate with a later row had gone on; only a last row without a result is decided now.

        Args:
            journals: the rows of `RunDir.journal()` by trial id; unknown trials are ignored, here and below.
            results: the content of result.json by trial id, where there is one.
            on_record: the decisions of earlier sessions, in order.

        Returns:
            Stops of candidates that have no result yet: write it instead of running them.
        """
        last_steps = {trial_id: rows[-1]["step"] for trial_id, rows in journals.items() if rows}
        statuses = {trial_id: result["status"] for trial_id, result in results.items() if result is not None}
        for trial_id in self._rungs.keys() & statuses.keys():
            if statuses[trial_id] != "finished":
                self.give_up(trial_id)
        # Where a run folder is gone, what was decided about it is void: it starts anew.
        backed = [decision for decision in on_record if decision.step <= last_steps.get(decision.trial_id, -1)]
        for (trial_id, _), decision in {(decision.trial_id, decision.rung): decision for decision in backed}.items():
            if trial_id not in self._rungs:
                continue
            self._rungs[trial_id].restore(decision)
            is_last = decision.step == last_steps[trial_id]
            if decision.action == "stops" and is_last and statuses.get(trial_id, "stopped") == "stopped":
                self.decisions[trial_id] = decision
                self.give_up(trial_id)
        reports = [(row, trial_id) for trial_id, rows in journals.items() if trial_id in self._rungs for row in rows]
        for row, trial_id in sorted(reports, key=lambda report: report[0].get("time", 0.0)):
            went_on: bool | None = True
            if row["step"] == last_steps[trial_id]:
                went_on = {None: None, "stopped": False}.get(statuses.get(trial_id), True)
            self._take_in(trial_id, row, went_on=went_on)
        return [decision for trial_id, decision in self.decisions.items() if trial_id not in statuses]

    def replay(self, trial_id: str, rows: Sequence[Row], *, stopped: bool) -> None:
        """Take in what one candidate reported in an earlier session, without deciding about it again."""
        self.replay_all({trial_id: rows}, {trial_id: {"status": "stopped" if stopped else "finished"}})

    def _take_in(self, trial_id: str, row: Row, *, went_on: bool | None = None) -> None:
        if METRIC not in row or "step" not in row:
            return
        decision = self._rungs[trial_id].decide(trial_id, row["step"], row[METRIC], went_on=went_on)
        if decision is None:
            return
        if decision.action == "stops":
            self.decisions[trial_id] = decision
        if self._record is not None:
            self._record(decision)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its scheduler for Tuner.restore, which this project has no use for

    # Tune's interface, beyond what FIFOScheduler does. Its on_trial_error is no end: the trial is asked for again.

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        trial_id = trial_id_of(trial)
        try:
            self.decide(trial_id, result)
        except Exception:  # it would end the whole experiment
            log.exception("deciding about %s failed", trial_id)
        return str(TrialScheduler.STOP if trial_id in self.decisions else TrialScheduler.CONTINUE)

    def debug_string(self) -> str:
        return f"PerCellASHA: {len(self.decisions)} candidates stopped in {len(self._groups)} groups"


def trial_id_of(trial: TuneTrial) -> str:
    """Our id of a trial of Tune's: that of the assignment in its config."""
    return str(trial.config["assignment"].trial_id)
