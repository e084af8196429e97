"""Session: one call of a sweep's command: its trials, what they have come to, and where that is written."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sweeps.display.sweep_display import SweepDisplay
from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates
from sweeps.planning.order import cheapest_first, longest_first
from sweeps.records.budget import Budget
from sweeps.records.decisions import Decision, read_decisions, record_decision
from sweeps.records.hours import hours_billed
from sweeps.records.parity import NodeParity, record_parity
from sweeps.records.slots import read_slots, record_slots
from sweeps.selection.rehearsal import is_rehearsal
from sweeps.table.cells import Cell, Trial
from vit_trainer.config import Execution
from vit_trainer.errors import cause_of
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.files.storage import DECISIONS, SLOTS
from vit_trainer.loop.repeatable import require_same

if TYPE_CHECKING:
    from sweeps.selection.asha_scheduler import PerCellASHA
    from sweeps.selection.studies import Studies

log = logging.getLogger(__name__)


class Session:
    """Knows every trial of the sweep: those of the grid, or those that Optuna has proposed so far."""

    def __init__(
        self, name: str, cells: list[Cell], options: SweepOptions, execution: Execution, ship: Callable[[Trial], None]
    ) -> None:
        """Reads the run folders, which are the truth.

        Args:
            cells: those of the table, each with its candidates.
            ship: called with each trial about which there is something new to show.

        Raises:
            InputError: a candidate makes no sense, a run folder is damaged, the Optuna storage can't be used, or a
                deterministic trial would go on otherwise than it began.
        """
        self.name, self.cells, self.options, self.execution, self.changed = name, cells, options, execution, ship
        self.loss = ""
        """What of Ray was lost, where that has ended the session."""
        self.studies: Studies | None = None
        if options.search == "optuna":
            from sweeps.selection.studies import open_studies

            self.studies = open_studies(options, name, cells)
        self.trials: dict[str, Trial] = {}
        """The sweep's trials by their ids, in the order in which they start."""
        if self.studies is not None:
            self.studies.replay(self._runs())
            trials = self.studies.trials
        else:
            trials = candidates(options, cells)
        results = {trial: options.settled(options.run_dir(trial).result()) for trial in trials}
        in_order = cheapest_first if options.max_gpu_hours else longest_first
        done = [trial for trial in trials if results[trial] is not None]  # has nothing to pay any more
        for trial in done + in_order([trial for trial in trials if results[trial] is None]):
            self.trials[trial.trial_id] = trial
        self.num_expected = options.num_trials_per_cell * len(cells) if self.studies is not None else len(self.trials)
        """Trials of the whole sweep."""
        self.display = SweepDisplay(cells, self.num_expected, is_quiet=options.quiet)
        self.holding: set[str] = set()
        """Trials that hold slots now."""
        journals = {trial_id: self.run_dir(trial_id).lines() for trial_id in self.trials}
        holds = read_slots(options.opened_storage)
        billed = {trial_id: hours_billed(lines, holds.get(trial_id, ())) for trial_id, lines in journals.items()}
        self.budget = Budget(options.max_gpu_hours, billed)
        for trial_id, trial in self.trials.items():
            num_slots = options.gpus_of(trial.cell.model)
            self.display.add(trial, num_slots, journals[trial_id], holds.get(trial_id, ()))
            if (result := results[trial]) is not None:
                self.display.ended(trial.trial_id, result)
            elif execution.deterministic:
                require_same(
                    journals[trial.trial_id],
                    {"num_processes": options.gpus_of(trial.cell.model)}
                    | ({"micro_batch_size": size} if (size := execution.micro_batch_size) else {}),
                )

    @property
    def pending(self) -> list[Trial]:
        """Trials without a result that stands, in the order in which they start."""
        return [trial for trial_id, trial in self.trials.items() if self.display.result(trial_id) is None]

    @property
    def num_done(self) -> int:
        return len(self.trials) - len(self.pending)

    def counts(self) -> dict[str, int]:
        """Trials by what they have come to: finished, stopped, failed, or unfinished."""
        results = [self.display.result(trial_id) for trial_id in self.trials]
        return dict(Counter("unfinished" if result is None else str(result["status"]) for result in results))

    def has_failed(self, cell: Cell) -> bool:
        """Whether a cell is left without a number: all of its trials have ended, and none finished."""
        results = [self.display.result(trial_id) for trial_id, trial in self.trials.items() if trial.cell == cell]
        num_expected = self.options.num_trials_per_cell if self.studies is not None else len(results)
        ended = [result for result in results if result is not None]
        return len(ended) >= num_expected and all(result["status"] != "finished" for result in ended)

    def run_dir(self, trial_id: str) -> RunDir:
        return self.options.run_dir(self.trials[trial_id])

    def ask(self) -> Trial | None:
        """The next trial that Optuna proposes, or None if each cell has its number of them."""
        assert self.studies is not None
        trial = self.studies.ask()
        if trial is not None and trial.trial_id not in self.trials:
            self.trials[trial.trial_id] = trial
            self.display.add(trial, self.options.gpus_of(trial.cell.model))
        return trial

    def record(self, trial_id: str, result: dict[str, Any]) -> dict[str, Any]:
        """Write a result for a trial whose own process stands still or is gone; returns it with the last metrics."""
        run_dir = self.run_dir(trial_id)
        run_dir.open_for_writing(self.trials[trial_id].config.to_dict())
        journal = run_dir.journal()
        last = journal[-1] if journal else {}
        metrics: dict[str, Any] = {
            key: last[key] for key in ("val/accuracy", "train/loss", "runtime_hours", "gpu_hours") if key in last
        }
        result = {"step": last.get("step", 0), **metrics, **result}
        run_dir.write_result(result)
        run_dir.close()
        return result

    def started(self, trial_id: str) -> None:
        """A trial has begun, or goes on: it holds its slots."""
        num_slots = self.options.gpus_of(self.trials[trial_id].cell.model)
        self.budget.started(trial_id, num_slots)
        self.display.started(trial_id)
        self.holding.add(trial_id)
        self._record_slots(trial_id, num_slots)

    def released(self, trial_id: str) -> None:
        """A trial holds no slots any more, with or without a result."""
        self.budget.ended(trial_id)
        self.display.released(trial_id)
        if trial_id in self.holding:
            self.holding.remove(trial_id)
            self._record_slots(trial_id, 0)

    def _record_slots(self, trial_id: str, num_slots: int) -> None:
        try:
            record_slots(self.options.opened_storage, self.name, trial_id, num_slots)
        except OSError as error:  # an outage: of this time the journal alone will tell
            log.warning("%s not written: %s", SLOTS, cause_of(error))

    def reported(self, trial_id: str, row: Row) -> None:
        """A trial has validated."""
        self.budget.reported(trial_id, row)
        self.display.reported(trial_id, row)
        self.changed(self.trials[trial_id])

    def ended(self, trial_id: str, result: dict[str, Any]) -> None:
        """Show a trial's end to everyone who follows the sweep."""
        self.display.ended(trial_id, result)
        self.released(trial_id)
        self.changed(self.trials[trial_id])
        if self.studies is not None:
            self.studies.tell(trial_id, self.run_dir(trial_id).journal(), result)

    def replay(self, asha: "PerCellASHA") -> None:
        """Have ASHA know what an earlier session knew; what it decided and could no longer write is written now."""
        journals = {trial_id: self.run_dir(trial_id).journal() for trial_id in self.trials}
        results = {trial_id: self.display.result(trial_id) for trial_id in self.trials}
        at_rungs = [decision for decision in self.decisions() if not is_rehearsal(decision)]
        for decision in asha.replay_all(journals, results, at_rungs):
            result = self.record(decision.trial_id, {"status": "stopped", "cause": decision.rule})
            self.ended(decision.trial_id, result)

    def record_decision(self, decision: Decision) -> None:
        """Keep what was decided at a rung, and from what."""
        record_decision(self.options.opened_storage, self.name, decision)

    def record_parity(self, found: list[NodeParity]) -> None:
        """Keep what nodes came to that were compared with the official code."""
        record_parity(self.options.opened_storage, self.name, found)

    def decisions(self) -> list[Decision]:
        """What this sweep's sessions have decided, in order; a line that a crash tore is passed over."""
        decisions, num_damaged = read_decisions(self.options.opened_storage, self.name)
        if num_damaged:
            log.warning("passed over %d damaged lines of %s", num_damaged, DECISIONS)
        return decisions

    def _runs(self) -> dict[str, Any]:
        """All run folders of the storage, as the studies want to be told of them."""
        from sweeps.selection.studies import PastRun

        runs = {}
        for run_dir in self.options.opened_storage.run_dirs():
            if (config := run_dir.config()) is not None:
                runs[run_dir.trial_id] = PastRun(config, run_dir.journal(), self.options.settled(run_dir.result()))
        return runs
