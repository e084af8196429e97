"""PublishedFigure: what others have published for a cell. The figures are data, in sweeps/table/published_tables/."""

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from sweeps.table.cells import Cell, Schedule, Trial
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError

PUBLISHED = Path(__file__).parent / "published_tables"
"""Where the figures are, with a README.md that says what each column means and what is inferred."""

Table = Literal["official", "paper", "reimplementation", "quoted"]
TABLES: tuple[Table, ...] = ("official", "paper", "reimplementation")
"""The published tables; where several have a cell, the first counts. What one quotes without all that makes a cell is
`quoted`: it is shown beside the cells that it may be about, and gets no verdict."""


@dataclass(frozen=True)
class PublishedFigure:
    """The result of one cell in a published table."""

    cell: Cell
    """What was trained; its dropout may be inferred, see `dropout_basis`."""
    accuracy: float
    """Fraction in [0, 1] of the test images (of ImageNet: the validation images)."""
    num_seeds: int
    """Runs behind the figure; 1 where that isn't stated."""
    wall_hours: float | None
    """Hours from start to end; None: not stated."""
    card: str | None
    """The GPU, such as A100; None: not stated."""
    num_cards: int | None
    """How many of them; None: not known."""
    dropout_basis: str
    """How the dropout is known."""
    base_lr: float | None
    """The learning rate behind the figure; None: theirs was the best of several, or it isn't known."""
    base_lr_basis: str
    """How that is known."""
    caveat: str
    """Why the figure is no exact counterpart of this project's cell; empty: nothing known."""
    table: Table
    """Which of the published tables."""
    source: str
    """URL of the page."""

    def has_run(self, trial: Trial) -> bool:
        """Whether a trial of the cell has the figure's learning rate, with nothing else tuned."""
        return trial.base_lr == self.base_lr and trial.warmup_steps is None


def published_for(cell: Cell) -> PublishedFigure | None:
    """The published figure of a cell, or None: the miniature's have none, nor has a cell whose dropout is searched.

    Everything must agree: upstream, model, data set, resolution, schedule and dropout.

    Raises:
        InputError: the files are not there.
    """
    return next(iter(_by_cell().get(cell, [])), None)


def figures_for(cell: Cell) -> list[PublishedFigure]:
    """Everything that was published for a cell: what `published_for` returns, the other tables', then what is quoted.

    Raises:
        InputError: the files are not there.
    """
    places = {"resolution": str(cell.resolution), "dropout": str(cell.dropout)}
    about = [] if cell.dropout is None else [_figure({**row, **places}, "quoted") for row in _rows("quoted.csv")]
    return [*_by_cell().get(cell, []), *(figure for figure in about if figure.cell == cell)]


def published_cells(table: Table) -> list[Cell]:
    """The cell of every row of a published table, in its order; one of them was left open and has no figure.

    Raises:
        InputError: the file is not there.
    """
    return [_cell(row) for row in _rows(f"{table}.csv")]


def published_base_lr(cell: Cell) -> float:
    """The learning rate behind a cell's published figure; where none is known, that of the official recipe.

    Raises:
        InputError: there is no such recipe, or the files are not there.
    """
    figure = published_for(cell)
    own = None if figure is None else figure.base_lr
    return FinetuneConfig.official(cell.model, cell.dataset).base_lr if own is None else own


def is_published(trial: Trial) -> bool:
    """Whether a trial repeats the published figure of its cell, with the learning rate behind that."""
    figure = published_for(trial.cell)
    return figure is not None and figure.has_run(trial)


def is_left_open(cell: Cell) -> bool:
    """Whether a published table has this cell without a figure.

    Raises:
        InputError: the files are not there.
    """
    return any(cell in published_cells(table) for table in TABLES) and published_for(cell) is None


def published_figures(table: Table) -> list[PublishedFigure]:
    """Every row of a published table that has a figure, in its order.

    Raises:
        InputError: the file is not there.
    """
    return [_figure(row, table) for row in _rows(f"{table}.csv") if row["accuracy"]]


def replicates(dataset: str) -> list[list[float]]:
    """Accuracies (fractions) of published runs, a list per cell and learning rate.

    Of runs of which a mean and a deviation were published, three values with these stand in.

    Raises:
        InputError: no published run of this data set, or the files are not there.
    """
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    rows = [row for name in ("replicates.csv", "official.csv") for row in _rows(name)]
    for row in rows:
        if row["dataset"] == dataset:
            mean, deviation = float(row["accuracy"]), float(row.get("deviation") or 0)
            runs = [mean - deviation, mean, mean + deviation] if deviation else [mean]
            groups[row["model"], row["dropout"], row["base_lr"]] += runs
    if not groups:
        valid = ", ".join(dict.fromkeys(row["dataset"] for row in rows))
        raise InputError(f"nobody has published several runs on {dataset}: verdicts are for {valid} only")
    return list(groups.values())


@lru_cache(maxsize=1)
def _by_cell() -> dict[Cell, list[PublishedFigure]]:
    figures: dict[Cell, list[PublishedFigure]] = {}
    for figure in (figure for table in TABLES for figure in published_figures(table)):
        figures.setdefault(figure.cell, []).append(figure)
    return figures


def _cell(row: Mapping[str, str]) -> Cell:
    schedule = Schedule(int(row["total_steps"]), int(row["warmup_steps"]), int(row["global_batch_size"]))
    dropout, resolution = float(row["dropout"]), int(row["resolution"])
    return Cell(row["upstream"], row["model"], row["dataset"], resolution, schedule, dropout)


def _figure(row: Mapping[str, str], table: Table) -> PublishedFigure:
    return PublishedFigure(
        cell=_cell(row),
        accuracy=float(row["accuracy"]),
        num_seeds=int(row["num_seeds"] or 1),
        wall_hours=float(row["wall_hours"]) if row["wall_hours"] else None,
        card=row["card"] or None,
        num_cards=int(row["num_cards"]) if row["num_cards"] else None,
        dropout_basis=row["dropout_basis"],
        base_lr=float(row["base_lr"]) if row["base_lr"] else None,
        base_lr_basis=row["base_lr_basis"],
        caveat=row["caveat"],
        table=table,
        source=row["source"],
    )


def _rows(name: str) -> list[dict[str, str]]:
    try:
        with (PUBLISHED / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(
            f"{PUBLISHED / name} is not there: published figures come with the repository, so run from a checkout of it"
        ) from None
