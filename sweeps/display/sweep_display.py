"""SweepDisplay: what one sees of a sweep while it runs, and its table at the end."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import TracebackType

from rich.console import Console, RenderableType

from sweeps.display.final_table import final_table
from sweeps.display.live_table import LiveTable, Screen, is_interactive, summary_lines, time_left
from sweeps.display.standing import Event, Standing, TrialProgress
from sweeps.records.cell_record import CellRecord
from sweeps.records.slots import Hold
from sweeps.table.cells import Cell, Trial
from vit_trainer.files.outgoing import canvas, outgoing
from vit_trainer.files.run_dir import Result, Row

SECONDS_TO_SUMMARY, SECONDS_BETWEEN_SUMMARIES = 60.0, 600.0
"""When the log says how the sweep stands, where there is no live table: at the next report after that, then after twice
the time, at last so often."""
MAX_EVENTS = 20
ENDS = "keeping states, at most 30 s; Ctrl-C again to leave now"


@dataclass
class SweepDisplay(AbstractContextManager["SweepDisplay"]):
    """Follows the trials of a sweep: a live table in a terminal, a line per event elsewhere and in CI."""

    cells: list[Cell]
    """Entries of the table."""
    num_trials: int
    """Trials of the whole sweep, those included that `add` has yet to be called with."""
    is_quiet: bool = False
    """Whether to show nothing until the table at the end."""
    console: Console = field(default_factory=lambda: Console(file=canvas(sys.stdout), highlight=False))
    clock: Callable[[], float] = time.time
    """Unix seconds."""

    def __post_init__(self) -> None:
        self._progress: dict[str, TrialProgress] = {}
        self._earlier: list[TrialProgress] = []
        self._events: tuple[Event, ...] = ()
        self._live: LiveTable | None = None
        self._phase, self._ends_at, self._awaits = "", math.inf, ""
        self._on_gpus, self._num_slots = False, 0
        self._summary_at = self.clock() + SECONDS_TO_SUMMARY
        self._until_summary = SECONDS_TO_SUMMARY
        self._left, self._left_at = "", -1.0
        self._num_done = 0
        """Trials with a result."""

    def __enter__(self) -> "SweepDisplay":
        if not self.is_quiet and is_interactive(self.console):
            self._live = LiveTable(self.console, self.standing)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase = ""
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None
            if self._num_done < self.num_trials:
                self.console.print(Screen(self.standing()))  # it ended early: no table comes after this

    # Events.

    def connected(self, num_slots: int, *, on_gpus: bool) -> None:
        """The cluster is there, with so many GPUs, or else CPU cores, for trials."""
        self._num_slots, self._on_gpus = num_slots, on_gpus

    def ends(self) -> None:
        """The sweep was asked to end: no time runs down any more."""
        self._phase, self._ends_at = ENDS, self.clock()
        if self._live is None:
            print(ENDS, file=sys.stderr, flush=True)

    def add(self, trial: Trial, num_slots: int = 1, lines: Iterable[Row] = (), holds: Sequence[Hold] = ()) -> None:
        """Let a trial take part.

        Args:
            num_slots: GPUs, or CPU cores, that it takes.
            lines: of its journal, from earlier sessions.
            holds: of its slots, from earlier sessions.
        """
        self._progress[trial.trial_id] = TrialProgress(trial, trial.trial_id, num_slots=num_slots).after(lines, holds)

    def remember_earlier(self, records: Iterable[CellRecord]) -> None:
        """Have the other candidates of a cell that have ended count too: those of the sweep's earlier commands."""
        own = {cell.as_recorded: cell for cell in self.cells}
        self._earlier = [
            TrialProgress(replace(each.trial, cell=own[record.cell]), each.trial_id).ended(each.result)
            for record in records
            for each in record.trials
            if record.cell in own and each.result is not None
        ]

    def started(self, trial_id: str) -> None:
        """A trial has begun, or goes on."""
        progress = self._progress[trial_id]
        self._progress[trial_id] = progress.began(self.clock())
        self._num_done -= progress.result is not None
        self._remember(trial_id, f"goes on after step {progress.step}" if progress.step else "started")

    def released(self, trial_id: str) -> None:
        """A trial has no process any more, and no slots."""
        self._progress[trial_id] = self._progress[trial_id].released(self.clock())

    def starts_again(self, trial_id: str) -> None:
        """A trial's process has ended, and another one starts in its place."""
        self._progress[trial_id] = replace(self._progress[trial_id], is_starting=True)

    def stepped(self, trial_id: str) -> None:
        """The process of a trial has taken its first step."""
        self._progress[trial_id] = self._progress[trial_id].stepped(self.clock())

    def reported(self, trial_id: str, row: Row) -> None:
        """A trial has validated."""
        self._progress[trial_id] = self._progress[trial_id].reported(row)
        if self.clock() >= self._summary_at:
            self._until_summary = min(2 * self._until_summary, SECONDS_BETWEEN_SUMMARIES)
            self._summary_at = self.clock() + self._until_summary
            self._say("; ".join(summary_lines(self.standing())))

    def paused(self, trial_id: str) -> None:
        """A trial waits at its rung for the others of its cell."""
        progress = self._progress[trial_id] = replace(self._progress[trial_id], is_running=False, is_paused=True)
        text = f"paused at step {progress.step}"
        self._remember(trial_id, text)
        self._say(f"{trial_id}: {text}")

    def expects(self, shares: Mapping[str, float]) -> None:
        """How much of its schedule each of some trials is expected to run, by trial id."""
        for trial_id, share in shares.items():
            self._progress[trial_id] = replace(self._progress[trial_id], expected_share=share)

    def resized(self, trial_id: str, num_slots: int) -> None:
        """A trial begins or goes on with another number of GPUs, or CPU cores."""
        if num_slots != (before := self._progress[trial_id].num_slots):
            why = "so as not to end last" if num_slots > before else "for want of larger nodes"
            self._progress[trial_id] = self._progress[trial_id].resized(num_slots)
            self.noted(trial_id, f"on {num_slots} {'GPUs' if self._on_gpus else 'slots'}, {why}")

    def seconds(self, trial_id: str) -> float:
        """How long a trial has run, as far as its journal says."""
        return self._progress[trial_id].seconds

    def noted(self, trial_id: str, note: str) -> None:
        """Something that a watcher should know, such as a retry."""
        self._remember(trial_id, note)
        self._say(f"{trial_id}: {note}")

    def awaits(self, line: str) -> None:
        """Which nodes don't come, in a line that stays; empty: none is waited for."""
        self._awaits = line

    def told(self, line: str) -> None:
        """Something to keep, such as a link: it stays above the live table, and is broken nowhere."""
        self.console.print(outgoing(line), soft_wrap=True, markup=False, highlight=False)

    def warned(self, line: str) -> None:
        """Something about the whole sweep that whoever waits for it has to know, even if nothing is shown."""
        self._events = (*self._events, Event(self.clock(), line))[-MAX_EVENTS:]
        print(line, file=sys.stderr, flush=True)

    def ended(self, trial_id: str, result: Result) -> None:
        """A trial has its result, now or since an earlier session."""
        before = self._progress[trial_id]
        self._progress[trial_id] = before.released(self.clock()).ended(result)
        self._num_done += before.result is None
        if before.is_running:
            self._remember(trial_id, outcome(result))
            self._say(f"[{self._num_done}/{self.num_trials}] {trial_id}: {outcome(result)}; {self._time_left()}")

    def _remember(self, trial_id: str, text: str) -> None:
        self._events = (*self._events, Event(self.clock(), f"{trial_id}: {text}"))[-MAX_EVENTS:]

    def _time_left(self) -> str:
        """In words; worked out once a second at most, since it looks at every trial of the sweep."""
        if self._num_done >= self.num_trials:
            return "all done"
        if self.clock() >= self._left_at + 1:
            self._left_at, self._left = self.clock(), time_left(self.standing())
        return self._left

    def _say(self, line: str) -> None:
        if not self.is_quiet and self._live is None:
            self.console.print(outgoing(line), soft_wrap=True, markup=False)

    # Views.

    def standing(self) -> Standing:
        """How the sweep stands now; may be asked for in any thread."""
        return Standing(
            cells=tuple(self.cells),
            trials=tuple(self._progress.values()),
            num_expected=self.num_trials,
            now=min(self.clock(), self._ends_at),
            on_gpus=self._on_gpus,
            num_slots=self._num_slots or None,
            events=self._events,
            phase=self._phase,
            awaits=self._awaits,
            also=tuple(each for each in self._earlier if each.trial_id not in self._progress),
        )

    def result(self, trial_id: str) -> Result | None:
        """What a trial has come to, or None while it hasn't."""
        return self._progress[trial_id].result

    def table(self, records: Iterable[CellRecord] = ()) -> RenderableType:
        """What the cells came to, as `final_table`."""
        return final_table(self.standing(), records, self.console)


def outcome(result: Result) -> str:
    """A result in words."""
    if result["status"] == "finished":
        return f"test {100 * result['test/accuracy']:.2f}%"
    return f"{result['status']} ({result.get('cause')})"
