"""ImageFileSplit: images in files, decoded and cut by worker processes, resized on the device.

Workers give crops as uint8, each in its own size: a fraction of the bytes of finished images. Images of any kind that
Pillow knows are told apart by content, and grey or CMYK ones become RGB (ImageNet has a PNG and 22 CMYK images whose
names end with .JPEG). Pillow decodes, because what it gives is the reference: simplejpeg gave the same pixels at 1.13
times the speed (one core, 500x375, 92 kB), too little for another dependency, and torchvision's decoder is deprecated.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vit_trainer.data.crops import random_crops, resize_cuts, whole_images
from vit_trainer.data.decoding import decoded, read_header, read_image, size_of
from vit_trainer.data.shared_memory import ADVICE, FOLDER
from vit_trainer.data.splits import MicroBatch
from vit_trainer.errors import DataError
from vit_trainer.machine import num_cores


class Cuts(NamedTuple):
    """What a worker makes of a request. A tuple of tensors, which DataLoader can send and pin."""

    pixels: Tensor
    """uint8, every crop's (height, width, 3) one after the other."""
    sizes: Tensor
    """(count, 2) int64: heights and widths."""
    flip: Tensor
    """(count,) bool."""
    labels: Tensor
    """(count,) int64."""
    indices: Tensor
    """(count,) int64: which images they are."""
    unreadable: list[tuple[str, str]]
    """Path and reason of each image that could not be read."""


class CutReader(Dataset[Cuts]):
    """Reads the images of a request and cuts out what is asked for. Holds no state, so workers need no order."""

    def __init__(
        self,
        root: Path,
        paths: NDArray[np.bytes_],
        labels: NDArray[np.int64],
        seed: int,
        *,
        replaces: bool,
        as_stored: bool = False,
    ) -> None:
        """replaces: whether a training image has to be readable; the others as in `ImageFileSplit`."""
        self._root, self._paths, self._labels, self._seed, self._replaces = root, paths, labels, seed, replaces
        self._as_stored = as_stored

    def __getitem__(self, request: MicroBatch | NDArray[np.int64]) -> Cuts:
        """Random crops for a micro-batch of training; the whole images for bare indices."""
        try:
            cuts = self._cuts(request, read_header)  # sizes first, so that no more than one image lies decoded
        except DataError:  # behind its header one is damaged; of what replaces it, the size decides about the crop
            cuts = self._cuts(request, partial(read_image, as_stored=self._as_stored))
        if get_worker_info() is not None:
            for part in cuts[:5]:  # or else a thread does it, whose errors nobody hears of: the loader would wait
                part.share_memory_()
        return cuts

    def _cuts(self, request: MicroBatch | NDArray[np.int64], read: Callable[[Path], Image.Image]) -> Cuts:
        """Raises DataError: an image is damaged behind its header, or has another size than that says."""
        unreadable: list[tuple[str, str]] = []
        indices = request.indices if isinstance(request, MicroBatch) else request
        replaces = self._replaces and isinstance(request, MicroBatch)
        tried = (self._read(index, read, unreadable, replaces=replaces) for index in indices.tolist())
        found = deque(pair for pair in tried if pair is not None)  # each image is let go once it is cut
        places = [place for place, _ in found]
        sizes = [size_of(image, as_stored=self._as_stored) for _, image in found]
        widths, heights = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
        if isinstance(request, MicroBatch) and len(found) == len(indices):
            crops = random_crops(self._seed, request.step, request.positions, heights, widths)
        else:
            crops = whole_images(heights, widths)
        ends = np.cumsum(3 * crops.height * crops.width).tolist()
        pixels = np.empty(ends[-1] if ends else 0, dtype=np.uint8)
        left, top = crops.left, crops.top
        boxes = np.stack([left, top, left + crops.width, top + crops.height], axis=1).tolist()
        for box, start, end in zip(boxes, [0, *ends], ends, strict=False):
            pixels[start:end] = np.asarray(self._cut(found.popleft()[1], box)).ravel()
        return Cuts(
            torch.from_numpy(pixels),
            torch.from_numpy(np.stack([crops.height, crops.width], axis=1)),
            torch.from_numpy(crops.flip),
            torch.from_numpy(self._labels[places]),
            torch.tensor(places, dtype=torch.int64),
            unreadable,
        )

    def _read(
        self,
        index: int,
        read: Callable[[Path], Image.Image],
        unreadable: list[tuple[str, str]],
        *,
        replaces: bool,
    ) -> tuple[int, Image.Image] | None:
        """The image, or else (if it has to be replaced) the first readable one after it: (its index, image)."""
        for candidate in range(index, index + (len(self._paths) if replaces else 1)):
            place = candidate % len(self._paths)
            path = self._root / os.fsdecode(self._paths[place])
            try:
                return place, read(path)
            except DataError as error:
                unreadable.append((str(path), str(error)))
        return None

    def _cut(self, image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
        size = size_of(image, as_stored=self._as_stored)
        image = decoded(image, as_stored=self._as_stored)
        if image.size != size:
            raise DataError(f"its header says {size[0]} x {size[1]} pixels, it has {image.width} x {image.height}")
        return image.crop(box)


class ImageFileSplit:
    """Images in files. What it gives depends neither on the number of workers nor on the micro-batch."""

    def __init__(
        self,
        root: Path,
        paths: NDArray[np.bytes_],
        labels: NDArray[np.int64],
        *,
        as_stored: bool = False,
        num_workers: int | None = None,
        skip_unreadable: bool = False,
        compiled: bool = False,
    ) -> None:
        """paths: (num_images,) relative to the root; labels: (num_images,); as_stored: see `decoded`; the others as in
        `Decoding`.

        Bytes in one array, because workers would copy a list of a million strings by counting references to them.
        """
        assert len(paths) == len(labels)
        self._root, self.names, self._labels = root, paths, labels
        self._num_workers = num_cores() if num_workers is None else num_workers
        self._skips, self._compiled, self._as_stored = skip_unreadable, compiled, as_stored
        self.unreadable: dict[str, str] = {}
        """Path and reason of every image that has been skipped so far."""

    def __len__(self) -> int:
        return len(self._labels)

    def train_batches(
        self, micro_batches: Iterable[MicroBatch], *, seed: int, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return ((images, labels) for images, labels, _ in self._batches(micro_batches, seed, resolution, device))

    def evaluation_batches(
        self, indices: NDArray[np.int64], batch_size: int, *, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        requests = (indices[first : first + batch_size] for first in range(0, len(indices), batch_size))
        return self._batches(requests, 0, resolution, device)

    def _batches(
        self,
        requests: Iterable[MicroBatch] | Iterable[NDArray[np.int64]],
        seed: int,
        resolution: int,
        device: torch.device,
    ) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        loader = DataLoader(
            CutReader(self._root, self.names, self._labels, seed, replaces=self._skips, as_stored=self._as_stored),
            batch_size=None,
            sampler=requests,
            num_workers=self._num_workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it draws a seed for its workers, which nothing uses
        )
        for cuts in _unless_memory_runs_out(loader):
            self._note(cuts.unreadable)
            if not len(cuts.labels):
                continue
            pixels, flip, labels = (
                part.to(device, non_blocking=True) for part in (cuts.pixels, cuts.flip, cuts.labels)
            )
            sizes = [(height, width) for height, width in cuts.sizes.tolist()]
            compiled = self._compiled and device.type == "cuda"  # on a CPU that took twice as long
            yield resize_cuts(pixels, sizes, flip, resolution, compiled=compiled), labels, cuts.indices.numpy()

    def _note(self, unreadable: list[tuple[str, str]]) -> None:
        if not unreadable:
            return
        path, reason = unreadable[0]
        if not self._skips:
            others = f" and {len(unreadable) - 1} others of its batch" if len(unreadable) > 1 else ""
            raise DataError(
                f"cannot read image {path} ({reason}){others}: replace it, or give --skip-unreadable to go on without"
            )
        if len({path for path, _ in unreadable}) == len(self):
            raise DataError(f"cannot read any of {len(self)} images, such as {path} ({reason}): replace them")
        for path, reason in unreadable:
            if path not in self.unreadable:
                self.unreadable[path] = reason
                print(f"skipped unreadable image {path} ({reason}): {len(self.unreadable)} so far", file=sys.stderr)


def _unless_memory_runs_out(loader: Iterable[Cuts]) -> Iterator[Cuts]:
    """What a loader gives; what it says where shared memory is used up, as an error in one line."""
    try:
        yield from loader
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise DataError(f"processes that read images find no room in {FOLDER}: {ADVICE}, or --num-workers 0") from error
