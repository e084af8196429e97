"""SweepOptions: the flags that every sweep understands."""

import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sweeps.machines.cards import card_of
from sweeps.table.cells import Cell, Trial
from sweeps.table.published import published_base_lr
from sweeps.table.search_space import Searched
from vit_trainer.architectures import MODELS
from vit_trainer.command_line import EXECUTION, PLAN, SEARCH, WHAT, WHERE, TrackingUri
from vit_trainer.data.datasets import dataset_id, dataset_info
from vit_trainer.data.earlier_ids import as_known
from vit_trainer.errors import DamagedError, InputError, one_of
from vit_trainer.files.location import folder_location, is_uri, local_path, split_uri
from vit_trainer.files.run_dir import Result, Run, RunDir
from vit_trainer.files.storage import Storage

SEVERAL = Parameter(consume_multiple=True, negative=(), show_default=False)
"""Parameter of a flag that takes several values."""

VALUES = ("total_steps", "warmup_steps", "global_batch_size", "resolution", "upstream")
"""Flags that replace a value of every cell."""

DEFAULT_NUM_TRIALS = 8
"""Trials per cell of an Optuna search."""


@Parameter(name="*", group=WHAT.group)
@dataclass(frozen=True)
class SweepOptions:
    """Which cells and candidates, where, and how."""

    preset: Literal["auto", "paper", "mini"] = "auto"
    """paper: the published grid. mini: its miniature, minutes on a laptop. auto: paper if the Ray cluster has GPUs."""
    models: Annotated[tuple[str, ...], SEVERAL] = ()
    """Models, such as ViT-B_16 (ViT-B_16-mini in the miniature); all of the question's unless given."""
    datasets: Annotated[tuple[str, ...], SEVERAL] = ()
    """Data sets, such as cifar10 (digits-even in the miniature) or ./folder-of-classes."""
    dropouts: Annotated[tuple[float, ...], SEVERAL] = ()
    """Dropout probabilities in [0, 1); the question's unless given. Two numbers are the range where it is searched."""
    base_lrs: Annotated[tuple[str, ...], SEVERAL] = ()
    """Candidate base learning rates, or `official` for the published one alone; the paper's four unless given."""
    total_steps: int | None = None
    """Optimiser steps, warm-up included; the data set's recipe's unless given."""
    warmup_steps: int | None = None
    """Optimiser steps of linear warm-up; the recipe's unless given, or its share of fewer --total-steps."""
    global_batch_size: int | None = None
    """Images per optimiser step; the recipe's unless given."""
    resolution: int | None = None
    """Side of the input image in pixels; 384 unless given (32 in the miniature)."""
    upstream: str | None = None
    """What to start from: imagenet21k, imagenet21k+imagenet2012, digits, scratch; the recipe's unless given."""
    seeds: Annotated[tuple[int, ...], SEVERAL] = (0,)
    """Seeds of each candidate, which counts by their mean; those beyond the first run where it goes on."""
    storage: Annotated[str, WHERE] = "sweep-results"
    """Folder of the run folders, or a URI such as s3://bucket/folder; with the same one, the same command goes on."""
    tracking_uri: Annotated[TrackingUri, WHERE] = None
    """MLflow server or store; a SQLite file in the storage unless given."""
    register: Annotated[bool, WHERE] = False
    """Put each cell's chosen candidate into MLflow's model registry, to be served; implies --save-weights."""
    tensorboard: Annotated[bool, WHERE] = False
    """Write TensorBoard event files too, to tensorboard in the storage, which must be a local folder."""
    notify: Annotated[str | None, WHERE] = None
    """Web address that is told by a small JSON object when the sweep ends, a cell fails or the budget is reached."""
    plan: Annotated[bool, PLAN] = False
    """Print what would run and its predicted cost, and start nothing."""
    quiet: Annotated[bool, EXECUTION] = False
    """Show nothing of the trials while they run; the table at the end and what failed are printed all the same."""
    probe: Annotated[bool, PLAN] = False
    """With --plan: measure each model on this machine, instead of assuming a share of the card's peak."""
    probe_seconds: Annotated[float, PLAN] = 60.0
    """How long to measure each model with and without dropout; what the storage holds of that isn't measured again."""
    cluster: Annotated[Path | None, PLAN] = None
    """With --plan: a cluster file such as clusters/a100.yaml, to plan for it before it is launched."""
    card: Annotated[str | None, PLAN] = None
    """GPU to plan for, such as A100-40GB or RTX-4090; the cluster's or this machine's unless given."""
    price_per_gpu_hour: Annotated[float | None, PLAN] = None
    """Dollars; the list price of the cluster's machines unless given, where it was launched by `ray up`."""
    max_gpu_hours: Annotated[float | None, PLAN] = None
    """End before trials have held GPUs for longer, starts and retries included; cells that take least begin first."""
    max_dollars: Annotated[float | None, PLAN] = None
    """A limit as --max-gpu-hours, in dollars; what a cloud asks for the head, idle minutes and disks comes on top."""
    early_stopping: Annotated[Literal["asha", "rehearsal"] | None, Parameter(negative_none="no-"), SEARCH] = "asha"
    """asha: a cell's candidates pause at a rung, the best go on. rehearsal: 500 steps of each, then the best whole."""
    search: Annotated[Literal["grid", "optuna"], SEARCH] = "grid"
    """grid: every candidate of every cell. optuna: a study per cell proposes them, between two --base-lrs if given."""
    num_trials: Annotated[int | None, SEARCH] = None
    """Trials per cell with --search optuna, up to 10000, those there already (of a grid, say) included; 8 unless
    given."""
    search_over: Annotated[tuple[Searched, ...], SEVERAL, SEARCH] = ("base_lr",)
    """What Optuna proposes; with dropout among it, the cells of several dropouts become one."""
    optuna_storage: Annotated[str | None, SEARCH] = None
    """File or database URL (postgresql://...) that optuna-dashboard opens; optuna.log in the storage unless given."""
    max_failures: Annotated[int, EXECUTION] = 3
    """How often a trial starts again after a process of it died. Lost nodes don't count."""
    gpus_per_trial: Annotated[tuple[str, ...], SEVERAL, EXECUTION] = ("1",)
    """GPUs of each trial, or CPU cores where there is no GPU: a number up to 1024, for some models another
    (1 ViT-L_16=4)."""
    grow_gangs: Annotated[bool | None, EXECUTION] = None
    """Whether a trial that would end last gets more GPUs, as it begins or later; on GPUs, unless --deterministic."""
    reduction_factor: Annotated[float, SEARCH] = 2
    """At each rung one candidate in so many goes on, and the next rung is so many times later; in [1.1, 1000]."""
    grace_fraction: Annotated[float, SEARCH] = 0.25
    """Where the first rung is, as a fraction of a candidate's steps; in [0.001, 1)."""
    num_rungs: Annotated[int, SEARCH] = 1
    """Rungs of a grid's candidates at most; those of --search optuna are as many as fit."""
    keep: Annotated[int, SEARCH] = 2
    """How many of a cell's candidates --early-stopping rehearsal runs whole; the published rate comes on top."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("probe_seconds", "seconds such as 60"),
            ("price_per_gpu_hour", "dollars such as 2.5"),
            ("max_gpu_hours", "hours such as 100"),
            ("max_dollars", "dollars such as 500"),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} {value:g} is not a positive number: give {kind}")
        if self.notify is not None:
            _require_url(self.notify)
        if self.tracking_uri is not None:
            split_uri(self.tracking_uri, "tracking-uri")  # raises unless it is one
        if self.optuna_storage is not None and not is_uri(self.optuna_storage):
            local_path(self.optuna_storage, "optuna storage")  # raises where no file can be
        if self.tensorboard and isinstance(folder_location(self.storage), str):
            raise InputError(
                f"storage {self.storage} can't hold event files: leave --tensorboard out, or give a folder"
            )
        if self.probe and not self.plan:
            raise InputError("--probe measures for a plan: give --plan too")
        if self.cluster is not None and not self.plan:
            raise InputError(f"--cluster {self.cluster} is for a plan: give --plan too, or `ray up {self.cluster}`")
        if self.cluster is not None and self.probe:
            raise InputError("--probe measures this machine, not a cluster to come: leave it or --cluster out")
        if self.card is not None:
            card_of(self.card)  # raises unless it is known
        if self.max_failures < 0:
            raise InputError(f"max_failures {self.max_failures} is below 0: give how often to try again, 0 for never")
        _ = self._gpus_of_models  # checks the values
        self._check_selection()
        self._check_search()

    def _check_selection(self) -> None:
        if not 1.1 <= self.reduction_factor <= 1000:
            raise InputError(f"reduction_factor {self.reduction_factor} is outside [1.1, 1000]: give such as 2")
        if not 0.001 <= self.grace_fraction < 1:
            raise InputError(f"grace_fraction {self.grace_fraction} is outside [0.001, 1): give such as 0.25")
        for name in ("num_rungs", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is below 1: give a whole number such as 2")

    def _check_search(self) -> None:
        if self.search == "grid":
            given = {
                "num_trials": self.num_trials is not None,
                "search_over": self.search_over != ("base_lr",),
                "optuna_storage": self.optuna_storage is not None,
            }
            for name in (name for name, is_given in given.items() if is_given):
                raise InputError(f"{name} is for --search optuna only: add that, or leave {name} out")
            return
        if self.num_trials is not None and not 1 <= self.num_trials <= 10_000:
            raise InputError(f"num_trials {self.num_trials} is outside [1, 10000]: give the number of trials per cell")
        if not self.search_over:
            raise InputError("search_over is empty: give one or more of base_lr, dropout and warmup_steps")
        if self.warmup_steps is not None and "warmup_steps" in self.search_over:
            raise InputError(f"warmup_steps {self.warmup_steps} is searched over: leave it out, here or there")
        if not self.seeds:
            raise InputError("0 seeds with --search optuna: give one, or more to have each proposal's mean")
        _ = self.base_lr_ends, self.dropout_ends  # checks the values
        if self.optuna_storage is None and isinstance(folder_location(self.storage), str):
            raise InputError(
                f"storage {self.storage} can't hold an Optuna study: give --optuna-storage a file or a database URL"
            )

    @cached_property
    def _gpus_of_models(self) -> dict[str, int]:
        """GPUs of each model's trials as given; the number for all others under the empty name."""
        numbers = {"": 1}
        for given in self.gpus_per_trial:
            model, _, number = given.rpartition("=")
            if model and model not in MODELS:
                raise one_of("model", model, list(MODELS))
            if not number.isdecimal() or not 1 <= int(number[:9]) <= 1024:
                raise InputError(f"gpus_per_trial {given!r} is no number in [1, 1024]: give such as 2, or ViT-L_16=4")
            numbers[model] = int(number)
        return numbers

    @cached_property
    def known_datasets(self) -> tuple[str, ...]:
        """The data sets, see `as_known`; of folders with the same images under one id the first."""
        known: dict[str, str] = {}
        for name in map(self.as_known, self.datasets):
            known.setdefault(dataset_id(name), name)
        return tuple(known.values())

    def as_known(self, dataset: str) -> str:
        """A data set's name, of a folder of classes as the storage knows it; prints what is to say of that."""
        return as_known(dataset, self.opened_storage, say=print)

    @property
    def values(self) -> dict[str, int | str]:
        """What was given of `Cell.values`."""
        given = {name: getattr(self, name) for name in VALUES}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def selection(self) -> str:
        """How the candidates of a cell are selected, for who compares results."""
        return self.early_stopping or "none"

    def gpus_of(self, model: str) -> int:
        """GPUs of a model's trials."""
        return self._gpus_of_models.get(model, self._gpus_of_models[""])

    def settled(self, result: Result | None) -> Result | None:
        """The result if it needs no further work: finished, or stopped where ASHA is still asked for."""
        if result is None or result["status"] == "failed":
            return None
        return None if result["status"] == "stopped" and self.early_stopping != "asha" else result

    def base_lrs_of(self, cell: Cell) -> tuple[float, ...]:
        """The learning rates of a cell's candidates."""
        if not self.base_lrs:
            return dataset_info(cell.dataset).base_lrs
        if self.base_lrs == ("official",):
            return (published_base_lr(cell),)
        try:
            return tuple(float(rate) for rate in self.base_lrs)
        except ValueError:
            given = " ".join(self.base_lrs)
            raise InputError(f"base_lrs {given!r} are no numbers: give rates such as 0.01 0.03, or official") from None

    @cached_property
    def opened_storage(self) -> Storage:
        """What --storage names."""
        return Storage(self.storage)

    @property
    def num_trials_per_cell(self) -> int:
        """Trials per cell of an Optuna search."""
        return self.num_trials or DEFAULT_NUM_TRIALS

    @property
    def base_lr_ends(self) -> tuple[float, float] | None:
        """Between which rates --search optuna proposes; None: around the official one."""
        if not self.base_lrs:
            return None
        given = " ".join(self.base_lrs)
        if "base_lr" not in self.search_over:
            raise InputError(f"base_lrs {given} without base_lr in search_over: leave them out, or search over base_lr")
        try:
            low, high = map(float, self.base_lrs)
        except ValueError:
            low = high = math.nan
        if not 0 < low < high < math.inf:
            raise InputError(f"base_lrs {given} are no range: with --search optuna give two rates such as 0.001 0.1")
        return low, high

    @property
    def dropout_ends(self) -> tuple[float, float] | None:
        """Between which dropouts --search optuna proposes; None: the usual ones."""
        if not self.dropouts or "dropout" not in self.search_over:
            return None
        if len(self.dropouts) != 2 or not 0 <= self.dropouts[0] < self.dropouts[1] < 1:
            given = " ".join(f"{dropout:g}" for dropout in self.dropouts)
            raise InputError(f"dropouts {given} are no range: to search over dropout give two in [0, 1) such as 0 0.3")
        return self.dropouts[0], self.dropouts[1]

    def run_dir(self, trial: Trial) -> RunDir:
        """The run folder of a trial."""
        return self.opened_storage.run_dir(trial.trial_id)

    def run_of(self, trial: Trial) -> Run | None:
        """What the run folder of a trial holds; None: nothing, or something damaged, so that nothing of it counts."""
        with suppress(DamagedError):
            return self.run_dir(trial).read()
        return None

    def say_left_out(self, lines: Iterable[str]) -> None:
        """Name what of the storage is left out and why, each once."""
        for line in dict.fromkeys(lines):
            if line not in self._said:
                print(f"left out: {line}", file=sys.stderr)
                self._said.add(line)

    @cached_property
    def _said(self) -> set[str]:
        return set()


def _require_url(url: str) -> None:
    """Raise InputError for what can't be posted to."""
    parts = split_uri(url, "notify")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.port == 0:
        raise InputError(f"notify {url!r} is no web address: give one such as https://host/path")
