"""Packed: a folder of classes in shards, known by its header and index alone. Imports pyarrow once there is one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vit_trainer.data.shards.remote import NoAnswerError, remote
from vit_trainer.errors import DataError, InputError, counted, reason_of
from vit_trainer.files.folder import Folder, LocalFolder, open_folder
from vit_trainer.files.location import folder_location, is_uri, split_uri, user_cache
from vit_trainer.files.schema import json_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER, INDEX, ORIGIN = "shards.json", "index.parquet", "origin.json"
FORMAT = "vit_trainer shards 1"
"""A later one has another number."""


class PackedFile(NamedTuple):
    """A file of a packed folder."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Header:
    """What shards.json says."""

    format: str
    name: str
    """What the folder was called that was packed."""
    id: str
    """What trials on it are called by."""
    num_classes: int
    num_images: dict[str, int]
    """By part."""
    num_bytes: int
    """Of all shards."""
    index: PackedFile
    shards: tuple[PackedFile, ...]

    def to_json(self) -> bytes:
        """The file's content."""
        files = {"index": self.index._asdict(), "shards": [each._asdict() for each in self.shards]}
        return json.dumps(asdict(self) | files, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes, place: str) -> Header:
        """Raises DataError: it is no header, or a later version's."""
        try:
            fields = dict(json_of(content))
            files = {"index": PackedFile(**fields["index"]), "shards": tuple(PackedFile(**f) for f in fields["shards"])}
            header = cls(**fields | files)
            if header.format != FORMAT or header.num_bytes != sum(shard.num_bytes for shard in header.shards):
                raise ValueError
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{place}/{HEADER} is damaged, or no header of {FORMAT!r}: pack the folder anew") from error
        return header


@dataclass(frozen=True)
class Index:
    """Where each image lies, in the order of the listing: arrays of (num_images,)."""

    paths: NDArray[np.bytes_]
    """part/class/file."""
    shards: NDArray[np.int32]
    """Places in the header's list."""
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Bytes."""
    crcs: NDArray[np.int64]
    """CRC-32 of the whole content."""
    samples: NDArray[np.bytes_]
    """What contents are known by, see `data.samples`."""

    def to_parquet(self) -> bytes:
        """The file's content."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table({name: pa.array(values) for name, values in vars(self).items()}), sink, compression="zstd"
        )
        return bytes(sink.getvalue())

    @classmethod
    def from_parquet(cls, content: bytes) -> Index:
        """Raises ValueError, KeyError or OSError: it is none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(pa.BufferReader(content))
        columns = {name: table[name].to_numpy() for name in cls.__dataclass_fields__}
        return cls(**columns | {name: columns[name].astype("S") for name in ("paths", "samples")})

    def __len__(self) -> int:
        return len(self.sizes)

    def rows(self, chosen: NDArray[np.int64]) -> Index:
        """Of some images."""
        return Index(**{name: values[chosen] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Packed:
    """A packed folder. Raises DataError, in one line, where its index doesn't fit its header."""

    folder: Path
    """Where header and index lie, and the shards unless they are elsewhere."""
    header: Header
    origin: str | None = None
    """Path or URI of the folder with the shards; None: they lie beside the header."""

    @property
    def place(self) -> str:
        """Where the shards are: a path or a URI."""
        return self.origin or str(self.folder)

    @cached_property
    def index(self) -> Index:
        """A row per image."""
        try:
            content = (self.folder / self.header.index.name).read_bytes()
            if hashlib.sha256(content).hexdigest() != self.header.index.sha256:
                raise ValueError("its SHA-256 is another")
            index = Index.from_parquet(content)
            if len(index) != sum(self.header.num_images.values()) or index.shards.max() >= len(self.header.shards):
                raise ValueError("it has other images")
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.folder}/{self.header.index.name} does not fit {HEADER} beside it ({reason_of(error)}): copy "
                "both again, or pack the folder anew"
            ) from error
        return index

    def by_path(self, values: NDArray[Any]) -> dict[str, Any]:
        """A column of the index, or one as long."""
        return dict(zip(map(os.fsdecode, self.index.paths.tolist()), values.tolist(), strict=True))

    def listed(self, parts: Iterable[str], counts: Callable[[str], bool]) -> dict[str, dict[str, tuple[str, ...]]]:
        """By part and class the names of images, sorted; counts: whether one is to be among them."""
        found: dict[str, dict[str, list[str]]] = {part: {} for part in parts}
        for path in map(os.fsdecode, self.index.paths):  # one by one: a list of a million takes 100 MB
            part, name, file = path.split("/", 2)
            if part in found and counts(file):
                found[part].setdefault(name, []).append(file)
        return {part: {name: tuple(sorted(files)) for name, files in each.items()} for part, each in found.items()}

    def require_shards(self) -> None:
        """Raises DataError: a shard is missing, or of another size; a look at names and sizes, which is one listing."""
        try:
            there = _folder_at(self.place).stamps()
        except OSError as error:
            raise DataError(f"cannot list {self.place} ({reason_of(error)}): make it readable") from error
        sizes = {name: stamp.num_bytes for name, stamp in there.items()}
        if bad := [shard for shard in self.header.shards if sizes.get(shard.name) != shard.num_bytes]:
            found = f"of {sizes[bad[0].name]:,} bytes, not {bad[0].num_bytes:,}" if bad[0].name in sizes else "missing"
            more = f", and {counted(len(bad) - 1, 'other shard')} too" if len(bad) > 1 else ""
            raise DataError(f"{self.place}: {bad[0].name} is {found}{more}: copy what is wrong again, or pack anew")


def open_packed(location: str) -> Packed | None:
    """The packed folder at a path or URI; None: a path that holds no header.

    Of a bucket, header and index are kept in the user's cache folder, which serves while the bucket doesn't answer.

    Raises:
        DataError: it is damaged, or at the URI there is none.
    """
    if not is_uri(location):
        folder, origin = Path(location), None
        try:
            content = (folder / HEADER).read_bytes()
            if (folder / ORIGIN).is_file():
                origin = str(json_of((folder / ORIGIN).read_bytes())["location"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"cannot read {folder / ORIGIN} or {HEADER} beside it ({reason_of(error)})") from error
        return _packed(folder, content, origin)
    folder = user_cache("packed") / hashlib.sha256(location.encode()).hexdigest()[:16]
    if not _copy_metadata(location, LocalFolder(folder)):
        raise DataError(
            f"no packed folder of classes at {location}, for there is no {HEADER}: python -m vit_trainer pack makes one"
        )
    return _packed(folder, (folder / HEADER).read_bytes(), location)


@lru_cache(maxsize=64)
def _packed(folder: Path, content: bytes, origin: str | None) -> Packed:
    return Packed(folder, Header.from_json(content, origin or str(folder)), origin)


def adopt(source: str, folder: Path) -> Packed | None:
    """Make a folder the packed one that a source holds, or has in a folder called as this one: its images stay there.

    Header and index are copied, and where they come from is written down beside them.

    Args:
        source: path or URI.

    Returns:
        What the folder holds now; None: the source has no packed folder, and nothing was written.

    Raises:
        InputError: the source can't be read, or names a user and password; the folder holds images in files.
    """
    if source.startswith(("http://", "https://")):
        return None
    origin = open_folder(source, "source")
    try:
        if HEADER not in origin.names():
            origin = origin.child(folder.name)
            if HEADER not in origin.names():
                return None
    except OSError as error:
        raise InputError(f"source {source} cannot be listed ({reason_of(error)}): correct it") from error
    if is_uri(origin.location) and "@" in split_uri(origin.location, "source").netloc:
        raise InputError("source has a user and password, which would be written down: give them by the environment")
    if (folder / "train").is_dir():
        raise InputError(f"{folder} holds images in files, and {source} the same packed: take one away")
    copy = LocalFolder(folder)
    copy.write(ORIGIN, json.dumps({"location": origin.location}).encode())  # first: a header alone has its shards here
    _copy_metadata(origin.location, copy)
    return open_packed(str(folder))


def _folder_at(place: str) -> Folder:
    """Raises OSError: a bucket doesn't answer; InputError: there can be no folder."""
    location = folder_location(place, "dataset")
    try:
        return LocalFolder(location) if isinstance(location, Path) else remote(location)
    except (ValueError, NotImplementedError):
        return open_folder(place, "dataset")  # which says what is wrong


def _copy_metadata(place: str, copy: LocalFolder) -> bool:
    """Have the header and index of a packed folder in a copy, which serves while the origin can't be read.

    Returns:
        Whether there is one.

    Raises:
        NoAnswerError: nothing is known of it.
    """
    kept = copy.read(HEADER)
    try:
        origin = _folder_at(place)
        if (content := origin.read(HEADER)) is None:
            return False
        header = Header.from_json(content, origin.location)
        if content != kept or not (copy.path / header.index.name).is_file():
            if (index := origin.read(header.index.name)) is None:
                raise DataError(f"{origin.location} lacks {header.index.name}: pack the folder anew")
            copy.write(header.index.name, index)
            copy.write(HEADER, content)
    except OSError as error:
        if kept is None:
            raise NoAnswerError(f"cannot read {place} ({reason_of(error)})") from error
    return True
