"""ImageFileSplit: images in files or shards, decoded and cut by worker processes, resized on the device.

Workers give crops as uint8, each in its own size: a fraction of the bytes of finished images. Of large ones they give
the pixels that count in the result, and batches come in parts, so that the bytes under way have a bound whatever the
files hold: in batches of 32 at 384 px, two workers on two busy cores took 4.5 GB for photographs of 12 megapixels
without that, and take 0.8 GB at 3 times the speed. Letting JPEGs shrink while they are decoded would take less time
still, but averages pixels, as the protocol doesn't: of two photographs, results differed by 2 and 8 levels on average,
by 145 at most.

Images of any kind that Pillow knows are told apart by content, and grey or CMYK ones become RGB (ImageNet has a PNG and
22 CMYK images whose names end with .JPEG). Pillow decodes, because what it gives is the reference: simplejpeg gave the
same pixels at 1.13 times the speed (one core, 500x375, 92 kB), too little for another dependency, and torchvision's
decoder is deprecated.
"""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vit_trainer.data.crops import kept_sides, most_bytes, random_crops, resize_cuts, thinned, whole_images
from vit_trainer.data.decoding import decode_image, decoded, header_of, size_of
from vit_trainer.data.shards.reading import Contents, Files, obey
from vit_trainer.data.shared_memory import ADVICE, FOLDER, WORKER_BYTES
from vit_trainer.data.splits import MicroBatch
from vit_trainer.errors import DataError, DataOutageError
from vit_trainer.machine import num_cores, to_device

_PREFETCHED = 2
"""Requests that each worker has."""


class Cuts(NamedTuple):
    """What a worker makes of a request. DataLoader shares and pins the tensor in it, and pickles the rest."""

    pixels: Tensor
    """uint8, every crop's (height, width, 3), `thinned`, one after the other."""
    sizes: NDArray[np.int64]
    """(count, 2): heights and widths, before they were thinned."""
    flip: NDArray[np.bool_]
    """(count,)."""
    indices: NDArray[np.int64]
    """(count,): which images they are."""
    unreadable: list[tuple[str, str]]
    """Path and reason of each image that could not be read."""
    outage: str = ""
    """Why there are none: what they are read from doesn't answer."""


class CutReader(Dataset[Cuts]):
    """Reads the images of a request and cuts out what is asked for. Holds no state, so workers need no order."""

    def __init__(
        self,
        contents: Contents,
        num_images: int,
        *,
        seed: int | None,
        resolution: int,
        replaces: bool,
        as_stored: bool = False,
    ) -> None:
        """seed: of random crops, None: whole images; replaces: what can't be read; others as in `ImageFileSplit`."""
        self._contents, self._num_images, self._seed = contents, num_images, seed
        self._resolution, self._replaces, self._as_stored = resolution, replaces, as_stored

    def __getitem__(self, request: MicroBatch) -> Cuts:
        try:
            cuts = self._cuts(request, header_of)  # sizes first, so that no more than one image lies decoded
        except DataError:  # behind its header one is damaged; of what replaces it, the size decides about the crop
            cuts = self._cuts(request, partial(_read_through, as_stored=self._as_stored))
        except DataOutageError as error:
            none = np.zeros((0, 2), dtype=np.int64)
            return Cuts(torch.zeros(0, dtype=torch.uint8), none, none[:, 0] > 0, none[:, 0], [], str(error))
        if get_worker_info() is not None:
            cuts.pixels.share_memory_()  # or else a thread does it, whose errors nobody hears of: the loader would wait
        return cuts

    def _cuts(self, request: MicroBatch, read: Callable[[bytes], Image.Image]) -> Cuts:
        """Raises DataError: an image is damaged behind its header, or has another size than that says."""
        unreadable: list[tuple[str, str]] = []
        self._contents.ahead(request.indices.tolist())
        tried = (self._read(index, read, unreadable) for index in request.indices.tolist())
        found = deque(pair for pair in tried if pair is not None)  # each image is let go once it is cut
        places = [place for place, _ in found]
        all_sizes = [size_of(image, as_stored=self._as_stored) for _, image in found]
        widths, heights = np.array(all_sizes, dtype=np.int64).reshape(-1, 2).T
        if self._seed is not None and len(found) == len(request.indices):
            crops = random_crops(self._seed, request.step, request.positions, heights, widths)
        else:
            crops = whole_images(heights, widths)
        sizes = np.stack([crops.height, crops.width], axis=1)
        ends = np.cumsum(3 * kept_sides(sizes, self._resolution).prod(1)).tolist()
        pixels = np.empty(ends[-1] if ends else 0, dtype=np.uint8)
        left, top = crops.left, crops.top
        boxes = np.stack([left, top, left + crops.width, top + crops.height], axis=1).tolist()
        for box, start, end in zip(boxes, [0, *ends], ends, strict=False):
            pixels[start:end] = thinned(np.asarray(self._cut(found.popleft()[1], box)), self._resolution).ravel()
        indices = np.array(places, dtype=np.int64)
        return Cuts(torch.from_numpy(pixels), sizes, crops.flip, indices, unreadable)

    def _read(
        self, index: int, read: Callable[[bytes], Image.Image], unreadable: list[tuple[str, str]]
    ) -> tuple[int, Image.Image] | None:
        """The image, or else (if it has to be replaced) the first readable one after it: (its index, image)."""
        for candidate in range(index, index + (self._num_images if self._replaces else 1)):
            place = candidate % self._num_images
            try:
                return place, read(self._contents.read(place))
            except DataError as error:
                unreadable.append((self._contents.name(place), str(error)))
        return None

    def _cut(self, image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
        size = size_of(image, as_stored=self._as_stored)
        image = decoded(image, as_stored=self._as_stored)
        if image.size != size:
            raise DataError(f"its header says {size[0]} x {size[1]} pixels, it has {image.width} x {image.height}")
        return image.crop(box)


def _read_through(content: bytes, *, as_stored: bool) -> Image.Image:
    """An image that can be decoded, as its header where that tells its size, so that many can be held."""
    image, header = decode_image(content, as_stored=as_stored), header_of(content)
    return header if size_of(header, as_stored=as_stored) == image.size else image


class ImageFileSplit:
    """Images in files. What it gives depends neither on the number of workers nor on the micro-batch."""

    def __init__(
        self,
        root: Path,
        paths: NDArray[np.bytes_],
        labels: NDArray[np.int64],
        *,
        contents: Contents | None = None,
        as_stored: bool = False,
        num_workers: int | None = None,
        skip_unreadable: bool = False,
        compiled: bool = False,
    ) -> None:
        """paths: (num_images,) relative to the root; labels: (num_images,); contents: where they come from, if not
        from files; as_stored: see `decoded`; the others as in `Decoding`.

        Bytes in one array, because workers would copy a list of a million strings by counting references to them.
        """
        assert len(paths) == len(labels)
        self._contents, self.names, self._labels = contents or Files(root, paths), paths, labels
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
        batches = (indices[first : first + batch_size] for first in range(0, len(indices), batch_size))
        requests = (MicroBatch(0, slice(0, len(batch)), batch) for batch in batches)
        return self._batches(requests, None, resolution, device)

    def _batches(
        self, requests: Iterable[MicroBatch], seed: int | None, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        under_way: deque[list[MicroBatch]] = deque()

        def all_parts() -> Iterator[MicroBatch]:
            for request in requests:
                under_way.append(_in_parts(request, resolution))
                yield from under_way[-1]

        loader = DataLoader(
            CutReader(
                self._contents,
                len(self),
                seed=seed,
                resolution=resolution,
                replaces=self._skips and seed is not None,
                as_stored=self._as_stored,
            ),
            batch_size=None,
            sampler=all_parts(),
            num_workers=self._num_workers,
            prefetch_factor=_PREFETCHED if self._num_workers else None,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it draws a seed for its workers, which nothing uses
            **(_from_a_process_without_threads() if self._contents.is_remote and self._num_workers else {}),
        )
        compiled = self._compiled and device.type == "cuda"  # on a CPU that took twice as long
        with closing(_unless_memory_runs_out(loader)) as given:  # workers end with it, not when garbage is collected
            for first in given:
                parts, places = under_way.popleft(), np.zeros(0, dtype=np.int64)
                images = torch.empty(sum(len(part.indices) for part in parts), 3, resolution, resolution, device=device)
                for cuts in chain([first], islice(given, len(parts) - 1)):
                    if cuts.outage:
                        raise DataOutageError(cuts.outage)
                    self._note(cuts.unreadable)
                    if len(cuts.indices):
                        pixels, flip = cuts.pixels.to(device, non_blocking=True), to_device(cuts.flip, device)
                        resized = resize_cuts(pixels, cuts.sizes, flip, resolution, compiled=compiled)
                        images[len(places) : len(places) + len(resized)] = resized
                        places = np.concatenate([places, cuts.indices])
                if len(places):
                    yield images[: len(places)], to_device(self._labels[places], device), places

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


def _from_a_process_without_threads() -> dict[str, Any]:
    """What has DataLoader fork its workers from a process of their own."""
    from multiprocessing import get_context

    context = get_context("forkserver")
    context.set_forkserver_preload(["vit_trainer.data.shards.preloaded"])
    return {"multiprocessing_context": context, "worker_init_fn": obey}


def _as_it_is(cuts: Any) -> Any:
    """By itself DataLoader would make tensors of arrays, and share each in a file of its own."""
    return cuts


def _in_parts(request: MicroBatch, resolution: int) -> list[MicroBatch]:
    """A request as several of nearly the same size, of which a worker can have a few whatever the images' sizes."""
    most = max(1, WORKER_BYTES // (_PREFETCHED * most_bytes(resolution)))
    parts = np.array_split(request.indices, -(-len(request.indices) // most))
    ends = request.positions.start + np.cumsum([len(part) for part in parts])
    return [
        MicroBatch(request.step, slice(end - len(part), end), part)
        for end, part in zip(ends.tolist(), parts, strict=True)
    ]


def _unless_memory_runs_out(loader: Iterable[Cuts]) -> Generator[Cuts, None, None]:
    """What a loader gives; what it says where shared memory is used up, as an error in one line."""
    try:
        yield from loader
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise DataError(f"processes that read images find no room in {FOLDER}: {ADVICE}, or --num-workers 0") from error
