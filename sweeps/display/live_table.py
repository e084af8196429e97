"""LiveTable: draws a Standing again and again in a terminal of any size; `picture` draws it once."""

import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from sweeps.display.running_list import LAYOUTS, running_list
from sweeps.display.standing import Standing, TrialProgress
from sweeps.display.words import brief, candidate_name, header_of, own_name, percent, steps_of, time_left_of
from sweeps.table.cells import Cell
from sweeps.table.labels import Labels
from sweeps.table.verdict import MARGINS
from vit_trainer.errors import counted, plain
from vit_trainer.files.outgoing import outgoing, printable

SECONDS_PER_FRAME = 1.0
"""A frame of 30 cells takes 30 to 60 ms of a CPU core."""
NUM_EVENTS = 5
"""How many of the last events are shown."""
LINES_BELOW = 3
"""Cells say less rather than leave no room for these: the legend and two events."""
FEWEST_LISTED = 3
"""Running candidates are listed below the table where there is room for so many, or for all."""
DETAILS = range(5)
"""How much cells say: 0 to 2 have every running candidate on one line or two, 3 sums them up, 4 is one line a cell."""
VIEWS = tuple((detail, with_list) for with_list in (True, False) for detail in DETAILS)
"""Details in the order tried, with a list of the running candidates below and without."""
FAR = "!"
LEGEND = "running: step, validation %, time left; done: test %, difference to published"
MARKS = {
    " place ": "place: in its cell, by the latest validation of each",
    " paused": "paused: at a rung, best validation %",
    "silent ": "silent: for so long no sign of life",
    FAR: f"{FAR}: further from the published than the margin",
    "@": "@: difference of the run with the published rate",
    "*": "*: of the seeds that early stopping left",
    " x": "x: seeds",
}
"""What marks of the table mean; said where there are any."""


def is_interactive(console: Console) -> bool:
    """Whether a table that is drawn again and again makes sense: in a terminal, not in CI, not in a pipe."""
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal and not in_ci


class LiveTable(AbstractContextManager["LiveTable"]):
    """Follows a sweep on the screen until the context ends, and leaves nothing behind there."""

    def __init__(self, console: Console, standing: Callable[[], Standing]) -> None:
        """standing: called in another thread."""
        self._console, self._standing = console, standing
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="live-table", daemon=True)

    def __enter__(self) -> "LiveTable":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        self._thread.join()

    def _draw(self) -> None:
        while not self._has_ended.is_set():
            size = self._console.size
            with Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self._frame) as live:
                while self._console.size == size:
                    live.refresh()
                    if self._has_ended.wait(SECONDS_PER_FRAME):
                        return
            self._console.clear()  # the terminal has broken the old frame's lines anew: nobody knows where it begins

    def _frame(self) -> "Screen":
        return Screen(self._standing(), fits_height=True)


class Screen:
    """A Standing as something to print: as much of it as the width allows, and the height where that is asked for."""

    def __init__(self, standing: Standing, *, fits_height: bool = False) -> None:
        self._standing, self._fits_height = standing, fits_height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        standing, complaints = self._standing, list(self._standing.complaints)
        if self._fits_height and len(complaints) > 3:
            complaints = [*complaints[:2], f"and {len(complaints) - 2} more like this: --once shows all"]
        summary = summary_lines(standing) if standing.cells else []
        room = (console.size.height - 1 if self._fits_height else 10_000) - len(summary) - len(complaints)
        if standing.cells:
            table = self._table(console, options, room)[: max(1, room)]
            for line in table:
                yield from line
                yield Segment.line()
            room -= len(table)
            shown = "".join(segment.text for line in table for segment in line)
            if room > 0:
                marks = [text for mark, text in MARKS.items() if mark in shown]
                yield self._line("; ".join([LEGEND, *marks]), "dim")
                room -= 1
        events = event_lines(standing)
        yield from (self._line(line) for line in summary)
        yield from (self._line(event, "dim") for event in events[max(0, len(events) - room) :] if room > 0)
        yield from (self._line(complaint) for complaint in complaints)

    def _table(self, console: Console, options: ConsoleOptions, room: int) -> list[list[Segment]]:
        """The lines of the table with as much detail as fits; a list of the cells where not even the least does."""

        def drawn(what: RenderableType) -> list[list[Segment]] | None:
            if Measurement.get(console, options.update(max_width=10_000), what).maximum > options.max_width:
                return None
            return console.render_lines(what, options.update(height=None), pad=False)

        lines: list[list[Segment]] = []
        running = self._standing.running_or_silent
        for detail, with_list in VIEWS:
            if with_list and not running:
                continue
            if (table := drawn(table_of(self._standing, detail, is_summed=with_list))) is None:
                continue
            lines = table
            if with_list:
                most = room - len(table) - LINES_BELOW - 2
                num_listed = len(running) if len(running) <= most else most - 1
                if num_listed < min(len(running), FEWEST_LISTED):
                    continue
                lists = (running_list(self._standing, num_listed, *layout) for layout in LAYOUTS)
                if not (listed := next(filter(None, map(drawn, lists)), None)):
                    continue
                lines = [*table, [], *listed]
            if len(lines) + LINES_BELOW <= room:
                break
        lines = lines or console.render_lines(list_of(self._standing), options.update(height=None), pad=False)
        return [[Segment(printable(each.text), each.style) for each in line] for line in lines]

    def _line(self, line: str, style: str = "") -> Text:
        line = outgoing(line, keep="")
        if self._fits_height:
            return Text(line, style=style, no_wrap=True, overflow="ellipsis")
        return Text(line, style=style, overflow="fold")


def summary_lines(standing: Standing) -> list[str]:
    """Trials and the time left; GPUs and hours; and what is waited for, if anything."""
    num_begun = len(standing.trials)
    of = f"{num_begun} begun" if standing.num_expected is None else f"{standing.num_expected}"
    ended = [f"{standing.count(status)} {status}" for status in ("stopped", "failed") if standing.count(status)]
    line = f"{standing.num_done} of {of} trials done" + (f" ({', '.join(ended)})" if ended else "")
    line += f", {len(standing.running)} running"
    num_paused = sum(each.is_paused for each in standing.trials)
    line += f", {num_paused} paused" if num_paused else ""
    line += f", {standing.num_silent} silent" if standing.num_silent else ""
    kind, unit = ("GPUs", "GPU-hours") if standing.on_gpus else ("slots", "slot-hours")
    slots = f"{standing.num_slots_in_use}" + (f" of {standing.num_slots}" if standing.num_slots else "")
    to_come = standing.hours_to_come
    hours = "to come not known yet" if to_come is None else f"about {plain(to_come)} to come"
    return [
        f"{line}; {time_left(standing)}",
        f"{kind} in use: {slots}; {unit}: {plain(standing.spent_hours)} spent, {hours}",
        *([standing.awaits] if standing.awaits else []),
    ]


def time_left(standing: Standing) -> str:
    """In words."""
    seconds = standing.seconds_left
    if standing.phase:
        return standing.phase
    if seconds is None:
        return "time left not known yet" if standing.hours_to_come is None else "nothing runs"
    minutes, seconds_left = divmod(round(seconds), 60)
    return f"about {minutes // 60}:{minutes % 60:02d}:{seconds_left:02d} left"


def event_lines(standing: Standing) -> list[str]:
    """The last events, oldest first."""
    return [
        f"{time.strftime('%H:%M:%S', time.localtime(event.time))} {event.text}"
        for event in standing.events[-NUM_EVENTS:]
    ]


def table_of(standing: Standing, detail: int, *, is_summed: bool = False) -> Table:
    """Models and what else varies as rows, (data set, dropout) as columns.

    Args:
        is_summed: whether a cell's running candidates are summed up whatever the detail.
    """
    labels = Labels.of(standing.cells)
    by_place = {(labels.row(cell), labels.column(cell)): cell for cell in standing.cells}
    columns = list(dict.fromkeys(column for _, column in by_place))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, pad_edge=False)
    table.add_column("model", no_wrap=True, vertical="top")
    for column in columns:
        table.add_column(header_of(*column, detail), no_wrap=True)
    for row in dict.fromkeys(row for row, _ in by_place):
        cells = [by_place.get((row, column)) for column in columns]
        entries = [Text() if cell is None else _cell_text(standing, cell, detail, is_summed) for cell in cells]
        table.add_row(_row_text(row, detail), *entries)
    return table


def list_of(standing: Standing) -> Text:
    """A line per cell in which something has happened, those that run first: for a terminal too narrow for a table."""
    labels = Labels.of(standing.cells)
    begun = [
        (cell, any(each.is_running for each in candidates))
        for cell, candidates in standing.by_cell.items()
        if any(each.is_running or each.result is not None for each in candidates)
    ]
    lines: list[Text] = []
    for cell, _ in sorted(begun, key=lambda item: not item[1]):
        dropout = "" if cell.dropout is None else f" d{cell.dropout:g}"
        rest = "".join(f" {part}" for part in map(_shortened, labels.row(cell)[1:]))
        content = Text(", ").join(_cell_text(standing, cell, DETAILS[-2]).split("\n"))
        lines.append(Text.assemble(f"{cell.model} {labels.column(cell)[0]}{dropout}{rest}: ", content))
    if num_waiting := len(standing.cells) - len(begun):
        lines.append(Text(f"{counted(num_waiting, 'cell')} waiting", style="dim"))
    joined = Text("\n").join(lines)
    joined.no_wrap, joined.overflow = True, "ellipsis"
    return joined


def _row_text(row: Sequence[str], detail: int) -> str:
    """A row's label: with little room what varies is on a line of its own, then in short."""
    model, *rest = row
    if detail == DETAILS[-1]:
        return " ".join((model, *map(_shortened, rest)))
    return ", ".join(row) if detail == 0 or not rest else f"{model}\n {', '.join(rest)}"


def _shortened(part: str) -> str:
    """
    >>> [_shortened(part) for part in ("224 px", "500 steps (warm-up 50)", "from imagenet21k+imagenet2012")]
    ['224px', '500/50', '21k+2012']
    """
    part = re.sub(r"(\d+) steps \(warm-up (\d+)\)", r"\1/\2", part)
    return part.removeprefix("from ").replace("imagenet", "").replace(" ", "")


def _cell_text(standing: Standing, cell: Cell, detail: int, is_summed: bool = False) -> Text:
    candidates = standing.by_cell[cell]
    running = [each for each in candidates if each.is_running]
    waiting = [each for each in candidates if not each.is_running and each.result is None]
    paused = [each for each in waiting if each.is_paused]
    waiting = [each for each in waiting if not each.is_paused]
    texts = _running_lines(running, candidates, standing.now, detail, is_summed)
    lines = [Text(line, style="yellow") for line in texts]
    is_done = not running and not waiting and not paused and bool(candidates)
    finished = _finished_lines(standing, cell, detail, is_done=is_done)
    lines += [Text(line, style="bold red" if FAR in line else "bold green") for line in finished]
    num_stopped, num_failed = (sum(each.status == status for each in candidates) for status in ("stopped", "failed"))
    others = [Text(f"{num_failed} failed", style="bold red")] if num_failed else []
    others += [Text(f"{num_stopped} stopped", style="dim")] if num_stopped else []
    if paused:
        best = percent(max(each.accuracy or 0.0 for each in paused), 1)
        others.append(Text(f"{len(paused)} paused {best}", style="dim"))
    if waiting or not candidates:
        step = max((each.step for each in waiting), default=0)
        number = f"{len(waiting)} " if lines or others else ""
        others.append(Text(f"{number}waiting{f' {steps_of(step)}' if step and not number else ''}", style="dim"))
    if detail == 0 and others:
        others = [Text(", ").join(others)]
    return Text("\n").join((lines + others)[: 1 if detail == DETAILS[-1] else None])


def _running_lines(
    running: list[TrialProgress], candidates: list[TrialProgress], now: float, detail: int, is_summed: bool
) -> list[str]:
    if detail < 3 and not is_summed:
        several_seeds = len({each.trial.seed for each in candidates}) > 1
        lines = (_candidate_lines(each, now, detail, several_seeds=several_seeds) for each in running)
        return [line for of_one in lines for line in of_one]
    if not running:
        return []
    best = max(running, key=lambda each: each.accuracy or 0.0)
    lefts = [each.seconds_left(now) for each in running if each.silent_seconds is None]
    number = steps_of(best.step) if len(running) == 1 else f"{len(running)} run"
    left = (
        "starting" if not lefts or None in lefts else f"{brief(max(left for left in lefts if left is not None))} left"
    )
    silent = [each.silent_seconds for each in running if each.silent_seconds is not None]
    parts = [f"{number} {percent(best.accuracy, 1)}".rstrip(), f"silent {brief(max(silent))}" if silent else left]
    return [" ".join(parts)] if detail < 2 else parts


def _candidate_lines(progress: TrialProgress, now: float, detail: int, *, several_seeds: bool) -> list[str]:
    time_left = time_left_of(progress, now)
    if detail == 2:
        return [f"{steps_of(progress.step)} {percent(progress.accuracy, 1)}".rstrip(), time_left]
    steps = f"{steps_of(progress.step)}/{steps_of(progress.total_steps)}"
    if detail == 1:
        time_left = time_left.removesuffix(" left")
        return [" ".join(part for part in (steps, percent(progress.accuracy, 1), time_left) if part)]
    rate, dropout, seed = own_name(progress)
    label = f"lr{rate}" + (f" {seed}" if several_seeds else "") + (f" {dropout}" if dropout else "")
    return [" ".join(part for part in (label, steps, percent(progress.accuracy, 2), time_left) if part)]


def _finished_lines(standing: Standing, cell: Cell, detail: int, *, is_done: bool) -> list[str]:
    chosen, difference = standing.chosen(cell), standing.difference(cell)
    if chosen is None:
        return []
    number = percent(chosen.accuracy, 2) + "*" * bool(standing.num_stopped_beside(cell, chosen))
    points = "" if difference is None else f"{100 * difference[0]:+z.2f}"
    if difference is not None and abs(difference[0]) > MARGINS.get(cell.dataset, math.inf):
        points += FAR
    if difference is not None and difference[1] != chosen.base_lr:
        points = f"{points}@{difference[1]:g}" if detail < DETAILS[-1] else ""
    name = f" {candidate_name(cell, chosen)}" if detail == 0 else ""
    name += f" x{len(chosen.trials)}" if name and len(chosen.trials) > 1 else ""
    if not is_done:
        candidates = standing.by_cell[cell]
        return [f"{number} {sum(each.result is not None for each in candidates)}/{len(candidates)}{name}"]
    if detail == DETAILS[-1]:
        return [f"{number}{points}"]
    if detail > 1:
        return [f"{number} done", *([points] if points else [])]
    return [f"{number} done{f' {points}' if points else ''}{name}"]
