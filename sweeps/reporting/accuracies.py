"""Accuracies: what each cell achieved, beside what was published: the table, and the same cell by cell."""

from sweeps.records.cell_record import CellRecord
from sweeps.records.results import Results
from sweeps.records.trial_record import STATUSES, UNFINISHED
from sweeps.reporting.pages import Block, Heading, Paragraph, TextTable
from sweeps.reporting.texts import (
    PUBLISHED_BY,
    card_name,
    duration,
    labels_of,
    name_of,
    percent,
    points,
    time_name,
    verdict_text,
)
from sweeps.table.cells import Cell
from sweeps.table.verdict import Status
from vit_trainer.data.datasets import DATASETS


def the_table(results: Results) -> list[Block]:
    """Models and what else varies as rows, (data set, dropout) as columns, as the published table has them."""
    labels = labels_of(results)
    in_order = sorted(results.cells, key=lambda record: _column_place(record.cell))
    columns = list(dict.fromkeys(labels.column(record.cell) for record in in_order))
    rows: dict[tuple[str, ...], dict[tuple[str, str], CellRecord]] = {}
    for record in results.cells:
        rows.setdefault(labels.row(record.cell), {})[labels.column(record.cell)] = record
    texts = tuple(
        ("\n".join(row), *(_cell_text(records[column]) if column in records else "" for column in columns))
        for row, records in rows.items()
    )
    header = ("model", *map("\n".join, columns))
    explained = "Test accuracy in percent of the candidate that is best on held-out training images, over all its seeds"
    if results.has_published:
        explained += "; what was published, the difference in points and the verdict (docs/verdict.md)"
    explained += "; how long one run took, and on what."
    recipes = dict.fromkeys(f"{record.cell.dataset}: {labels.recipe(record.cell)}." for record in results.cells)
    return [
        Heading("The table"),
        TextTable(header, texts, is_grid=True),
        Paragraph(explained),
        *map(Paragraph, recipes),
    ]


def cell_by_cell(results: Results) -> list[Block]:
    """A row per cell: its accuracy, what was published, the chosen candidate, and what it took."""
    header = ["cell", "accuracy"]
    header += ["published", "difference,\n95% interval", "verdict"] if results.has_published else []
    header += ["chosen\nbase_lr", "seeds", "candidates", "time of\none run", f"{time_name(results)}\nof all", "on"]
    rows = []
    for record in results.cells:
        row = [name_of(record, results), "" if record.accuracy is None else percent(record.accuracy)]
        if results.has_published:
            row += _published_texts(record)
        counts = [f"{record.count(status)} {status}" for status in STATUSES if record.count(status)]
        row += [
            record.name_of(record.chosen[0]).partition(" seed ")[0] if record.chosen else "",
            str(len(record.chosen)) if record.chosen else "",
            "\n".join(counts),
            "" if record.wall_hours is None else duration(record.wall_hours),
            duration(record.hours),
            card_name(record),
        ]
        rows.append(tuple(row))
    numbers = frozenset(
        i for i, name in enumerate(header) if name in ("accuracy", "published", "seeds") or "time" in name
    )
    blocks: list[Block] = [Heading("Cell by cell"), TextTable(tuple(header), tuple(rows), numbers=numbers)]
    shown = [figure for record in results.cells for figure in (record.figure, *record.others) if figure is not None]
    caveats = {figure.caveat: figure.source for figure in shown}
    blocks += [Paragraph(f"Published by {source}: {caveat}.") for caveat, source in caveats.items() if caveat]
    for record in results.cells:
        if count := record.num_stopped_seeds:
            line = (
                f"{name_of(record, results)}: early stopping ended {count} of the chosen candidate's seeds, so those "
                "that count are the better ones. To compare seeds, run them with --no-early-stopping."
            )
            blocks.append(Paragraph(line))
    return blocks


def _column_place(cell: Cell) -> tuple[object, ...]:
    """Where a cell's column goes: those of one data set together, in the order of the published table."""
    datasets = list(DATASETS)
    dataset = datasets.index(cell.dataset) if cell.dataset in datasets else len(datasets)
    return (dataset, cell.dataset, -1.0 if cell.dropout is None else cell.dropout)


def _cell_text(record: CellRecord) -> str:
    """A cell as the table shows it: its accuracy, or why there is none, and a line each for what else is known."""
    if record.accuracy is None:
        return UNFINISHED if record.count(UNFINISHED) else "failed" if record.count("failed") else "no result"
    lines = [percent(record.accuracy)]
    if record.figure is not None and record.verdict is not None:
        lines.append(f"published {percent(record.figure.accuracy)}, {points(record.verdict.difference)}")
        lines.append(verdict_text(record.verdict.status))
    lines += [
        f"{PUBLISHED_BY[other.table]} {percent(other.accuracy)}, {points(record.accuracy - other.accuracy)}"
        for other in record.others
    ]
    lines += ["published: left open"] if record.is_left_open else []
    took = duration(record.wall_hours or 0.0)
    lines.append(f"{took}, {card}" if (card := card_name(record)) else took)
    if record.count(UNFINISHED):
        lines.append(f"{record.count(UNFINISHED)} unfinished")
    return "\n".join(lines)


def _published_texts(record: CellRecord) -> list[str]:
    """What was published for a cell, the difference with its interval, and the verdict; empty where there is none."""
    figure, verdict = record.figure, record.verdict
    published = [] if figure is None else [percent(figure.accuracy)]
    published += [f"{percent(other.accuracy)} {PUBLISHED_BY[other.table]}" for other in record.others]
    published += ["left open"] if record.is_left_open else []
    if verdict is None:
        return ["\n".join(published), "", ""]
    low, high = verdict.interval_95
    said = verdict_text(verdict.status)
    if verdict.status is Status.INCONCLUSIVE:
        more = verdict.more_seeds_needed
        plural = "seed" if more == 1 else "seeds"
        said += "\nno number of seeds would decide" if more is None else f"\n{more} more {plural} would decide"
    return ["\n".join(published), f"{points(verdict.difference)}\n{points(low)} to {points(high)}", said]
