"""DATASETS: name -> what is known of a data set before any of it is read; load_dataset() reads it.

Importing this module reads nothing and imports only the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vit_trainer.errors import DataError

if TYPE_CHECKING:
    from vit_trainer.data.splits import Splits


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set that planning and validation need."""

    num_classes: int
    """Classes, numbered from 0."""
    num_train: int
    """Training images that the optimiser sees (98% of CIFAR's, 99% of ImageNet's; the rest is validation)."""
    num_validation: int
    """Images held out from the training set: early stopping and the choice of a learning rate look at these."""
    num_test: int
    """Test images: looked at once, at the last step."""
    total_steps: int
    """Optimiser steps of the official schedule."""
    warmup_steps: int
    """Optimiser steps of linear warm-up in the official schedule."""
    global_batch_size: int = 512
    """Images per optimiser step."""
    upstream: str = "imagenet21k"
    """The checkpoints that fine-tuning starts from unless told otherwise."""
    official_base_lr: float = 0.03
    """Base learning rate of the official recipe."""
    base_lrs: tuple[float, ...] = (0.03,)
    """Candidate base learning rates of a sweep: for the official data sets, those of the paper."""
    num_evaluations: int = 40
    """Validations per run, evenly spaced, the last at the last step."""


_CIFAR_LRS, _IMAGENET_LRS = (0.001, 0.003, 0.01, 0.03), (0.003, 0.01, 0.03, 0.06)

DATASETS: dict[str, DatasetInfo] = {
    "cifar10": DatasetInfo(10, 49_000, 1_000, 10_000, 10_000, 500, base_lrs=_CIFAR_LRS),
    "cifar100": DatasetInfo(100, 49_000, 1_000, 10_000, 10_000, 500, base_lrs=_CIFAR_LRS),
    "imagenet2012": DatasetInfo(1000, 1_268_355, 12_812, 50_000, 20_000, 500, base_lrs=_IMAGENET_LRS),
}


def _digits(num_classes: int, num_train: int, num_validation: int, num_test: int) -> DatasetInfo:
    return DatasetInfo(
        num_classes,
        num_train,
        num_validation,
        num_test,
        total_steps=80,
        warmup_steps=8,
        global_batch_size=64,
        upstream="digits",
        base_lrs=(0.01, 0.03),
        num_evaluations=8,
    )


DATASETS |= {
    "digits-even": _digits(5, 181, 90, 180),
    "digits-odd": _digits(5, 179, 90, 179),
    "digits-pretrain": replace(
        _digits(10, 718, 180, 180), upstream="scratch", total_steps=2000, warmup_steps=200, official_base_lr=0.1
    ),
}


def require_dataset(name: str) -> None:
    """Check that a data set can be read here, without reading it.

    Raises:
        DataError: it can't; says what to put where.
    """
    if not name.startswith("digits-"):
        raise DataError(f"data set {name} cannot be read yet: choose from digits-even, digits-odd")


def load_dataset(name: str) -> Splits:
    """Read a data set's images, or find them, as train, validation and test.

    Raises:
        DataError: the files are missing or damaged; says what to put where.
    """
    require_dataset(name)
    from vit_trainer.data.digits import load_digits_subset

    return load_digits_subset(name.removeprefix("digits-"))
