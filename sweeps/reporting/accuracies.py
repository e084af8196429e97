"""Accuracies: what each cell achieved, beside what was published: the table, and the same cell by cell."""

from sweeps.records.cell_record import CellRecord
from sweeps.records.results import Results
from sweeps.reporting.pages import Block, Heading, Paragraph, TextTable, foldable_table
from sweeps.reporting.statement import kind_name
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
from sweeps.table.labels import BEST
from sweeps.table.published import PublishedFigure
from sweeps.table.spread import kind_of
from sweeps.table.verdict import Status
from vit_trainer.data.datasets import DATASETS
from vit_trainer.errors import counted
from vit_trainer.files.schema import STATUSES, UNFINISHED


def the_table(results: Results) -> list[Block]:
    """Models and what else varies as rows, (data set, dropout) as columns, as the published table has them."""
    labels = labels_of(results)
    best = labels.best_of_columns((record.cell, record.accuracy) for record in results.cells)
    in_order = sorted(results.cells, key=lambda record: _column_place(record.cell))
    columns = list(dict.fromkeys(labels.column(record.cell) for record in in_order))
    rows: dict[tuple[str, ...], dict[tuple[str, str], CellRecord]] = {}
    for record in results.cells:
        rows.setdefault(labels.row(record.cell), {})[labels.column(record.cell)] = record
    texts = tuple(
        (
            "\n".join(row),
            *(_cell_text(records[column], best.get(column)) if column in records else "" for column in columns),
        )
        for row, records in rows.items()
    )
    header = ("model", *map("\n".join, columns))
    explained = (
        "Test accuracy in percent of the candidate that is best on held-out training images by the seeds that all "
        "candidates of its cell have finished, over all seeds that it has finished"
    )
    if any(len(record.chosen) > 1 for record in results.cells):
        explained += ", with their standard deviation"
    if results.has_published:
        explained += "; what was published, the difference in points and the verdict (docs/verdict.md)"
    explained += "; how long one run took, and on what."
    if any(record.figure is not None and record.others for record in results.cells):
        explained += " Where several figures are published for a cell, the verdict is about the first."
    if any(record.judged not in ((), record.chosen) for record in results.cells):
        explained += (
            " Where what was published is of one fixed learning rate and another is best here, difference and verdict "
            "are about our runs of the published one, which stand after lr."
        )
    recipes = dict.fromkeys(f"{record.cell.dataset}: {labels.recipe(record.cell)}." for record in results.cells)
    return [
        Heading("The table"),
        *([Paragraph(f"Test accuracy in percent; {BEST} is the best of its column.")] if best else []),
        TextTable(header, texts, is_grid=True),
        Paragraph(explained),
        *map(Paragraph, recipes),
    ]


def cell_by_cell(results: Results) -> list[Block]:
    """A row per cell: its accuracy, what was published, the chosen candidate, and what it took."""
    header = ["cell", "accuracy"]
    header += ["published", "difference,\n95% interval", "verdict"] if results.has_published else []
    header += ["chosen\nbase_lr", "candidates", "time of\none run", f"{time_name(results)}\nof all"]
    rows = []
    for record in results.cells:
        row = [name_of(record, results), "\n".join(_seeds_texts(record))]
        if results.has_published:
            row += _published_texts(record)
        counts = [f"{record.count(status)} {status}" for status in STATUSES if record.count(status)]
        row += [
            _chosen_text(record),
            "\n".join(counts),
            "" if record.wall_hours is None else f"{duration(record.wall_hours)}\n{card_name(record)}".rstrip(),
            duration(record.hours),
        ]
        rows.append(tuple(row))
    numbers = [i for i, name in enumerate(header) if name in ("accuracy", "published") or "time" in name]
    blocks: list[Block] = [Heading("Cell by cell"), *foldable_table(tuple(header), rows, "Every cell", numbers=numbers)]
    shown = [figure for record in results.cells for figure in (record.figure, *record.others) if figure is not None]
    caveats = {figure.caveat: figure.source for figure in shown}
    blocks += [Paragraph(f"Published by {source}: {caveat}.") for caveat, source in caveats.items() if caveat]
    tuned = {figure.source: figure.base_lr_basis for figure in shown if figure.base_lr is None}
    blocks += [
        Paragraph(f"Published by {source}: learning rate {basis}. What is compared with it is the best of ours.")
        for source, basis in tuned.items()
    ]
    for record in results.cells:
        groups = {"published learning rate": record.judged} if record.judged != record.chosen else {}
        for whose, own in {"chosen candidate": record.chosen, **groups}.items():
            if count := record.num_stopped_beside(own):
                line = (
                    f"{name_of(record, results)}: early stopping ended {count} of the {whose}'s seeds, so those that "
                    "count are the better ones. To compare seeds, run them with --no-early-stopping."
                )
                blocks.append(Paragraph(line))
        if record.choice is not None and (count := record.choice.num_not_compared):
            line = (
                f"{name_of(record, results)}: no seed has finished with all candidates, so that {count} had no part in "
                f"the choice; compared were those that have finished seed {record.choice.shared_seeds[0]}."
            )
            blocks.append(Paragraph(line))
    spreads = {kind_of(record.cell): record.spread for record in results.judged if record.spread is not None}
    said = [
        f"{kind_name(kind, list(spreads))} {100 * spread.deviation:.3f} points ({spread.runs}; "
        f"{spread.degrees_of_freedom} degrees of freedom)"
        for kind, spread in spreads.items()
    ]
    if said:
        blocks.append(Paragraph(f"By chance alone runs differ with a standard deviation of: {'; '.join(said)}."))
    return blocks


def _chosen_text(record: CellRecord) -> str:
    """What tells the chosen candidate from the others, and how many seeds of it have finished."""
    if not record.chosen:
        return ""
    name, count = record.name_of(record.chosen[0]).partition(" seed ")[0], len(record.chosen)
    return f"{name}\n{count} seeds" if count > 1 else name


def _seeds_texts(record: CellRecord) -> list[str]:
    """A cell's accuracy, and of several seeds how much they differ and each one's."""
    if record.choice is None or record.accuracy is None:
        return [""]
    if record.choice.deviation is None:
        return [percent(record.accuracy)]
    each = [percent(accuracy) for accuracy in record.accuracies]
    return [f"{percent(record.accuracy)} ± {percent(record.choice.deviation)}", *each]


def _unless_official(figure: PublishedFigure) -> str:
    """In which table the figure is that the verdict is about, `(paper)`; empty if it is the official one."""
    return "" if figure.table == "official" else f"({PUBLISHED_BY[figure.table]})"


def _column_place(cell: Cell) -> tuple[object, ...]:
    """Where a cell's column goes: those of one data set together, in the order of the published table."""
    datasets = list(DATASETS)
    dataset = datasets.index(cell.dataset) if cell.dataset in datasets else len(datasets)
    return (dataset, cell.dataset, -1.0 if cell.dropout is None else cell.dropout)


def _cell_text(record: CellRecord, best: float | None) -> str:
    """A cell as the table shows it: its accuracy, or why there is none, and a line each for what else is known.

    Args:
        best: accuracy of its column, if that is marked.
    """
    if record.accuracy is None:
        return UNFINISHED if record.count(UNFINISHED) else "failed" if record.count("failed") else "no result"
    lines = [f"{BEST} " * (record.accuracy == best) + percent(record.accuracy)]
    if record.choice is not None and record.choice.deviation is not None:
        lines.append(f"± {percent(record.choice.deviation)}, {len(record.chosen)} seeds")
    if count := record.num_stopped_beside(record.chosen):
        lines.append(f"{count} more seeds stopped" if count > 1 else "1 more seed stopped")
    if record.figure is not None:
        lines += _beside(record, record.figure, f"published {_unless_official(record.figure)}".rstrip())
        lines += [] if record.verdict is None else [verdict_text(record.verdict.status)]
    for other in record.others:
        lines += _beside(record, other, PUBLISHED_BY[other.table])
    lines += ["published: left open"] if record.is_left_open else []
    took = duration(record.wall_hours or 0.0)
    lines.append(f"{took}, {card}" if (card := card_name(record)) else took)
    if record.count(UNFINISHED):
        lines.append(f"{record.count(UNFINISHED)} unfinished")
    return "\n".join(lines)


def _beside(record: CellRecord, figure: PublishedFigure, name: str) -> list[str]:
    """What was published, and the difference; of which runs of ours, if they aren't the chosen ones."""
    published, difference = f"{name} {percent(figure.accuracy)}", record.difference(figure)
    if difference is None:
        return [published, f"lr {figure.base_lr:g} not finished"]
    if record.beside(figure) == record.chosen:
        return [f"{published}, {points(difference)}"]
    return [published, f"lr {figure.base_lr:g}: {percent(figure.accuracy + difference)}, {points(difference)}"]


def _published_texts(record: CellRecord) -> list[str]:
    """What was published for a cell, the difference with its interval, and the verdict; empty where there is none."""
    figure, verdict = record.figure, record.verdict
    shown = [
        *([] if figure is None else [(figure, _unless_official(figure))]),
        *((other, PUBLISHED_BY[other.table]) for other in record.others),
    ]
    published = [
        percent(each.accuracy) + (f" at {each.base_lr:g}" if each.base_lr else "") + f" {name}".rstrip()
        for each, name in shown
    ]
    published += ["left open"] if record.is_left_open else []
    if figure is None or verdict is None:
        return ["\n".join(published), "", "not finished\nat this rate" if figure is not None and record.chosen else ""]
    low, high = verdict.interval_95
    said = verdict_text(verdict.status)
    if verdict.status is Status.INCONCLUSIVE:
        more = verdict.more_seeds_needed
        said += "\nno number of seeds would decide" if more is None else f"\n{counted(more, 'more seed')} would decide"
    difference = [points(verdict.difference), f"{points(low)} to {points(high)}"]
    if record.judged != record.chosen:
        difference = [f"lr {figure.base_lr:g}: {percent(figure.accuracy + verdict.difference)}", *difference]
        difference[1:1] = [f"of {verdict.num_seeds} seeds"] if verdict.num_seeds > 1 else []
    return ["\n".join(published), "\n".join(difference), said]
