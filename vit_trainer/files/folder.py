"""Folder: where run folders lie, a local path or a bucket's URI. Standard library only until a URI is opened."""

import os
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vit_trainer.errors import InputError
from vit_trainer.files.location import folder_location


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Have a file's new name survive a power cut, where the file system can promise that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Stamp:
    """What tells whether a file has changed."""

    num_bytes: int
    modified_at: float
    """Unix seconds, by the storage's clock."""


class Folder(ABC):
    """A folder of files that are read and written whole. Names may have parts: `checkpoint/state.safetensors`.

    Every method raises OSError for what the storage refuses.
    """

    location: str
    """Path or URI, as `open_folder` takes it."""

    @abstractmethod
    def child(self, name: str) -> "Folder":
        """A folder in this one; it need not exist."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the files and folders in it, sorted; none if it doesn't exist."""

    @abstractmethod
    def stamps(self) -> dict[str, Stamp]:
        """The stamp of every file in it and in its folders, by name with its parts; of a bucket in one listing."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content, or None if there is no such file."""

    @abstractmethod
    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """Put a file in place, whole or not at all; makes the folder if need be."""

    @abstractmethod
    def append(self, name: str, line: bytes) -> None:
        """Add a line to a file, after a newline of its own if a crash tore the line before it."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file if it is there."""

    @abstractmethod
    def move(self, name: str, new_name: str) -> None:
        """Give a file another name, in another folder of this one perhaps, if it is there."""

    @abstractmethod
    def as_file(self, name: str) -> AbstractContextManager[Path | None]:
        """A local path with a file's content for as long as the context lasts, or None if there is no such file."""


class LocalFolder(Folder):
    """A folder of this machine or of a file system that it has mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)

    def child(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

    def stamps(self) -> dict[str, Stamp]:
        def refuse(error: OSError) -> None:
            if error.filename == str(self.path) and not isinstance(error, FileNotFoundError):
                raise error

        stamps = {}
        for folder, _, names in os.walk(self.path, onerror=refuse):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):  # gone since it was listed, or not for us
                    status = path.stat()
                    stamps[path.relative_to(self.path).as_posix()] = Stamp(status.st_size, status.st_mtime)
        return stamps

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, *parts)

    def append(self, name: str, line: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write((b"\n" if torn else b"") + line)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def move(self, name: str, new_name: str) -> None:
        (self.path / new_name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.replace(self.path / name, self.path / new_name)

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path | None]:
        path = self.path / name
        yield path if path.is_file() else None


class RemoteFolder(Folder):
    """A folder in an object store, where a file appears whole once it is written."""

    def __init__(self, filesystem: Any, path: str, location: str) -> None:
        """filesystem: a pyarrow.fs.FileSystem; path: within it; location: the URI that gave both."""
        self.filesystem = filesystem
        self.path = path
        self.location = location

    def child(self, name: str) -> "RemoteFolder":
        parts = urlsplit(self.location)
        location = parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()
        return RemoteFolder(self.filesystem, f"{self.path}/{name}", location)

    def names(self) -> list[str]:
        from pyarrow.fs import FileSelector

        infos = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def stamps(self) -> dict[str, Stamp]:
        from pyarrow.fs import FileSelector, FileType

        infos = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True, recursive=True))
        return {
            info.path.removeprefix(f"{self.path}/"): Stamp(info.size, info.mtime.timestamp())
            for info in infos
            if info.type == FileType.File
        }

    def read(self, name: str) -> bytes | None:
        try:
            with self.filesystem.open_input_stream(f"{self.path}/{name}", compression=None) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        with self.filesystem.open_output_stream(f"{self.path}/{name}", compression=None) as stream:  # else .gz twice
            for part in parts:
                stream.write(part)

    def append(self, name: str, line: bytes) -> None:
        # Object stores only know whole files. The 400 rows of a long run, 117 kB in the end, come to 23 MB sent and as
        # much read, a few percent of one checkpoint; parts, or rows held back, could lose what was decided from them.
        self.write(name, (self.read(name) or b"") + line)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def move(self, name: str, new_name: str) -> None:
        if self.filesystem.get_file_info(f"{self.path}/{name}").is_file:
            self.filesystem.copy_file(f"{self.path}/{name}", f"{self.path}/{new_name}")
            self.remove(name)

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path | None]:
        content = self.read(name)
        if content is None:
            yield None
            return
        with tempfile.NamedTemporaryFile(prefix="vit-trainer-") as file:
            file.write(content)
            file.flush()
            yield Path(file.name)


def open_folder(location: str | Path, what: str = "storage") -> Folder:
    """The folder at a path, or at a URI that pyarrow knows: s3://bucket/folder, gs://bucket/folder, file:///folder.

    Credentials come from where the store's own tools look for them (environment, profile, the machine's role). Options
    stand in the URI: `s3://bucket/folder?region=eu-west-1&endpoint_override=http://127.0.0.1:9000`.

    Args:
        what: what to call it in errors.

    Raises:
        InputError: a URI of another kind, or a path where no folder can be; see `folder_location`.
    """
    location = folder_location(location, what)
    if isinstance(location, Path):
        return LocalFolder(location)
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(location)
        if not path:
            raise ValueError("it names no bucket")
    except (ValueError, OSError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{what} {location} cannot be used ({reason}): give a folder, or a URI such as s3://bucket/folder"
        ) from error
    return RemoteFolder(filesystem, path.rstrip("/"), location)
