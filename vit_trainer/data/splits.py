"""Splits: what a data set gives to training and evaluation, whatever its source."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_trainer.augment import random_crops, resize_crops, whole_images


@dataclass(frozen=True)
class MicroBatch:
    """Which images one forward and backward sees."""

    step: int
    """Optimiser steps taken before."""
    positions: slice
    """Start and stop within the step's global batch."""
    indices: NDArray[np.int64]
    """(count,) images of the training split at these positions."""


class Split(Protocol):
    """One part of a data set."""

    def __len__(self) -> int:
        """Number of images."""

    def train_batches(
        self, micro_batches: Iterable[MicroBatch], *, seed: int, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented images (count, 3, R, R) float32 in [-1, 1] and labels (count,) int64, one pair per micro-batch."""

    def evaluation_batches(
        self, indices: NDArray[np.int64], batch_size: int, *, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole images at `indices`, in order, `batch_size` at a time: the same forms as `train_batches`."""


@dataclass(frozen=True)
class Splits:
    """The parts of a data set. Test is looked at once per trial, at its last step."""

    train: Split
    validation: Split
    test: Split


class InMemorySplit:
    """Images of one size, held as uint8; on the training device as a whole once it is first asked for them.

    CIFAR takes 147 MB there, and no input pipeline is left that could starve a GPU.
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        """images: (num_images, height, width, 3); labels: (num_images,)."""
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert len(images) == len(labels)
        self._images = torch.from_numpy(images)
        self._labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def _sizes(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        height, width = self._images.shape[1:3]
        return np.full(count, height), np.full(count, width)

    def _to(self, device: torch.device) -> None:
        self._images, self._labels = self._images.to(device), self._labels.to(device)

    def train_batches(
        self, micro_batches: Iterable[MicroBatch], *, seed: int, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self._to(device)
        for batch in micro_batches:
            chosen = torch.from_numpy(batch.indices).to(device, non_blocking=True)
            crops = random_crops(seed, batch.step, batch.positions, *self._sizes(len(batch.indices)))
            yield resize_crops(self._images[chosen], crops, resolution), self._labels[chosen]

    def evaluation_batches(
        self, indices: NDArray[np.int64], batch_size: int, *, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self._to(device)
        for first in range(0, len(indices), batch_size):
            chosen = torch.from_numpy(indices[first : first + batch_size]).to(device, non_blocking=True)
            crops = whole_images(*self._sizes(len(chosen)))
            yield resize_crops(self._images[chosen], crops, resolution), self._labels[chosen]
