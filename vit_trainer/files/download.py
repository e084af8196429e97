"""download(): one file from a URL, a bucket or a path into place, whole or not at all. Imports no torch.

Beside the file lie, while it is on its way, `.NAME.part` with what has arrived, `.NAME.part.json` with which version
of the file that is, and `.NAME.lock`, which the downloading process holds. The lock belongs to the kernel (flock, on
NFS too): it ends with its holder, however that ends, and the successor goes on where the other was killed.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, build_opener, getproxies, proxy_bypass, url2pathname

from filelock import FileLock, Timeout

from vit_trainer.errors import DownloadError, InputError, reason_of
from vit_trainer.files.folder import RemoteFolder, open_folder, write_atomically
from vit_trainer.files.location import is_uri, local_path, split_uri

CHUNK_BYTES = 1 << 20
SILENCE_SECONDS = 60.0
"""How long a server may say nothing."""

Check = Callable[[Path, str], object]
"""Gets a file and what to call it in errors; raises InputError if it isn't the right one."""


class Watcher(Protocol):
    """What wants to know how a download goes on."""

    def waiting(self, path: Path) -> None:
        """Another process is downloading this file."""

    def received(self, num_bytes: int, total_bytes: int | None) -> None:
        """So much of the file has arrived, earlier calls included; the total is None if the server doesn't say."""


def download(source: str, path: Path, *, check: Check, watcher: Watcher) -> bool:
    """Put the file at `source` in place at `path`, unless a good one is there already.

    Of several processes that ask at once, on one node or on several with a shared folder, one downloads and the
    others wait for it. A download that broke off is gone on with, if the server still has the same version.

    Args:
        source: an http(s):// or file:// URL, a bucket's such as s3://, or a path.
        check: decides whether a file is good; only a good one ever gets the name `path`.

    Returns:
        Whether the file had to be downloaded.

    Raises:
        DownloadError: the source can't be reached or the folder can't be written; says which file to put where.
        InputError: what `check` raised about the file at the source.
    """
    if is_good(path, check):
        return False
    with locked(path, watcher):
        if is_good(path, check):
            return False
        part = _Part(path, source, watcher)
        resumed = part.complete()
        try:
            part.check(check)
        except InputError:
            if not resumed:
                raise
            # A server without ETags can pass a changed file off as the rest of the old one: once more, from the start.
            part.complete()
            part.check(check)
        part.put_in_place()
    return True


def address_of(source: str, folder: str, name: str) -> str:
    """Where a file is in a mirror, which a folder, web address or bucket's URI names, or that very file's.

    Raises:
        InputError: neither a path nor a URI.

    >>> address_of("https://mirror/vit?token=7", "imagenet21k", "R50+ViT-B_16.npz")
    'https://mirror/vit/imagenet21k/R50%2BViT-B_16.npz?token=7'
    """
    if is_uri(source):
        parts = split_uri(source, "source")
        if parts.path.endswith(f"/{name}"):
            return source
        within = "/".join(quote(part) for part in (folder, name) if part)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{within}").geturl()
    mirror = local_path(source, "source")
    at_top, in_folder = mirror / name, mirror / folder / name
    return str(mirror if mirror.is_file() else at_top if at_top.exists() and not in_folder.exists() else in_folder)


def is_good(path: Path, check: Check) -> bool:
    """Whether the file is there and passes its check."""
    if not path.is_file():
        return False
    try:
        check(path, str(path))
    except InputError:
        return False
    return True


@contextmanager
def locked(path: Path, watcher: Watcher) -> Iterator[None]:
    """Only one process at a time is in here for this path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), poll_interval=0.2)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            watcher.waiting(path)
            lock.acquire()
    except OSError as error:
        raise DownloadError(f"cannot write to {path.parent} ({_reason(error)}): give a folder that can be") from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Version:
    """Which content a URL had when its download began."""

    url: str
    etag: str | None = None
    modified: str | None = None
    total_bytes: int | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def continues(self, older: "_Version") -> bool:
        """Whether nothing tells the two apart; the answer to a Range request may leave headers out."""
        pairs = zip(
            (self.url, self.etag, self.modified, self.total_bytes),
            (older.url, older.etag, older.modified, older.total_bytes),
            strict=True,
        )
        return all(mine is None or theirs is None or mine == theirs for mine, theirs in pairs)


class _Part:
    """What has arrived of a file. Only the lock's holder touches it."""

    def __init__(self, path: Path, source: str, watcher: Watcher) -> None:
        self._final_path = path
        self._source = source
        self._watcher = watcher
        self._path = path.with_name(f".{path.name}.part")
        self._version_path = path.with_name(f".{path.name}.part.json")

    @property
    def num_bytes(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def complete(self) -> bool:
        """Receive what is missing, again and again as long as each attempt brings the file further.

        Returns:
            Whether something of an earlier connection is part of the file.
        """
        most = self.num_bytes
        while True:
            try:
                if self._source.startswith(("http://", "https://")):
                    return self._receive()
                local = _local_path(self._source)
                return self._copy(local) if local else self._copy_object()
            except (OSError, HTTPException) as error:
                if isinstance(error, HTTPError):
                    error.close()
                if self.num_bytes <= most:
                    raise self._failure(error) from error
                most = self.num_bytes

    def check(self, check: Check) -> None:
        """Pass the check, or be gone."""
        try:
            check(self._path, self._source)
        except InputError:
            self._discard()
            raise

    def put_in_place(self) -> None:
        with self._path.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self._path, self._final_path)
        self._version_path.unlink(missing_ok=True)

    def _discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._version_path.unlink(missing_ok=True)

    def _copy(self, source: Path) -> bool:
        total = source.stat().st_size
        self._discard()
        with source.open("rb") as file:
            self._append(lambda: file.read(CHUNK_BYTES), total)
        return False

    def _copy_object(self) -> bool:
        folder, info = _object(self._source)
        version = _Version(self._source, None, str(info.mtime), info.size)
        start = self.num_bytes if self._stored_version() == version else 0
        if not start:
            self._discard()
            write_atomically(self._version_path, json.dumps(asdict(version)).encode())
        with folder.open_input_file(info.path) as file:
            file.seek(start)
            self._append(lambda: file.read(CHUNK_BYTES), info.size)
        return start > 0

    def _receive(self) -> bool:
        older = self._stored_version()
        start = self.num_bytes if older else 0
        if older and start and start == older.total_bytes:
            return True
        headers = {"User-Agent": "vit-sweeps", "Accept-Encoding": "identity"}
        if older and start:
            headers["Range"] = f"bytes={start}-"
            if older.validator:
                headers["If-Range"] = older.validator
        try:
            opener = build_opener()  # urlopen would keep to the proxies of its first call
            response: HTTPResponse = opener.open(Request(self._source, headers=headers), timeout=SILENCE_SECONDS)
        except HTTPError as error:
            if error.code != 416:
                raise
            error.close()  # the file has become shorter than what is here
            self._discard()
            return self._receive()
        with response:
            partial = response.status == 206
            first, total = _extent(response.headers, partial)
            version = _Version(self._source, response.headers.get("ETag"), response.headers.get("Last-Modified"), total)
            if partial and not (older and first == start and version.continues(older)):
                self._discard()
                return self._receive()
            if not partial:
                self._discard()
                write_atomically(self._version_path, json.dumps(asdict(version)).encode())
            self._append(lambda: response.read1(CHUNK_BYTES), total)
        return partial

    def _append(self, read: Callable[[], bytes], total: int | None) -> None:
        """Write what `read` returns until it returns nothing, each piece at once, so that a kill loses none."""
        size = self.num_bytes
        with self._path.open("ab", buffering=0) as file:
            self._watcher.received(size, total)
            while piece := read():
                try:
                    file.write(piece)
                except OSError as error:
                    raise DownloadError(f"cannot write {self._path} ({_reason(error)}): make room there") from error
                size += len(piece)
                self._watcher.received(size, total)
        if total is not None and size != total:
            raise ConnectionError("the connection broke")

    def _stored_version(self) -> _Version | None:
        try:
            version = _Version(**json.loads(self._version_path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return version if version.url == self._source else None

    def _failure(self, error: Exception) -> DownloadError:
        advice, proxy = f"put that file at {self._final_path}", _proxy(self._source)
        if size := self.num_bytes:
            return DownloadError(
                f"the download of {self._source} broke off after {size / 1e6:.1f} MB ({_reason(error)}{proxy}): "
                f"run the same command again to go on from there, or {advice}"
            )
        return DownloadError(f"cannot read {self._source} ({_reason(error)}{proxy}): {advice}")


def _extent(headers: Message, partial: bool) -> tuple[int, int | None]:
    """Where an answer begins in the file, and the file's size if the server says it."""
    if not partial:
        length = headers.get("Content-Length")
        return 0, int(length) if length else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if match is None:
        return -1, None
    return int(match[1]), int(match[2]) if match[2] != "*" else None


def _local_path(source: str) -> Path | None:
    """The path that a source stands for; None if it is a bucket's URI."""
    if not is_uri(source):
        return local_path(source, "source")
    parts = split_uri(source, "source")
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _object(source: str) -> tuple[Any, Any]:
    """The file system of a bucket's URI, and what is known of the file there."""
    folder = open_folder(source, "source")
    assert isinstance(folder, RemoteFolder)
    info = folder.filesystem.get_file_info(folder.path)
    if not info.is_file:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return folder.filesystem, info


def _proxy(source: str) -> str:
    """Which proxy a source is asked for through, if any; without what it is asked with."""
    parts = urlsplit(source)
    proxy = getproxies().get(parts.scheme, "")
    if parts.scheme not in ("http", "https") or not proxy or proxy_bypass(parts.netloc):
        return ""
    host = re.sub(r"^[^/]*//", "", proxy).rpartition("@")[2].rstrip("/")
    return f", through the proxy {host} that {parts.scheme.upper()}_PROXY names"


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, URLError):
        return _reason(error.reason) if isinstance(error.reason, Exception) else str(error.reason)
    return reason_of(error)
