"""Names of cells as one types and copies them: `ViT-B_16/cifar10/0.1/224px`. What is official isn't said."""

import re

from sweeps.cells import Cell, Schedule, official_cell
from vit_trainer.errors import InputError

_NAME = re.compile(r"([^/]+)/(.+?)/([0-9.]+)(?:/(\d+)px)?(?:/(\d+)steps)?(?:/warmup(\d+))?(?:/from-([^/]+))?")
FORM = "model/dataset/dropout, then where it isn't official /224px /500steps /warmup50 /from-UPSTREAM"


def name_of_cell(cell: Cell) -> str:
    """What `cell_named` reads; the dropout of a cell that searches it is `searched`, which stands for no one cell.

    >>> name_of_cell(official_cell("ViT-B_16", "cifar10", dropout=0.1, resolution=224, schedule=Schedule(500, 50)))
    'ViT-B_16/cifar10/0.1/224px/500steps/warmup50'
    """
    dropout = "searched" if cell.dropout is None else f"{float(cell.dropout)}"
    parts = [cell.model, cell.dataset, dropout]
    try:
        official = official_cell(cell.model, cell.dataset)
    except InputError:  # a folder of classes, of which a run folder knows the id only
        official = None
    if official is None or cell.resolution != official.resolution:
        parts.append(f"{cell.resolution}px")
    if official is None or cell.schedule.total_steps != official.schedule.total_steps:
        parts.append(f"{cell.schedule.total_steps}steps")
    if official is None or cell.schedule.warmup_steps != official.schedule.warmup_steps:
        parts.append(f"warmup{cell.schedule.warmup_steps}")
    if official is None or cell.upstream != official.upstream:
        parts.append(f"from-{cell.upstream}")
    return "/".join(parts)


def cell_named(name: str) -> Cell:
    """The cell of a name such as `ViT-B_16/cifar10/0.1` or `ViT-L_32/cifar100/0.1/224px/from-imagenet21k+imagenet2012`.

    Raises:
        InputError: it has another form, or says what doesn't exist.
    """
    if (match := _NAME.fullmatch(name)) is None:
        raise InputError(f"cell {name!r} is no name of a cell: give {FORM}")
    model, dataset, dropout, resolution, steps, warmup_steps, upstream = match.groups()
    try:
        official = official_cell(model, dataset).schedule
        schedule = Schedule(
            int(steps or official.total_steps), int(warmup_steps or official.warmup_steps), official.global_batch_size
        )
        return official_cell(
            model,
            dataset,
            dropout=float(dropout),
            resolution=int(resolution) if resolution else None,
            schedule=schedule,
            upstream=upstream,
        )
    except ValueError as error:
        raise InputError(f"cell {name!r}: {error}") from error
