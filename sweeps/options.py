"""SweepOptions: the flags that every sweep understands, and what they make of its cells."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sweeps.cells import MINI, PAPER, Cell, Grid, Trial
from sweeps.rates import card_of
from vit_trainer.architectures import MODELS
from vit_trainer.config import FinetuneConfig
from vit_trainer.data import DATASETS, dataset_info, is_folder
from vit_trainer.errors import InputError, one_of
from vit_trainer.folders import Folder, is_uri, open_folder
from vit_trainer.run_dir import RunDir

_SEVERAL = Parameter(consume_multiple=True, negative=(), show_default=False)


@dataclass(frozen=True)
class SweepOptions:
    """Which cells and candidates, where, and how."""

    preset: Literal["auto", "paper", "mini"] = "auto"
    """paper: the published grid. mini: its miniature, minutes on a laptop. auto: paper if the Ray cluster has GPUs."""
    models: Annotated[tuple[str, ...], _SEVERAL] = ()
    """Models, such as ViT-B_16 (ViT-B_16-mini in the miniature); the preset's unless given."""
    datasets: Annotated[tuple[str, ...], _SEVERAL] = ()
    """Data sets, such as cifar10 (digits-even in the miniature) or ./folder-of-classes; the preset's unless given."""
    dropouts: Annotated[tuple[float, ...], _SEVERAL] = ()
    """Dropout probabilities in [0, 1); 0.0 and 0.1 unless given."""
    base_lrs: Annotated[tuple[str, ...], _SEVERAL] = ()
    """Candidate base learning rates, or `official` for the published one alone; the paper's four unless given."""
    seeds: Annotated[tuple[int, ...], _SEVERAL] = (0,)
    """Seeds; each is another candidate of its cell."""
    storage: str = "sweep-results"
    """Where run folders lie: a folder, or a URI such as s3://bucket/folder. The same command with the same storage
    goes on where it stopped."""
    tracking_uri: str | None = None
    """MLflow server or store; a SQLite file in the storage unless given."""
    plan: Annotated[bool, Parameter(negative=())] = False
    """Print what would run and its predicted cost, and start nothing."""
    probe: Annotated[bool, Parameter(negative=())] = False
    """With --plan: measure each model on this machine, instead of assuming a share of the card's peak."""
    probe_seconds: float = 60.0
    """How long to measure each model with and without dropout; what the storage holds of that isn't measured again."""
    card: str | None = None
    """GPU to plan for, such as A100-40GB or H100; the cluster's unless given."""
    price_per_gpu_hour: float | None = None
    """Dollars, for the plan."""
    max_gpu_hours: float | None = None
    """Stop when the next step would pass this, having started with the cells that take least; no limit unless given."""
    early_stopping: bool = True
    """Stop candidates that fall behind others of their cell (ASHA)."""
    max_failures: int = 3
    """How often a trial starts again after a process of it died. Lost nodes don't count."""
    gpus_per_trial: int = 1
    """GPUs of each trial, which share its batches; CPU cores where there is no GPU."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("probe_seconds", "seconds such as 60"),
            ("price_per_gpu_hour", "dollars such as 2.5"),
            ("max_gpu_hours", "hours such as 100"),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} {value:g} is not a positive number: give {kind}")
        if self.probe and not self.plan:
            raise InputError("--probe measures for a plan: give --plan too")
        if self.card is not None:
            card_of(self.card)  # raises unless it is known
        if self.max_failures < 0:
            raise InputError(f"max_failures {self.max_failures} is below 0: give how often to try again, 0 for never")
        if self.gpus_per_trial < 1:
            raise InputError(f"gpus_per_trial {self.gpus_per_trial} is below 1: give a number of GPUs")

    def grid(self, preset: Literal["paper", "mini"]) -> Grid:
        """The preset's grid, narrowed or replaced by what was asked for.

        Raises:
            InputError: a model or data set that doesn't exist, or not in this preset.
        """
        grid = MINI if preset == "mini" else PAPER
        models = [name for name in MODELS if name.endswith("-mini") == (preset == "mini")]
        datasets = [name for name in DATASETS if name.startswith("digits-") == (preset == "mini")]
        if preset == "paper":
            datasets += [name for name in self.datasets if is_folder(name)]
        for kind, given, valid in (("model", self.models, models), ("dataset", self.datasets, datasets)):
            for name in given:
                if name not in valid:
                    raise one_of(f"{kind} of --preset {preset}", name, valid)
        return Grid(self.models or grid.models, self.datasets or grid.datasets, self.dropouts or grid.dropouts)

    def candidates(self, cells: list[Cell]) -> list[Trial]:
        """Every candidate of every cell: its learning rates times the seeds.

        Raises:
            InputError: a learning rate or seed that makes no sense.
        """
        trials = [
            Trial(cell, base_lr, seed) for cell in cells for base_lr in self._base_lrs_of(cell) for seed in self.seeds
        ]
        for trial in trials:
            _ = trial.config  # checks the values
        return trials

    def _base_lrs_of(self, cell: Cell) -> tuple[float, ...]:
        if not self.base_lrs:
            return dataset_info(cell.dataset).base_lrs
        if self.base_lrs == ("official",):
            return (FinetuneConfig.official(cell.model, cell.dataset).base_lr,)
        try:
            return tuple(float(rate) for rate in self.base_lrs)
        except ValueError:
            given = " ".join(self.base_lrs)
            raise InputError(f"base_lrs {given!r} are no numbers: give rates such as 0.01 0.03, or official") from None

    @cached_property
    def folder(self) -> Folder:
        """The storage; a path as an absolute one, since a trial's process may have another current folder."""
        return open_folder(self.storage if is_uri(self.storage) else Path(self.storage).expanduser().resolve())

    def run_dir(self, trial: Trial) -> RunDir:
        """The run folder of a trial."""
        return RunDir(self.folder.child("runs").child(trial.trial_id))
