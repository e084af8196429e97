"""The table at a sweep's end: what each cell came to, beside what was published, for any width of terminal."""

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sweeps.display.standing import Standing
from sweeps.display.words import brief, candidate_name, header_of
from sweeps.records.cell_record import CellRecord
from sweeps.table.cells import Cell
from sweeps.table.labels import BEST, Labels
from sweeps.table.verdict import MARKS, Status

STYLES = {Status.REPRODUCED: "green", Status.ABOVE: "yellow", Status.BELOW: "red", Status.INCONCLUSIVE: "dim"}
SAID = {
    "±": "±: standard deviation of so many (x) seeds",
    "*": "*: of the seeds that early stopping left, the better ones",
    "@": "@: difference of the run with the published rate",
    BEST: f"{BEST}: the best of its column",
    **{mark: f"{mark} {status}" for status, mark in MARKS.items()},
}
"""What marks of the table mean; said where there are any."""

Parts = Sequence[Text]
"""What is said of a cell: accuracy, difference with its verdict, candidate, time; fewer where less is known."""


def final_table(standing: Standing, records: Iterable[CellRecord], console: Console) -> RenderableType:
    """Models and what else varies as rows, (data set, dropout) as columns; where that is too wide, a row per cell.

    Args:
        records: where verdicts and times are from; of cells that are missing here less is said.
    """
    labels, known = Labels.of(standing.cells), {record.cell: record for record in records}
    chosen = {cell: standing.chosen(cell) for cell in standing.cells}
    best = labels.best_of_columns((cell, each.accuracy if each else None) for cell, each in chosen.items())
    cells = {
        cell: _parts(standing, cell, known.get(cell.as_recorded), best.get(labels.column(cell)))
        for cell in standing.cells
    }
    tables = [_matrix(labels, cells, 0), _matrix(labels, cells, 2), _list(labels, cells)]
    unlimited = console.options.update(max_width=10_000)
    fitting = [each for each in tables if Measurement.get(console, unlimited, each).maximum <= console.width]
    text = " ".join(part.plain for parts in cells.values() for part in parts)
    legend = ["test accuracy, %", *(["difference to published"] if any(map(standing.difference, cells)) else [])]
    legend += ["chosen candidate", "time of one run of it", *(said for mark, said in SAID.items() if mark in text)]
    return Group((fitting or tables[-1:])[0], Text("; ".join(legend), style="dim"))


def _matrix(labels: Labels, cells: Mapping[Cell, Parts], detail: int) -> Table:
    """detail: of the live table; with 0 parts stand beside each other where that isn't too long."""
    by_place = {(labels.row(cell), labels.column(cell)): parts for cell, parts in cells.items()}
    columns = list(dict.fromkeys(column for _, column in by_place))
    table = _empty("model", *(header_of(*column, detail) for column in columns))
    for row in dict.fromkeys(row for row, _ in by_place):
        texts = [_filled(by_place.get((row, column), ()), 9 if detail else 16) for column in columns]
        table.add_row(("\n " if detail else ", ").join(row), *texts)
    return table


def _list(labels: Labels, cells: Mapping[Cell, Parts]) -> Table:
    table = _empty("cell", "")
    for cell, parts in cells.items():
        table.add_row(labels.name(cell), Text(" ").join(parts))
    return table


def _empty(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, leading=1)
    for header in headers:
        table.add_column(header, no_wrap=header != "")
    return table


def _filled(parts: Parts, width: int) -> Text:
    """Parts one below the other, or beside each other as far as they fit."""
    lines: list[Text] = []
    for part in parts:
        if lines and len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] = Text(" ").join((lines[-1], part))
        else:
            lines.append(part)
    return Text("\n").join(lines)


def _parts(standing: Standing, cell: Cell, record: CellRecord | None, best: float | None) -> Parts:
    """Of several seeds the mean, marked where early stopping left only the better ones."""
    if (chosen := standing.chosen(cell)) is None:
        statuses = {each.status for each in standing.by_cell[cell]}
        return [Text("failed", style="bold red") if "failed" in statuses and None not in statuses else Text("-")]
    mark = "*" * bool(standing.num_stopped_beside(cell, chosen)) + BEST * (chosen.accuracy == best)
    parts = [Text(f"{100 * chosen.accuracy:.2f}{mark}", style="bold")]
    if chosen.deviation is not None:
        parts.append(Text(f"±{100 * chosen.deviation:.2f} x{len(chosen.trials)}"))
    if (difference := standing.difference(cell)) is not None:
        points, base_lr = difference
        verdict = record.verdict if record else None
        said = f"{100 * points:+z.2f}" + (f"@{base_lr:g}" if base_lr != chosen.base_lr else "")
        status = verdict.status if verdict else None
        parts.append(Text(f"{MARKS[status]} {said}" if status else said, style=STYLES[status] if status else ""))
    parts.append(Text(candidate_name(cell, chosen)))
    hours = record.wall_hours if record else None
    return [*parts, *([] if hours is None else [Text(brief(3600 * hours), style="dim")])]
