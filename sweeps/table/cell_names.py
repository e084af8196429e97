"""Names of cells as one types and copies them: `ViT-B_16/cifar10/0.1/224px`. What is official isn't said."""

import re

from sweeps.table.cells import Cell, Schedule, official_cell
from vit_trainer.errors import InputError

_NAME = re.compile(
    r"([^/]+)/(.+?)/(\d+(?:\.\d+)?)(?:/(\d+)px)?(?:/(\d+)steps)?(?:/warmup(\d+))?(?:/batch(\d+))?(?:/from-([^/]+))?"
)
FORM = "model/dataset/dropout, then where it isn't official /224px /500steps /warmup50 /batch256 /from-UPSTREAM"


def name_of_cell(cell: Cell) -> str:
    """What `cell_named` reads; but `searched` for a dropout that is, and a folder of classes' id, stand for no cell.

    >>> name_of_cell(official_cell("ViT-B_16", "cifar10", dropout=0.1, resolution=224, schedule=Schedule(500, 50)))
    'ViT-B_16/cifar10/0.1/224px/500steps/warmup50'
    """
    try:
        official = _parts(official_cell(cell.model, cell.dataset))
    except InputError:  # the id of a folder of classes
        official = []
    dropout = "searched" if cell.dropout is None else f"{float(cell.dropout)}"
    return "/".join([cell.model, cell.dataset, dropout, *(part for part in _parts(cell) if part not in official)])


def _parts(cell: Cell) -> list[str]:
    steps, warmup_steps, batch = vars(cell.schedule).values()
    return [f"{cell.resolution}px", f"{steps}steps", f"warmup{warmup_steps}", f"batch{batch}", f"from-{cell.upstream}"]


def cell_named(name: str) -> Cell:
    """The cell of a name such as `ViT-B_16/cifar10/0.1` or `ViT-L_32/cifar100/0.1/224px/from-imagenet21k+imagenet2012`.

    Raises:
        InputError: it has another form, or says what doesn't exist.
    """
    if (match := _NAME.fullmatch(name)) is None:
        raise InputError(f"cell {name!r} is no name of a cell: give {FORM}")
    model, dataset, dropout, resolution, steps, warmup_steps, batch, upstream = match.groups()
    try:
        official = official_cell(model, dataset)
        schedule = official.schedule
        return official_cell(
            model,
            dataset,
            dropout=float(dropout),
            resolution=int(resolution or official.resolution),
            schedule=Schedule(
                int(steps or schedule.total_steps),
                int(warmup_steps or schedule.warmup_steps),
                int(batch or schedule.global_batch_size),
            ),
            upstream=upstream or official.upstream,
        )
    except ValueError as error:
        raise InputError(f"cell {name!r}: {error}") from error
