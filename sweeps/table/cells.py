"""Cell and Trial: entries of the table and what may fill them; the published grids as data."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from vit_trainer.architectures import MODELS
from vit_trainer.config import FinetuneConfig, warmup_within
from vit_trainer.data.datasets import DATASETS, dataset_id, dataset_info, is_folder
from vit_trainer.errors import InputError, one_of


@dataclass(frozen=True)
class Schedule:
    """How long and with how many images per step a cell is trained."""

    total_steps: int
    """Optimiser steps, warm-up included."""
    warmup_steps: int
    """Optimiser steps of linear warm-up."""
    global_batch_size: int = 512
    """Images per optimiser step."""


@dataclass(frozen=True)
class Cell:
    """One entry of the table. Its candidates (learning rates, seeds) compete only among themselves."""

    upstream: str
    model: str
    dataset: str
    resolution: int
    schedule: Schedule
    dropout: float | None
    """Probability in [0, 1); None: searched, each trial has its own."""

    @property
    def name(self) -> str:
        """Readable and unique within a sweep: `ViT-B_16 cifar10 384px 10000 steps d0.1 from imagenet21k`."""
        dropout = "dropout searched" if self.dropout is None else f"d{self.dropout:g}"
        steps = f"{self.schedule.total_steps} steps"
        if self.dataset in DATASETS or is_folder(self.dataset):  # of a folder's id no recipe is known
            recipe = dataset_info(self.dataset)
            if self.schedule.warmup_steps != recipe.warmup_steps:
                steps += f" warm-up {self.schedule.warmup_steps}"
            if self.schedule.global_batch_size != recipe.global_batch_size:
                steps += f" batch {self.schedule.global_batch_size}"
        return f"{self.model} {self.dataset} {self.resolution}px {steps} {dropout} from {self.upstream}"

    @property
    def values(self) -> dict[str, Any]:
        """What else than its model, data set and dropout it is trained with, by the names in FinetuneConfig."""
        return {"resolution": self.resolution, "upstream": self.upstream, **vars(self.schedule)}

    def with_values(self, given: Mapping[str, Any]) -> "Cell":
        """The cell with some of these replaced; steps that don't leave room for its warm-up have its share of them.

        Raises:
            InputError: a value that the model or a run can't have.
        """
        new, own = {**self.values, **given}, self.schedule
        if "warmup_steps" not in given:
            new["warmup_steps"] = warmup_within(new["total_steps"], own.warmup_steps, own.total_steps)
        _ = FinetuneConfig(self.model, self.dataset, dropout=self.dropout or 0.0, **new)  # checks the values
        resolution, upstream = new.pop("resolution"), new.pop("upstream")
        return replace(self, resolution=resolution, upstream=upstream, schedule=Schedule(**new))

    @property
    def as_recorded(self) -> "Cell":
        """The cell as storages have it: a folder of classes by its id."""
        return replace(self, dataset=dataset_id(self.dataset))


@dataclass(frozen=True)
class Trial:
    """A cell with its nuisance values: one run."""

    cell: Cell
    base_lr: float
    """Learning rate after warm-up."""
    seed: int
    """Decides image order, crops, flips and dropout masks."""
    dropout: float | None = None
    """Probability in [0, 1); None: the cell's."""
    warmup_steps: int | None = None
    """Optimiser steps of linear warm-up; None: the cell's."""

    @property
    def recipe(self) -> tuple[float, float, int]:
        """(base_lr, dropout, warmup_steps): trials of a cell that share it are seeds of one candidate."""
        dropout = self.cell.dropout if self.dropout is None else self.dropout
        assert dropout is not None, "a cell whose dropout is searched has trials that give one"
        warmup_steps = self.cell.schedule.warmup_steps if self.warmup_steps is None else self.warmup_steps
        return self.base_lr, dropout, warmup_steps

    @property
    def config(self) -> FinetuneConfig:
        """What train() is called with; raises InputError for values that make no sense."""
        cell, (base_lr, dropout, warmup_steps) = self.cell, self.recipe
        values = cell.values | {"warmup_steps": warmup_steps}
        return FinetuneConfig(cell.model, cell.dataset, dropout=dropout, base_lr=base_lr, seed=self.seed, **values)

    @property
    def trial_id(self) -> str:
        return self.config.trial_id


@dataclass(frozen=True)
class Grid:
    """Models x datasets x dropouts, as the published table has them."""

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    dropouts: tuple[float | None, ...] = (0.0, 0.1)
    """None: searched within a cell, instead of one cell per dropout."""


PAPER = Grid(
    models=("R50+ViT-B_16", "ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32"),
    datasets=("cifar10", "cifar100", "imagenet2012"),
)
"""The official table, in its order; 384 px, from imagenet21k."""

MINI = Grid(models=tuple(f"{name}-mini" for name in PAPER.models), datasets=("digits-even", "digits-odd"))
"""The table's question on a laptop: the five architectures in miniature, two data sets of real digits."""


def official_cell(
    model: str,
    dataset: str,
    *,
    dropout: float | None = 0.0,
    resolution: int | None = None,
    schedule: Schedule | None = None,
    upstream: str | None = None,
) -> Cell:
    """The cell of a model on a data set by its official recipe, but for what is given.

    >>> official_cell("ViT-B_16", "cifar10", resolution=224, schedule=Schedule(500, 50)).name
    'ViT-B_16 cifar10 224px 500 steps warm-up 50 d0 from imagenet21k'

    Raises:
        InputError: a name that doesn't exist, or a value that the model or a run can't have.
    """
    given: dict[str, Any] = {"dropout": dropout, "resolution": resolution, "upstream": upstream}
    given |= {} if schedule is None else vars(schedule)
    overrides = {name: value for name, value in given.items() if value is not None}
    config = FinetuneConfig.official(model, dataset, **overrides)
    steps = Schedule(config.total_steps, config.warmup_steps, config.global_batch_size)
    return Cell(config.upstream, model, config.dataset, config.resolution, steps, dropout)


def cells_of(grid: Grid) -> list[Cell]:
    """A grid's cells in the order of the table, each by the official recipe of its model and data set.

    Raises:
        InputError: a name that doesn't exist, or a dropout outside [0, 1).
    """
    axes = product(grid.models, grid.datasets, grid.dropouts)
    return [official_cell(model, dataset, dropout=dropout) for model, dataset, dropout in axes]


def cell_of(config: Mapping[str, Any]) -> Cell:
    """The cell that a config.json belongs to; where dropout or warm-up were searched, with the trial's own.

    Raises:
        InputError: it isn't the config of a trial.
    """
    try:
        steps, warmup_steps = int(config["total_steps"]), int(config["warmup_steps"])
        schedule = Schedule(steps, warmup_steps, int(config["global_batch_size"]))
        upstream, model, dataset = str(config["upstream"]), str(config["model"]), str(config["dataset"])
        cell = Cell(upstream, model, dataset, int(config["resolution"]), schedule, float(config["dropout"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"this is no trial's config ({type(error).__name__}: {error}): give the content of a config.json"
        ) from error
    if cell.model not in MODELS:
        raise one_of("model", cell.model, list(MODELS))
    if steps < 1:
        raise InputError(f"total_steps {steps} is below 1: give the number of optimiser steps")
    return cell


def place_in_table(cell: Cell) -> tuple[object, ...]:
    """To sort by: models and data sets in the order of the published table, then what else tells cells apart."""
    models, datasets = [*PAPER.models, *MINI.models, *MODELS], list(DATASETS)
    dataset = datasets.index(cell.dataset) if cell.dataset in datasets else len(datasets)
    schedule = (cell.schedule.total_steps, cell.schedule.global_batch_size, cell.schedule.warmup_steps)
    dropout = -1.0 if cell.dropout is None else cell.dropout
    return (models.index(cell.model), dataset, cell.dataset, dropout, cell.upstream, -cell.resolution, schedule)


_NAME = re.compile(
    r"([^/]+)/(.+?)/(\d+(?:\.\d+)?)(?:/(\d+)px)?(?:/(\d+)steps)?(?:/warmup(\d+))?(?:/batch(\d+))?(?:/from-([^/]+))?"
)


FORM = "model/dataset/dropout, then where it isn't official /224px /500steps /warmup50 /batch256 /from-UPSTREAM"


def name_of_cell(cell: Cell) -> str:
    """What `cell_named` reads; but `searched` for a dropout that is, and a folder of classes' id, stand for no cell.

    >>> name_of_cell(official_cell("ViT-B_16", "cifar10", dropout=0.1, resolution=224, schedule=Schedule(500, 50)))
    'ViT-B_16/cifar10/0.1/224px/500steps/warmup50'
    """
    dropout = "searched" if cell.dropout is None else f"{float(cell.dropout)}"
    return "/".join([cell.model, cell.dataset, dropout, *_unofficial(cell)])


def short_name(cell: Cell) -> str:
    """What tells a cell from the official ones, for narrow columns: `ViT-L_16 cifar10 d0`.

    >>> short_name(official_cell("ViT-B_16", "cifar10", dropout=0.1, resolution=224, schedule=Schedule(500, 50)))
    'ViT-B_16 cifar10 d0.1 224px 500steps warmup50'
    """
    dropout = "searched" if cell.dropout is None else f"{cell.dropout:g}"
    return " ".join([cell.model, dataset_id(cell.dataset), f"d{dropout}", *_unofficial(cell)])


def _unofficial(cell: Cell) -> list[str]:
    try:
        official = _parts(official_cell(cell.model, cell.dataset))
    except InputError:  # the id of a folder of classes
        official = []
    return [part for part in _parts(cell) if part not in official]


def _parts(cell: Cell) -> list[str]:
    steps, warmup_steps, batch = vars(cell.schedule).values()
    return [f"{cell.resolution}px", f"{steps}steps", f"warmup{warmup_steps}", f"batch{batch}", f"from-{cell.upstream}"]


def cell_named(name: str, as_known: Callable[[str], str] = str) -> Cell:
    """The cell of a name such as `ViT-B_16/cifar10/0.1` or `ViT-L_32/cifar100/0.1/224px/from-imagenet21k+imagenet2012`.

    Args:
        as_known: gives the name of a data set under which a storage knows it.

    Raises:
        InputError: it has another form, or says what doesn't exist.
    """
    if (match := _NAME.fullmatch(name)) is None:
        raise InputError(f"cell {name!r} is no name of a cell: give {FORM}")
    model, dataset, dropout, *numbers, upstream = match.groups()
    names = ("resolution", "total_steps", "warmup_steps", "global_batch_size")
    try:
        given: dict[str, Any] = {name: int(text) for name, text in zip(names, numbers, strict=True) if text}
        given |= {"upstream": upstream} if upstream else {}
        return replace(official_cell(model, as_known(dataset)), dropout=float(dropout)).with_values(given)
    except ValueError as error:
        raise InputError(f"cell {name!r}: {error}") from error
