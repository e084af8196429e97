"""FinetuneConfig: what a trial is. Execution: how it is run. Standard library only."""

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from vit_trainer.architectures import MODELS, MOST_PER_SIDE
from vit_trainer.data.datasets import dataset_id, dataset_info, id_and_path, is_folder, resolved, with_id
from vit_trainer.errors import DataError, InputError, one_of
from vit_trainer.files.schema import trial_id_of

UPSTREAMS = ("imagenet21k", "imagenet21k+imagenet2012", "imagenet21k+imagenet2012-224", "digits", "scratch")
"""What a fine-tune starts from: released checkpoints, the miniatures' checkpoints, or random weights."""

OWN_WEIGHTS = ("npz-", "safetensors-")
"""How an upstream begins that is a file of one's own, by its kind."""

MOST_EVALUATION_SHARE = 0.03
"""Largest share of a run's floating-point operations that goes to all validations and the test."""
FEWEST_EVALUATIONS = 8
"""Validations per run, whatever they cost."""


def require_resolution(model: str, resolution: int) -> None:
    """Raise InputError unless images of this side in pixels can be given to a model."""
    if not MODELS[model].accepts(resolution):
        stride = MODELS[model].stride
        most = MOST_PER_SIDE * stride
        near = min(max(stride, round(resolution / stride) * stride), most)
        raise InputError(
            f"resolution {resolution} does not fit {model}: give a multiple of {stride}, such as {near}, up to {most}"
        )


def warmup_within(total_steps: int, warmup_steps: int, of_steps: int) -> int:
    """The warm-up of a recipe of `of_steps` steps if it ends within `total_steps`, else its share of these.

    >>> warmup_within(1000, 500, 10_000), warmup_within(400, 500, 10_000)
    (500, 20)
    """
    return warmup_steps if warmup_steps < total_steps else warmup_steps * total_steps // of_steps


@dataclass(frozen=True)
class FinetuneConfig:
    """One trial: every value that changes its result, and nothing else.

    GPUs, processes, micro-batches, workers and paths are not here, since the result doesn't depend on them.
    Values are checked, never repaired: a bad one raises `InputError`.
    """

    model: str
    """A key of MODELS."""
    dataset: str
    """A key of DATASETS, or the path of a folder of classes; see `data.is_folder`."""
    upstream: str = "imagenet21k"
    """One of UPSTREAMS; for a file of one's own `npz-` or `safetensors-`, and 12 hex digits of its SHA-256."""
    resolution: int = 384
    """Side of the input image in pixels; a multiple of the model's stride, up to 128 of them."""
    dropout: float = 0.0
    """Probability in [0, 1) at the official places: position embedding, attention output, GELU, second dense."""
    base_lr: float = 0.03
    """Learning rate after warm-up; positive."""
    total_steps: int = 10_000
    """Optimiser steps in the whole run, warm-up included; at least 1."""
    warmup_steps: int = 500
    """Optimiser steps of linear warm-up; in [0, total_steps)."""
    global_batch_size: int = 512
    """Images per optimiser step = micro_batch_size * num_processes * accumulation_steps; in [1, 2**20]."""
    seed: int = 0
    """Decides image order, crops, flips and dropout masks; in [0, 2**32)."""

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise one_of("model", self.model, list(MODELS))
        if not dataset_info(self.dataset).num_validation:
            raise DataError(
                f"dataset {self.dataset} can't be validated: each class in train/ has a single image, so that none can "
                "be held out; give more images, or both val/ and test/"
            )
        if self.upstream not in UPSTREAMS and not self.upstream.startswith(OWN_WEIGHTS):
            raise one_of("upstream", self.upstream, list(UPSTREAMS))
        require_resolution(self.model, self.resolution)
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout {self.dropout} is outside [0, 1): give the probability of dropping a value")
        if not (math.isfinite(self.base_lr) and self.base_lr > 0):
            raise InputError(f"base_lr {self.base_lr} is not positive: give a learning rate such as 0.03")
        if self.total_steps < 1:
            raise InputError(f"total_steps {self.total_steps} is below 1: give the number of optimiser steps")
        if not 0 <= self.warmup_steps < self.total_steps:
            raise InputError(f"warmup_steps {self.warmup_steps} is outside [0, total_steps={self.total_steps})")
        if not 1 <= self.global_batch_size <= 2**20:
            raise InputError(f"global_batch_size {self.global_batch_size} is outside [1, 2**20]: give images per step")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed {self.seed} is outside [0, 2**32): give a whole number such as 0")

    @classmethod
    def official(cls, model: str, dataset: str, **overrides: Any) -> "FinetuneConfig":
        """The published recipe for a model on a data set, with some values replaced.

        Rates as in the official configs (vit.py:35): 0.03, but 0.01 for ViT-B_16 on CIFAR-10. Steps that don't
        leave room for the recipe's warm-up have its share of them; a miniature starts from its own checkpoint.

        Raises:
            InputError: an override that is no field; the message names the nearest one.
        """
        if model not in MODELS:
            raise one_of("model", model, list(MODELS))
        if is_folder(dataset):
            given_id, path = id_and_path(dataset)
            path = resolved(path)  # a trial's process may have another current folder
            dataset = path if given_id is None else f"{given_id}:{path}"
        info = dataset_info(dataset)
        total_steps = overrides.get("total_steps", info.total_steps)
        values: dict[str, Any] = {
            "upstream": "digits" if MODELS[model].is_miniature and not info.is_miniature else info.upstream,
            "resolution": MODELS[model].resolution,
            "base_lr": 0.01 if (model, dataset) == ("ViT-B_16", "cifar10") else info.official_base_lr,
            "total_steps": total_steps,
            "warmup_steps": warmup_within(total_steps, info.warmup_steps, info.total_steps),
            "global_batch_size": info.global_batch_size,
        }
        names = [field.name for field in dataclasses.fields(cls)]
        for name in overrides:
            if name not in names:
                raise one_of("field", name, names)
        return cls(model, dataset, **(values | overrides))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, equal for equal configs; a folder of classes by its id, not its path."""
        numbers = {"dropout": float(self.dropout), "base_lr": float(self.base_lr)}
        return dataclasses.asdict(self) | numbers | {"dataset": dataset_id(self.dataset)}

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which may begin when a folder has other images: it is to refuse these then."""
        return vars(self) | {"dataset": with_id(self.dataset)}

    @property
    def num_evaluations(self) -> int:
        """Validations per run: what the data set's recipe says, or fewer if a shorter run would spend too much on them.

        With the test they then cost at most 3% of the run, a forward pass being a third of a training pass. Not below
        8, and a multiple of 4: one falls on each of early stopping's rungs.
        """
        info = dataset_info(self.dataset)
        forward_passes = MOST_EVALUATION_SHARE * 3 * self.total_steps * self.global_batch_size - info.num_test
        affordable = int(forward_passes / max(info.num_validation, 1)) // 4 * 4
        return min(info.num_evaluations, max(affordable, FEWEST_EVALUATIONS))

    @cached_property
    def trial_id(self) -> str:
        """A readable prefix and a hash of every field: the trial's name for ever.

        >>> FinetuneConfig("ViT-B_16", "cifar10", dropout=0.1).trial_id
        'ViT-B_16-cifar10-d0.1-lr0.03-s0-4916bc'
        """
        return trial_id_of(self.to_dict())


Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Execution:
    """How a trial is run. Nothing here changes what it learns, beyond rounding."""

    micro_batch_size: int | None = None
    """Images per forward and backward; unless given as many as usually fit, at most one process's share of a step."""
    precision: Precision = "auto"
    """Numbers in matrix products; auto: bfloat16 on GPUs that have it, else float32. Weights are float32."""
    compile: bool | None = None
    """Whether PyTorch compiles the model, which takes a minute or so per model and node; unless given on GPUs only."""
    evaluation_batch_size: int = 256
    """Images per forward pass of an evaluation; the result doesn't depend on it."""
    num_evaluations: int | None = None
    """Validations per run, evenly spaced, the last at the end; unless given the recipe's, at most 3% of the run."""
    log_every_steps: int = 50
    """Optimiser steps between rows of the journal that hold only the training loss."""
    checkpoint_every_minutes: float = 10.0
    """Time between checkpoints, what a lost machine costs at most, up to 1440; 2 are enough at a validation."""
    hang_minutes: float = 8.0
    """In a sweep, a process that takes no step for so long hangs, and its trial goes on from the last checkpoint; more
    where 20 steps usually take longer, and at the start. Not above 10, after which NCCL gives up without a word."""
    checkpoint: Path | None = None
    """Weights to start from instead of the upstream's: a local .npz, or a .safetensors of ours or timm's."""
    num_workers: int | None = None
    """Processes that decode image files, 0 for none, at most 1024; unless given as many as there are cores for it."""
    skip_unreadable: bool = False
    """Whether to go on without images that are damaged or, of imagenet2012, missing; each damaged one is named."""
    save_weights: bool = False
    """Whether a finished trial leaves model.safetensors."""
    deterministic: bool = False
    """Whether the same card makes the same bits again, also after a resume; what can't is refused. Slower on GPUs."""
    system_metrics: bool = False
    """Whether rows of the journal say how busy process and GPU are, as system/cpu_percent and so on."""
    profile: bool = False
    """Whether ten steps leave a trace in the run folder, and on a GPU a snapshot of its memory."""

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "evaluation_batch_size", "num_evaluations", "log_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value} is below 1: give a whole number of at least 1")
        for name, most in (("checkpoint_every_minutes", 1440), ("hang_minutes", 10)):
            if not 0 < getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name)} is outside (0, {most}]: give minutes such as 8")
        if self.num_workers is not None and not 0 <= self.num_workers <= 1024:
            raise InputError(f"num_workers {self.num_workers} is outside [0, 1024]: give a number of processes")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise one_of("precision", self.precision, ["auto", "float32", "bfloat16"])
