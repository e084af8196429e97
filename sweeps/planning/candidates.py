"""Candidates: which cells a sweep is about, and which trials of them compete, by its flags."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from sweeps.options import SweepOptions
from sweeps.table.cells import MINI, PAPER, Cell, Grid, Schedule, Trial, cells_of, official_cell
from sweeps.table.labels import Labels
from sweeps.table.published import published_base_lr
from sweeps.table.search_space import Space
from vit_trainer.architectures import MODELS
from vit_trainer.data.datasets import DATASETS, is_folder
from vit_trainer.errors import InputError, one_of

UNKNOWN_SEED = 1_000_000
"""From here on, seeds of trials that a search has yet to propose: no run has one."""


def grid_of(options: SweepOptions, preset: Literal["paper", "mini"]) -> Grid:
    """The preset's grid, narrowed or replaced by what was asked for.

    Raises:
        InputError: a model or data set that doesn't exist, or not in this preset.
    """
    grid = MINI if preset == "mini" else PAPER
    models = [name for name, model in MODELS.items() if model.is_miniature == (preset == "mini")]
    datasets = [name for name, info in DATASETS.items() if info.is_miniature == (preset == "mini")]
    datasets += [name for name in options.known_datasets if is_folder(name)]
    for kind, given, valid in (("model", options.models, models), ("dataset", options.known_datasets, datasets)):
        for name in given:
            if name not in valid:
                hint = f"; or the path of a folder of classes, as ./{name}" if kind == "dataset" else ""
                raise InputError(f"{one_of(f'{kind} of --preset {preset}', name, valid)}{hint}")
    chosen = Grid(
        options.models or grid.models, options.known_datasets or grid.datasets, options.dropouts or grid.dropouts
    )
    return replace(chosen, dropouts=(None,)) if "dropout" in options.search_over else chosen


def cells_asked_for(options: SweepOptions, preset: Literal["paper", "mini"]) -> list[Cell]:
    """The cells of `grid_of`, with the values that were asked for. Raises InputError: as it, or a bad value."""
    return [cell.with_values(options.values) for cell in cells_of(grid_of(options, preset))]


def narrowed(options: SweepOptions, cells: Sequence[Cell]) -> list[Cell]:
    """The question's cells that were asked for; dropouts and other values that were asked for replace the question's.

    A folder of classes has the question's rows of its first data set.

    Raises:
        InputError: the question has no row of a model or data set, or none of both together, or it compares several of
            a value that was given; or a value that a model or a run can't have.
    """
    for name in options.values.keys() & Labels.of(cells).varying:
        raise InputError(f"{name} {options.values[name]} for all would leave nothing to compare: leave it out")
    folders = {name: official_cell(cells[0].model, name).dataset for name in options.known_datasets if is_folder(name)}
    asked_for = {"model": options.models, "dataset": [folders.get(name, name) for name in options.known_datasets]}
    first = [cell for cell in cells if cell.dataset == cells[0].dataset]
    there = (_on_folder(cell, folder) for folder in folders.values() for cell in first)
    chosen = cells = list(dict.fromkeys([*cells, *there]))
    for kind, names in asked_for.items():
        for name in names:
            if name not in (valid := list(dict.fromkeys(getattr(cell, kind) for cell in cells))):
                raise one_of(f"{kind} of this question", name, valid)
        chosen = [cell for cell in chosen if not names or getattr(cell, kind) in names]
    for kind, names in asked_for.items():
        for name in names:
            if name not in (getattr(cell, kind) for cell in chosen):
                rows = dict.fromkeys(f"{cell.model} on {cell.dataset}" for cell in cells)
                raise InputError(f"no row for {name} with what else was asked for: there are {', '.join(rows)}")
    chosen = [cell.with_values(options.values) for cell in chosen]
    dropouts: tuple[float | None, ...] = (None,) if "dropout" in options.search_over else options.dropouts
    if not dropouts:
        return chosen
    return list(dict.fromkeys(replace(cell, dropout=dropout) for cell in chosen for dropout in dropouts))


def _on_folder(cell: Cell, folder: str) -> Cell:
    """A question's cell on a folder of classes: where its schedule isn't its recipe's, the same share of the folder's.

    Raises:
        InputError: as `official_cell`.
    """
    own, usual = (official_cell(cell.model, dataset) for dataset in (folder, cell.dataset))
    steps, of_steps = own.schedule.total_steps, usual.schedule.total_steps
    scaled = Schedule(
        max(1, cell.schedule.total_steps * steps // of_steps),
        cell.schedule.warmup_steps * steps // of_steps,
        max(1, cell.schedule.global_batch_size * own.schedule.global_batch_size // usual.schedule.global_batch_size),
    )
    schedule = own.schedule if cell.schedule == usual.schedule else scaled
    return replace(cell, dataset=own.dataset, schedule=schedule)


def candidates(options: SweepOptions, cells: list[Cell]) -> list[Trial]:
    """Every candidate of every cell of a grid search: its learning rates times the seeds.

    Raises:
        InputError: a learning rate or seed that makes no sense.
    """
    assert options.search == "grid", "the candidates of --search optuna are those that its studies propose"
    trials = [
        Trial(cell, base_lr, seed) for cell in cells for base_lr in options.base_lrs_of(cell) for seed in options.seeds
    ]
    for trial in trials:
        _ = trial.config  # checks the values
    return trials


def planned_trials(options: SweepOptions, cells: list[Cell], configs: Sequence[Mapping[str, Any]] = ()) -> list[Trial]:
    """What a plan counts: the candidates, or for an Optuna search what it has and trials of the published recipe.

    Args:
        configs: of the runs in the storage, some of which the search has proposed, or counts as its own.
    """
    if options.search == "grid":
        return candidates(options, cells)
    trials = []
    for cell in cells:
        space = search_space(options, cell)
        found = [trial for config in configs if (trial := space.trial_of(cell, config))]
        own = [trial for trial in found if trial.seed in options.seeds]
        base_lr = published_base_lr(cell)
        num_to_come = options.num_trials_per_cell * len(options.seeds) - len(own)
        trials += own + [Trial(cell, base_lr, UNKNOWN_SEED + i, cell.dropout or 0.0) for i in range(num_to_come)]
    return trials


def search_space(options: SweepOptions, cell: Cell) -> Space:
    """What is searched in a cell, and within which ends."""
    space = Space.around_official(cell, options.search_over)
    if options.base_lr_ends:
        space = replace(space, base_lr=options.base_lr_ends)
    return replace(space, dropout=options.dropout_ends) if options.dropout_ends else space
