"""Contents of images, one by one: Files, or Shards: of a shard that is here from the disk, else by range.

Imports no torch.
"""

import os
import signal
import zlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vit_trainer.data.class_folders import ClassFolders
from vit_trainer.data.decoding import content_of
from vit_trainer.data.shards.cache import cache_folder, cached_path, set_aside
from vit_trainer.data.shards.packed import HEADER, Index, Packed
from vit_trainer.data.shards.remote import (
    SILENCE_SECONDS,
    NoAnswerError,
    asked_to_end,
    open_file,
    patience,
    patiently,
)
from vit_trainer.errors import DataError, DataOutageError, reason_of
from vit_trainer.files.location import is_uri

NUM_REQUESTS = 32
"""Images that a process reads at a time: a bucket answers each after some 30 ms."""


class Contents(Protocol):
    """Where the contents of images come from, which are known by their places."""

    is_remote: bool
    """Whether threads of this process read them from a bucket, so that it must not be forked."""

    def name(self, place: int) -> str:
        """What to call an image in errors."""

    def ahead(self, places: Iterable[int]) -> None:
        """These are read next."""

    def read(self, place: int) -> bytes:
        """An image's content. Raises DataError with the reason alone, or DataOutageError."""


class Files:
    """A file each."""

    is_remote = False

    def __init__(self, root: Path, paths: NDArray[np.bytes_]) -> None:
        self._root, self._paths = root, paths

    def name(self, place: int) -> str:
        return str(self._path(place))

    def ahead(self, places: Iterable[int]) -> None:
        pass

    def read(self, place: int) -> bytes:
        return content_of(self._path(place))

    def _path(self, place: int) -> Path:
        return self._root / os.fsdecode(self._paths[place])


class Shards:
    """Some images of a packed folder, by their places. Every content is compared with its CRC."""

    def __init__(self, packed: Packed, index: Index) -> None:
        """index: of these images."""
        self._begin()
        self._packed = replace(packed)  # without the index of all, for other processes
        self._index = replace(index, samples=index.samples[:0].copy())
        self.is_remote = is_uri(packed.place)
        """Whether the shards are in a bucket; threads read from it, so processes must not be forked from this one."""
        self._folder = cache_folder() if self.is_remote else Path(packed.place)

    def _begin(self) -> None:
        self._descriptors = dict[int, int]()
        self._damaged = set[int]()
        self._files = dict[int, Any]()
        self._pool: ThreadPoolExecutor | None = None
        self._coming = dict[int, Future[bytes]]()

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def __getstate__(self) -> tuple[Packed, Index, bool, Path]:
        return self._packed, self._index, self.is_remote, self._folder

    def __setstate__(self, state: tuple[Packed, Index, bool, Path]) -> None:
        self._begin()
        self._packed, self._index, self.is_remote, self._folder = state

    def name(self, place: int) -> str:
        """What to call an image in errors."""
        return f"{self._packed.place}/{os.fsdecode(bytes(self._index.paths[place]))}"

    def ahead(self, places: Iterable[int]) -> None:
        """Begin to read images that are asked for next."""
        if not self.is_remote:
            return
        self._pool = self._pool or ThreadPoolExecutor(NUM_REQUESTS, "range")
        missing = [place for place in places if self._descriptor(int(self._index.shards[place])) is None]
        self._coming = {place: self._pool.submit(self._from_bucket, place) for place in missing}

    def read(self, place: int) -> bytes:
        """An image's content.

        Raises:
            DataError: it is damaged, or its shard missing; the message is the reason alone.
            DataOutageError: the bucket doesn't answer.
        """
        if (content := self._from_disk(place)) is not None:
            return content
        if (coming := self._coming.pop(place, None)) is None:
            return self._from_bucket(place)
        try:
            return coming.result(patience() + 6 * SILENCE_SECONDS)
        except TimeoutError as error:
            raise DataOutageError(f"a request to {self._packed.place} never ends: the state is kept") from error

    def _descriptor(self, number: int) -> int | None:
        """Of a shard that is here."""
        if number in self._descriptors or number in self._damaged:
            return self._descriptors.get(number)
        shard = self._packed.header.shards[number]
        path = cached_path(self._folder, shard) if self.is_remote else self._folder / shard.name
        try:
            self._descriptors[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if not self.is_remote:
                raise DataError(f"{shard.name}: {reason_of(error)}") from error
            return None
        return self._descriptors[number]

    def _from_disk(self, place: int) -> bytes | None:
        number = int(self._index.shards[place])
        if (descriptor := self._descriptor(number)) is None:
            return None
        shard = self._packed.header.shards[number]
        try:
            content = os.pread(descriptor, int(self._index.sizes[place]), int(self._index.offsets[place]))
        except OSError as error:
            if not self.is_remote:
                raise DataError(f"{shard.name}: {reason_of(error)}") from error
            content = b""
        if zlib.crc32(content) == self._index.crcs[place]:
            return content
        if not self.is_remote:
            raise DataError(f"its bytes in {shard.name} aren't those that were packed")
        os.close(self._descriptors.pop(number))
        self._damaged.add(number)
        set_aside(cached_path(self._folder, shard))
        return None

    def _from_bucket(self, place: int) -> bytes:
        return patiently(partial(self._ask, place))

    def _ask(self, place: int) -> bytes:
        number, location = int(self._index.shards[place]), self._packed.place
        name = self._packed.header.shards[number].name
        try:
            for _ in range(2):
                if (file := self._files.get(number)) is None:
                    file = self._files[number] = open_file(location, name)
                content = bytes(file.read_at(int(self._index.sizes[place]), int(self._index.offsets[place])))
                if zlib.crc32(content) == self._index.crcs[place]:
                    return content
        except OSError as error:
            self._files.pop(number, None)  # opened again, with credentials that may be new
            if isinstance(error, FileNotFoundError) and _has_header(location):
                raise DataError(f"{name} is missing at {location}") from error
            raise NoAnswerError(f"images can't be read from {location} ({reason_of(error)})") from error
        raise DataError(f"its bytes in {name} at {location} aren't those that were packed")


def contents_of(folders: ClassFolders, paths: NDArray[np.bytes_]) -> Contents:
    """What gives the contents of some of a folder's images, by their places among these paths."""
    return Shards(folders.packed, rows_of(folders.packed, paths)) if folders.packed else Files(folders.root, paths)


def rows_of(packed: Packed, paths: NDArray[np.bytes_]) -> Index:
    """The index of some images, by their paths."""
    all_paths = packed.index.paths
    is_sorted = bool((all_paths[:-1] <= all_paths[1:]).all())  # ImageNet's are
    order = None if is_sorted else np.argsort(all_paths)
    found = np.searchsorted(all_paths, paths, sorter=order)
    return packed.index.rows(found if order is None else order[found])


def _has_header(location: str) -> bool:
    """Whether a bucket answers and has a packed folder still."""
    try:
        open_file(location, HEADER)
    except OSError:
        return False
    return True


def obey(worker: int) -> None:
    """In a process that reads for another: what ends a run ends with it, which may have a step to finish first."""

    def end(number: int, frame: FrameType | None) -> None:
        asked_to_end.set()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
