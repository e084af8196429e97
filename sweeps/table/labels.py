"""Labels: what the rows and columns of a table of cells are called. Only what varies within it is said."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.table.cells import Cell
from vit_trainer.data.datasets import id_and_path

BEST = "★"
"""Marks the best accuracy of a column."""


@dataclass(frozen=True)
class Labels:
    """Rows are models and what else a question varies, columns are data sets and dropouts."""

    varying: frozenset[str]
    """Which of resolution, total_steps, warmup_steps, global_batch_size and upstream need saying."""

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> "Labels":
        """The labels of a table: what differs between two cells of one model, data set and dropout is said of all.

        >>> from sweeps.table.cells import Schedule, official_cell
        >>> schedules = Schedule(500, 50), Schedule(1_000, 100)
        >>> cells = [official_cell("ViT-B_16", "cifar10", schedule=schedule) for schedule in schedules]
        >>> Labels.of(cells).row(cells[0]), Labels.of(cells[:1]).row(cells[0])
        (('ViT-B_16', '500 steps (warm-up 50)'), ('ViT-B_16',))
        """
        groups: dict[tuple[object, ...], list[dict[str, Any]]] = {}
        for cell in cells:
            groups.setdefault((cell.model, cell.dataset, cell.dropout), []).append(cell.values)
        differing = (
            name
            for first, *others in groups.values()
            for other in others
            for name in first
            if other[name] != first[name]
        )
        return cls(frozenset(differing))

    @classmethod
    def all_that_differs(cls, cells: Sequence[Cell]) -> "Labels":
        """Labels that say of each cell whatever isn't alike in all."""
        return cls(
            frozenset(name for each in cells for name in each.values if each.values[name] != cells[0].values[name])
        )

    def row(self, cell: Cell) -> tuple[str, ...]:
        """The row that a cell is in: its model, then what else tells it apart."""
        return (cell.model, *self._rest(cell))

    def column(self, cell: Cell) -> tuple[str, str]:
        """The column that a cell is in: its data set and its dropout."""
        dropout = "dropout searched" if cell.dropout is None else f"dropout {cell.dropout:g}"
        return id_and_path(cell.dataset)[1], dropout

    def name(self, cell: Cell) -> str:
        """The cell in a line: `ViT-B_16, cifar10, dropout 0.1, 224 px`."""
        return ", ".join((cell.model, *self.column(cell), *self._rest(cell)))

    def recipe(self, cell: Cell) -> str:
        """What the labels leave out, in words: `from imagenet21k, 384 px, 512 images a step`."""
        return ", ".join(_said(cell, cell.values.keys() - self.varying))

    def best_of_columns(self, accuracies: Iterable[tuple[Cell, float | None]]) -> dict[tuple[str, str], float]:
        """The best accuracy of each column in which two cells have one; those without are passed over."""
        columns: dict[tuple[str, str], list[float]] = {}
        for cell, accuracy in accuracies:
            if accuracy is not None:
                columns.setdefault(self.column(cell), []).append(accuracy)
        return {column: max(own) for column, own in columns.items() if len(own) > 1}

    def _rest(self, cell: Cell) -> list[str]:
        return _said(cell, self.varying)


def _said(cell: Cell, names: Collection[str]) -> list[str]:
    """Some of a cell's values in words."""
    schedule, parts = cell.schedule, []
    if "resolution" in names:
        parts.append(f"{cell.resolution} px")
    warmup = f"warm-up {schedule.warmup_steps}"
    if "total_steps" in names:
        parts.append(f"{schedule.total_steps} steps" + (f" ({warmup})" if "warmup_steps" in names else ""))
    elif "warmup_steps" in names:
        parts.append(warmup)
    if "global_batch_size" in names:
        parts.append(f"{schedule.global_batch_size} images a step")
    if "upstream" in names:
        parts.append(f"from {cell.upstream}")
    return parts
