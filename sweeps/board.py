"""Board: what one sees of a sweep while it runs, and its table at the end."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.cells import Cell, Trial
from sweeps.plan import trial_flops
from vit_trainer.run_dir import Row

Result = Mapping[str, Any]
"""Content of a result.json."""


@dataclass
class _Seen:
    """What is known of one trial."""

    trial: Trial
    flops: float
    """Of the whole trial."""
    row: Row | None = None
    result: Result | None = None
    running: bool = False

    @property
    def fraction(self) -> float:
        if self.result is not None:
            return 1.0
        return self.row["step"] / self.trial.cell.schedule.total_steps if self.row else 0.0


@dataclass
class Board(AbstractContextManager["Board"]):
    """Follows the trials of a sweep: a live table in a terminal, a line per event elsewhere."""

    cells: list[Cell]
    """Entries of the table."""
    num_trials: int
    """Of the whole sweep, those included that `add` has yet to be called with."""
    console: Console = field(default_factory=lambda: Console(highlight=False))

    def __post_init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._of_cells: dict[Cell, list[_Seen]] = {cell: [] for cell in self.cells}
        self._live: Live | None = None
        self._start = time.monotonic()
        self._flops_before = 0.0

    def __enter__(self) -> "Board":
        self._start = time.monotonic()
        self._flops_before = self._flops_done()
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._progress, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    # Events.

    def add(self, trial: Trial) -> None:
        """Let a trial take part."""
        seen = self._seen[trial.trial_id] = _Seen(trial, trial_flops(trial))
        self._of_cells[trial.cell].append(seen)

    def started(self, trial_id: str) -> None:
        self._seen[trial_id].running = True

    def reported(self, trial_id: str, row: Row) -> None:
        self._seen[trial_id].row = row

    def noted(self, trial_id: str, note: str) -> None:
        """Something that a watcher should know, such as a retry."""
        self.console.print(f"{trial_id}: {note}", soft_wrap=True, markup=False)

    def ended(self, trial_id: str, result: Result) -> None:
        """A trial has its result, now or since an earlier session."""
        seen = self._seen[trial_id]
        was_running, seen.running, seen.result = seen.running, False, result
        if was_running and self._live is None:
            num_ended = sum(other.result is not None for other in self._seen.values())
            self.console.print(
                f"[{num_ended}/{self.num_trials}] {trial_id}: {_outcome(result)}; {self._time_left()}", soft_wrap=True
            )

    # Views.

    def result(self, trial_id: str) -> Result | None:
        """What a trial has come to, or None while it hasn't."""
        return self._seen[trial_id].result

    def best(self, cell: Cell) -> Result | None:
        """The result of a cell: that of the candidate with the best validation accuracy among the finished."""
        finished = [
            seen.result
            for seen in self._of_cells[cell]
            if seen.result is not None and seen.result["status"] == "finished"
        ]
        return max(finished, key=lambda result: result["val/accuracy"], default=None)

    def table(self) -> Table:
        """Models as rows, (data set, dropout) as columns, test accuracy in percent."""
        return self._table("test accuracy, %", lambda cell: _percent(self.best(cell)))

    def _table(self, title: str, content: Any) -> Table:
        cells = {(cell.model, cell.dataset, cell.dropout): cell for cell in self.cells}
        columns = list(dict.fromkeys((cell.dataset, cell.dropout) for cell in self.cells))
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("model", no_wrap=True)
        for dataset, dropout in columns:
            table.add_column(f"{dataset}\ndropout {'searched' if dropout is None else dropout}", justify="right")
        for model in dict.fromkeys(cell.model for cell in self.cells):
            entries = [cells.get((model, *column)) for column in columns]
            table.add_row(model, *["" if cell is None else content(cell) for cell in entries])
        return table

    def _progress(self) -> Group:
        num_ended = sum(seen.result is not None for seen in self._seen.values())
        num_running = sum(seen.running for seen in self._seen.values())
        line = f"{num_ended} of {self.num_trials} trials done, {num_running} running; {self._time_left()}"
        return Group(self._table("", self._cell_text), Text(line))

    def _cell_text(self, cell: Cell) -> Text:
        candidates = self._of_cells[cell]
        running = [seen for seen in candidates if seen.running]
        if running:
            parts = []
            for seen in running:
                step = seen.row["step"] if seen.row else 0
                accuracy = f" {100 * seen.row['val/accuracy']:.1f}" if seen.row and "val/accuracy" in seen.row else ""
                parts.append(f"{step}/{seen.trial.cell.schedule.total_steps}{accuracy}")
            return Text("\n".join(parts), style="yellow")
        if all(seen.result is None for seen in candidates):
            return Text("waiting", style="dim")
        best = self.best(cell)
        if best is not None:
            return Text(_percent(best), style="bold green")
        return Text("failed", style="red") if all(seen.result for seen in candidates) else Text("waiting", style="dim")

    def _flops_done(self) -> float:
        return sum(seen.flops * seen.fraction for seen in self._seen.values())

    def _flops_of_all(self) -> float:
        """Of the whole sweep; a trial that is still to be proposed costs as much as the others do on average."""
        known = sum(seen.flops for seen in self._seen.values())
        return known * self.num_trials / len(self._seen)

    def _time_left(self) -> str:
        done, total = self._flops_done(), self._flops_of_all()
        elapsed = time.monotonic() - self._start
        if done <= self._flops_before:
            return "time left not known yet"
        return f"about {_duration((total - done) * elapsed / (done - self._flops_before))} left"


def _percent(result: Result | None) -> str:
    return "-" if result is None else f"{100 * result['test/accuracy']:.2f}"


def _outcome(result: Result) -> str:
    if result["status"] == "finished":
        return f"test {100 * result['test/accuracy']:.2f}%"
    return f"{result['status']} ({result.get('cause')})"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds as h:mm:ss."""
    minutes, seconds_left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds_left:02d}"
