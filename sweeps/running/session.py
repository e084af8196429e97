"""Session: one call of a sweep's command: its trials, what they have come to, and where that is written."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sweeps.display.sweep_display import SweepDisplay
from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates
from sweeps.planning.capacity import Resources, spread
from sweeps.planning.order import cheapest_first, longest_first
from sweeps.records.budget import Budget
from sweeps.records.decisions import Decision, read_decisions, record_decision
from sweeps.records.hours import hours_billed
from sweeps.records.parity import NodeParity, record_parity
from sweeps.records.slots import read_slots, record_slots
from sweeps.running.requests import ALL, ASKED_TO_END
from sweeps.selection.promotion import Leg, races
from sweeps.selection.rehearsal import is_rehearsal
from sweeps.table.cells import Cell, Trial, name_of_cell
from vit_trainer.config import Execution
from vit_trainer.errors import cause_of
from vit_trainer.files.run_dir import STOP, Result, Row, Run, RunDir
from vit_trainer.files.storage import SLOTS
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
        self.max_gang = 1
        """Slots of one trial at most, where gangs may grow."""
        self.loss = ""
        """What of Ray, or of the search, was lost, where that has ended the session."""
        self.studies: Studies | None = None
        if options.search == "optuna":
            from sweeps.selection.studies import open_studies

            self.studies = open_studies(options, name, cells)
        self.trials: dict[str, Trial] = {}
        """The sweep's trials by their ids, in the order in which they start."""
        storage = options.opened_storage
        trials = candidates(options, cells) if self.studies is None else []
        ids = storage.trial_ids() if self.studies is not None else [trial.trial_id for trial in trials]
        runs, self.left_out = storage.read_runs(ids, to_run=True)
        """Why trials' run folders are left out, by their ids; those of the sweep run anew."""
        if self.studies is not None:
            self._replay_studies(self.studies, runs)
            trials = self.studies.trials
        settled = {trial_id: options.settled(run.result) for trial_id, run in runs.items()}
        results = {trial: settled.get(trial.trial_id) for trial in trials}
        in_order = cheapest_first if options.max_gpu_hours else longest_first
        done = [trial for trial in trials if results[trial] is not None]  # has nothing to pay any more
        for trial in done + in_order([trial for trial in trials if results[trial] is None]):
            self.trials[trial.trial_id] = trial
        by_cell = {} if self.studies else races(options, trials)
        cells_in_order = dict.fromkeys(trial.cell for trial in self.trials.values())
        self._races = {cell: by_cell[cell] for cell in cells_in_order if cell in by_cell}
        self._decided = {each.trial_id: (each.rung, each.action) for each in self.decisions()} if self._races else {}
        self._sizes: dict[str, int] = {}
        """Slots of those that have grown."""
        self._whole: set[str] = set()
        """Those that run to their end, not to a rung."""
        self._growing: set[str] = set()
        """Those that are about to end where they run, to go on with more."""
        self._starts: dict[str, tuple[float, float]] = {}
        """When those that have not reported yet were started, and the time that they had run before, in seconds."""
        self._start_seconds: dict[str, float] = {}
        self._under_way: dict[str, int] = {}
        """Slots of the trials that were asked for and have neither paused nor ended."""
        self.is_asked_to_end = False
        """Whether someone has asked for the end of the sweep."""
        self._to_end: set[str] = set()
        """Those that run and were asked to end."""
        self._lost: list[Trial] = []
        """Of a search's, those whose actor was lost; they are to be asked for again."""
        self._is_searched = False
        """Whether Optuna proposes nothing now."""
        self.display = SweepDisplay(cells, self.num_expected, is_quiet=options.quiet)
        self.holding: set[str] = set()
        """Trials that hold slots now."""
        journals = {trial_id: runs[trial_id].lines if trial_id in runs else () for trial_id in self.trials}
        holds = read_slots(storage)
        billed = {trial_id: hours_billed(lines, holds.get(trial_id, ())) for trial_id, lines in journals.items()}
        self.budget = Budget(options.max_gpu_hours, billed)
        for trial_id, trial in self.trials.items():
            num_slots = options.gpus_of(trial.cell.model)
            self.display.add(trial, num_slots, journals[trial_id], holds.get(trial_id, ()))
            if (race := self._races.get(trial.cell)) is not None:
                for row in journals[trial_id]:
                    race.reported(trial, row)
            if (result := results[trial]) is not None:
                self._has_ended(trial, result)
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
    def num_expected(self) -> int:
        """Trials of the whole sweep."""
        return self.studies.num_expected if self.studies is not None else len(self.trials)

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

    def _journal(self, trial_id: str) -> list[Row]:
        run = self.options.run_of(self.trials[trial_id])
        return [] if run is None else run.journal

    def ask(self, resources: Resources, *, counts_on_more: bool = True) -> Leg | None:
        """What is to run next, if there is anything; its trial is under way from now on.

        One more than fits may wait for a slot, so that an autoscaler sees it, and no more, so that what is wanted later
        needn't wait behind them; what nodes hold that are there doesn't wait for those to come. A gang that waits has
        the next slots to itself, or single ones would take them one by one for ever; but not more than twice as many
        as it takes, should they be on nodes that can't be freed for it.

        Args:
            resources: of the cluster now.
            counts_on_more: whether gangs may be sized for nodes that are still to come.
        """
        there = resources.slots_there
        slots = resources.slots_of_nodes if counts_on_more else resources.certain_slots
        if not slots:
            return None
        free = sum(slots) - sum(map(self.slots_of, self.holding))
        waiting = [size for size in self.unplaced.values() if size > 1]
        gang_waits = any(spread(size, there) and free < 2 * size for size in waiting)
        placeable = sum(size for size in self._under_way.values() if spread(size, there))
        is_full = self.num_asked > resources.num_slots and (placeable > sum(there) or not there)
        leg = None if gang_waits or is_full else self._next_leg()
        if leg is None:
            return None
        trial_id = leg.trial.trial_id
        if leg.until is None and self.max_gang > 1 and trial_id not in self._sizes:
            self._sizes[trial_id] = self._size_to_begin(trial_id, slots)
            self.display.resized(trial_id, self._sizes[trial_id])
        if leg.until is None:
            self._whole.add(trial_id)
        self._under_way[trial_id] = self.slots_of(trial_id)
        return leg

    def _size_to_begin(self, trial_id: str, slots: Sequence[int]) -> int:
        """With so many slots a trial ends no later than all work together, or than what runs to its end already."""
        trials = self.display.standing().trials
        rests = {each.trial_id: each.work * (1 - each.step / each.total_steps) / each.num_slots for each in trials}
        running = [rests[each.trial_id] for each in trials if each.is_running and each.trial_id in self._whole]
        end = max([sum(each.work_to_come for each in trials) / sum(slots), *running])
        sizes = [n for n in self.sizes_of(trial_id) if n <= max(slots)] or [self.slots_of(trial_id)]
        return next((n for n in sizes if rests[trial_id] * sizes[0] / n <= end), sizes[-1])

    def sizes_of(self, trial_id: str) -> list[int]:
        """How many slots a trial can have: what it has, then more that divide its batch and that one node holds."""
        size, micro_batch = self.slots_of(trial_id), self.execution.micro_batch_size or 1
        batch = self.trials[trial_id].config.global_batch_size
        more = range(size + 1, self.max_gang + 1)
        return [size, *(n for n in more if batch % n == 0 and batch // n % micro_batch == 0)]

    def _next_leg(self) -> Leg | None:
        if self.studies is not None:
            trial = self._lost.pop() if self._lost else self.studies.ask()
            self._is_searched = trial is None
            if trial is None:
                return None
            if trial.trial_id not in self.trials:
                self.trials[trial.trial_id] = trial
                self.display.add(trial, self.options.gpus_of(trial.cell.model))
            return Leg(trial)
        return next(self._waiting(), None)

    def _waiting(self) -> Iterator[Leg]:
        legs = (leg for race in self._races.values() for leg in race.legs)
        return (leg for leg in legs if leg.trial.trial_id not in self._under_way)

    @property
    def has_waiting(self) -> bool:
        """Whether anything would run if there were slots for it."""
        if self.studies is not None:
            return bool(self._lost) or not self._is_searched
        return next(self._waiting(), None) is not None

    @property
    def unplaced(self) -> dict[str, int]:
        """Slots of the trials that were asked for and have none yet, by their ids."""
        return {each: size for each, size in self._under_way.items() if each not in self.holding}

    @property
    def num_asked(self) -> int:
        """Slots of all trials that were asked for and have neither paused nor ended."""
        return sum(self._under_way.values())

    @property
    def num_claimed(self) -> int:
        """Slots of trials that are about to begin, or to go on with more."""
        own = (each for each in self._under_way if each not in self.holding or each in self._growing)
        return sum(map(self.slots_of, own))

    def slots_of(self, trial_id: str) -> int:
        """GPUs, or CPU cores, that a trial takes."""
        return self._sizes.get(trial_id) or self.fewest_slots_of(trial_id)

    def fewest_slots_of(self, trial_id: str) -> int:
        """Those that its sweep gives it at least."""
        return self.options.gpus_of(self.trials[trial_id].cell.model)

    def grows(self, trial_id: str, num_slots: int) -> None:
        """A trial is about to end where it runs, and goes on with more slots."""
        self._sizes[trial_id] = num_slots
        self._growing.add(trial_id)
        self.display.resized(trial_id, num_slots)

    def ask_anew(self, trial_id: str) -> None:
        """A trial is to be asked for again, with as many slots as there are nodes for then."""
        self._under_way.pop(trial_id, None)
        self._sizes.pop(trial_id, None)
        if self.studies is not None:
            self._lost.append(self.trials[trial_id])

    def is_growing(self, trial_id: str) -> bool:
        return trial_id in self._growing

    def seconds_to_start(self, trial_id: str) -> float:
        """What a trial's last start took before its first step, as far as its first row told."""
        return self._start_seconds.get(trial_id, math.inf)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be run, now or later."""
        return (
            self._is_searched and not self._lost and not self._under_way  # who is lost is asked for again
            if self.studies is not None
            else all(race.is_done for race in self._races.values())
        )

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
        if self.studies is None and result["status"] == "stopped":
            run_dir.remove_checkpoint()
        run_dir.close()
        return result

    def started(self, trial_id: str) -> None:
        """A trial has begun, or goes on: it holds its slots."""
        if trial_id not in self._to_end:
            with suppress(OSError):
                self.run_dir(trial_id).folder.remove(STOP)  # that nobody heard of in an earlier session
        self._growing.discard(trial_id)
        num_slots = self.slots_of(trial_id)
        self.budget.started(trial_id, num_slots)
        self._starts[trial_id] = time.monotonic(), self.display.seconds(trial_id)
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
        if (start := self._starts.pop(trial_id, None)) is not None:
            trained = 3600 * row["runtime_hours"] - start[1]
            self._start_seconds[trial_id] = max(0.0, time.monotonic() - start[0] - trained)
        self.display.reported(trial_id, row)
        self.changed(self.trials[trial_id])
        if (race := self._races.get(self.trials[trial_id].cell)) is not None:
            race.reported(self.trials[trial_id], row)

    def paused(self, trial_id: str) -> None:
        """A trial waits at its rung, its state kept and its slot free."""
        self._under_way.pop(trial_id, None)
        self.display.paused(trial_id)
        self.released(trial_id)
        self.changed(self.trials[trial_id])
        self._settle(self.trials[trial_id].cell)
        if trial_id in self._to_end:  # it has paused before it could hear of that
            self.run_dir(trial_id).folder.remove(STOP)
            self.end([trial_id])

    def lost(self, trial_id: str, *, is_told: bool = False) -> None:
        """A trial's actor is gone; it goes on as soon as it is asked for again. is_told: whether it was said why."""
        self.ask_anew(trial_id)  # the node that held so many may be gone
        if not is_told:
            self.display.noted(trial_id, "its node or actor was lost; goes on from its last checkpoint")
        self.released(trial_id)

    def ended(self, trial_id: str, result: Result) -> None:
        """Show a trial's end to everyone who follows the sweep."""
        trial = self.trials[trial_id]
        self._under_way.pop(trial_id, None)
        self._has_ended(trial, result)
        self.released(trial_id)
        self.changed(trial)
        if self.studies is not None:
            try:
                self.studies.tell(trial_id, self._journal(trial_id), result)
            except Exception as error:  # an outage: the next session tells it what the run folders hold
                log.warning("the search was not told of %s: %s", trial_id, cause_of(error))
            self.display.num_trials = self.num_expected
        self._settle(trial.cell)

    def _has_ended(self, trial: Trial, result: Result) -> None:
        self.display.ended(trial.trial_id, result)
        if (race := self._races.get(trial.cell)) is not None:
            race.ended(trial, str(result["status"]))

    def end(self, what: Sequence[str]) -> None:
        """End trials and cells as someone has asked for: what runs keeps its state, what waits isn't run.

        Args:
            what: ids of trials, names of cells, or ALL.
        """
        if tuple(what) == ALL:
            self.is_asked_to_end = True
            self.display.ends()
            return
        for trial_id, trial in list(self.trials.items()):
            is_meant = trial_id in what or name_of_cell(trial.cell.as_recorded) in what
            if not is_meant or self.display.result(trial_id) is not None:
                continue
            if trial_id in self._under_way:
                self._to_end.add(trial_id)
                self.run_dir(trial_id).folder.write(STOP, b"{}")
            else:
                self.ended(trial_id, self.record(trial_id, {"status": "failed", "cause": ASKED_TO_END}))

    def settle(self) -> None:
        """Write down what follows from the run folders, should an earlier session have ended before it could."""
        for cell in self._races:
            self._settle(cell)

    def _settle(self, cell: Cell) -> None:
        """Keep what whole rungs have decided; once a cell has its number, the others of its candidates are stopped."""
        if (race := self._races.get(cell)) is None:
            return
        self.display.expects({trial.trial_id: share for trial, share in race.shares().items()})
        decisions = {decision.trial_id: decision for decision in race.decisions()}
        for decision in decisions.values():
            self._keep(decision)
        if not race.is_done:
            return
        for trial in race.trials:
            if self.display.result(trial.trial_id) is None:
                cause = "its learning rate was not among those that went on"
                if (last := decisions.get(trial.trial_id)) is not None:
                    self._keep(replace(last, action="stops"))
                    cause = last.rule
                self._has_ended(trial, self.record(trial.trial_id, {"status": "stopped", "cause": cause}))
                self.changed(trial)

    def _keep(self, decision: Decision) -> None:
        """Write a decision down, unless it is on record; who was stopped has stayed paused before."""
        before, now = self._decided.get(decision.trial_id), (decision.rung, decision.action)
        if before == now or (before == (decision.rung, "stops") and decision.action == "stays paused"):
            return
        self._decided[decision.trial_id] = now
        self.record_decision(decision)

    def replay(self, asha: "PerCellASHA") -> None:
        """Have ASHA know what an earlier session knew; what it decided and could no longer write is written now."""
        journals = {trial_id: self._journal(trial_id) for trial_id in self.trials}
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
        return read_decisions(self.options.opened_storage, self.name)[0]

    def _replay_studies(self, studies: "Studies", runs: Mapping[str, Run]) -> None:
        """Tell the studies what all run folders of the storage hold; what is damaged is to be run again."""
        from sweeps.selection.studies import PastRun

        past = {key: PastRun(run.config, run.journal, self.options.settled(run.result)) for key, run in runs.items()}
        damaged = [trial for trial in studies.trials if trial.trial_id in self.left_out]
        studies.replay(past | {trial.trial_id: PastRun(trial.config.to_dict(), (), None) for trial in damaged})
