"""Random numbers as pure functions of (seed, step, position): nothing to save, nothing to restore.

Position i of step s gets the same image, crop, flip and dropout mask on any number of processes, with any
micro-batch, before and after a restart. NumPy guarantees the raw stream of Philox, so also in any version.
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What the numbers are for; streams are independent."""

    ORDER = 0
    CROP = 1
    FLIP = 2
    DROPOUT = 3
    HOLD_OUT = 4


def raw_bits(stream: Stream, seed: int, step: int, attempt: int, size: int) -> NDArray[np.uint64]:
    """`size` random 64-bit words, a function of all arguments but `size`, which only cuts the stream off."""
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, step, attempt], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(size)
    return np.asarray(words, dtype=np.uint64)


def uniform(stream: Stream, seed: int, step: int, attempt: int, size: int) -> NDArray[np.float64]:
    """`size` numbers in [0, 1)."""
    return np.asarray((raw_bits(stream, seed, step, attempt, size) >> np.uint64(11)) * 2.0**-53)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_images: int) -> NDArray[np.int64]:
    return np.argsort(raw_bits(Stream.ORDER, seed, epoch, 0, num_images), kind="stable")


def image_order(seed: int, first: int, count: int, num_images: int) -> NDArray[np.int64]:
    """Indices of the images at places first .. first+count-1 of an endless stream of shuffled epochs.

    Step s of a run takes places s*B .. (s+1)*B-1, where B is the global batch size.
    """
    places = np.arange(first, first + count)
    epochs = places // num_images
    order = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        order[chosen] = _permutation(seed, int(epoch), num_images)[places[chosen] % num_images]
    return order


def dropout_keys(seed: int, step: int, positions: slice) -> NDArray[np.int32]:
    """A 32-bit key per position of step `step`: (count,) int32, what `dropout.ImageDropout` makes its masks from."""
    words = raw_bits(Stream.DROPOUT, seed, step, 0, positions.stop)[positions]
    return (words >> np.uint64(32)).astype(np.uint32).view(np.int32)
