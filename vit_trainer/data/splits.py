"""Splits: what a data set gives to training and evaluation, whatever its source."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_trainer.data.class_folders import held_out_per_class
from vit_trainer.data.crops import random_crops, resize_crops, whole_images
from vit_trainer.data.randomness import Stream, raw_bits
from vit_trainer.machine import to_device


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

    names: NDArray[np.bytes_]
    """(num_images,): path of each image in the data set's folder; (0,) where images have none."""

    def __len__(self) -> int:
        """Number of images."""

    def train_batches(
        self, micro_batches: Iterable[MicroBatch], *, seed: int, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented images (count, 3, R, R) float32 in [-1, 1] and labels (count,) int64, one pair per micro-batch."""

    def evaluation_batches(
        self, indices: NDArray[np.int64], batch_size: int, *, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        """The whole images at `indices`, in order, `batch_size` at a time: as `train_batches`, and which they are."""


@dataclass(frozen=True)
class Splits:
    """The parts of a data set. Test is looked at once per trial, at its last step."""

    train: Split
    validation: Split
    test: Split


def held_out(labels: NDArray[np.int64], percent: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which images train and which validate: ascending indices, the same for the same labels for ever.

    Every class gives its share, chosen by one fixed permutation of all images; see `held_out_per_class`.

    Args:
        labels: (num_images,), classes numbered from 0, none empty.
        percent: share to hold out; None: as `held_out_per_class` has it.
    """
    counts = np.bincount(labels)
    order = np.lexsort((raw_bits(Stream.HOLD_OUT, 0, 0, 0, len(labels)), labels))
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    shares = held_out_per_class(counts.tolist(), percent)
    is_held_out = np.zeros(len(labels), dtype=bool)
    is_held_out[order[place_in_class < np.repeat(shares, counts)]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


class InMemorySplit:
    """Images of one size, held as uint8; on the training device as a whole once it is first asked for them.

    CIFAR takes 147 MB there, and no input pipeline is left that could starve a GPU.
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        """images: (num_images, height, width, 3); labels: (num_images,)."""
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert len(images) == len(labels)
        self.names = np.zeros(0, dtype="S1")
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
            chosen = to_device(batch.indices, device)
            crops = random_crops(seed, batch.step, batch.positions, *self._sizes(len(batch.indices)))
            yield resize_crops(self._images[chosen], crops, resolution), self._labels[chosen]

    def evaluation_batches(
        self, indices: NDArray[np.int64], batch_size: int, *, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        self._to(device)
        for first in range(0, len(indices), batch_size):
            own = indices[first : first + batch_size]
            chosen, crops = to_device(own, device), whole_images(*self._sizes(len(own)))
            yield resize_crops(self._images[chosen], crops, resolution), self._labels[chosen], own
