"""Published files: downloaded, compared with their MD5 and unpacked, once for all who ask. Imports no torch."""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from vit_trainer.errors import DataError, DownloadError, InputError
from vit_trainer.files.download import Watcher, address_of, download, is_good, locked
from vit_trainer.files.folder import LocalFolder, open_folder, write_atomically
from vit_trainer.files.progress_bar import ProgressBar


@dataclass(frozen=True)
class PublishedFile:
    """A file of a data set, as its authors publish it."""

    name: str
    """What it is called in the data set's folder."""
    url: str
    md5: str

    def at(self, source: str | None, folder: str = "") -> "PublishedFile":
        """The same file of a mirror, in a folder there or at its top; its authors' unless a source is given."""
        return replace(self, url=address_of(source, folder, self.name)) if source is not None else self

    def check(self, path: Path, name: str) -> None:
        """Raises DataError, with `name` for the file at `path`: its content isn't the published one."""
        with path.open("rb") as file:
            check_md5(name, hashlib.file_digest(file, "md5").hexdigest(), self.md5)


def check_md5(name: str, given: str, published: str) -> None:
    """Raises DataError: the MD5s differ."""
    if given != published:
        raise DataError(
            f"{name} is damaged or not the official file (MD5 {given}, not {published}): put the official one there"
        )


def fetch_published(
    file: PublishedFile, folder: Path, members: Sequence[str] = (), *, may_download: bool = True
) -> None:
    """See to it that a file, or what is needed of an archive, is in a folder; of several that ask at once, one does it.

    Args:
        members: the files of the archive that are unpacked, under their paths in it, and no others; what else stands
            there under these names is left. None: the file itself is needed.
        may_download: whether to make what isn't there.

    Raises:
        DataError: something isn't there and can't be made; says what to put where.
    """
    path = folder / file.name
    if not (missing := _missing(folder, members) if members else [file.name][: not is_good(path, file.check)]):
        return
    what = missing[0] + (f" and {len(missing) - 1:,} more" if len(missing) > 1 else "")
    if not may_download:
        raise DataError(f"no {what} in {folder}: it comes with the first trial, or python -m vit_trainer fetch")
    try:
        with ProgressBar(file.name) as bar:
            download(file.url, path, check=file.check, watcher=bar)
        if members:
            with ProgressBar(f"unpacking {file.name}") as bar, locked(path, bar):
                _unpack(path, folder, set(_missing(folder, members)), bar)
    except (DownloadError, OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"no {what} in {folder}, and it can't be made ({error}): put {'it or ' if members else ''}{file.name} there"
        ) from error


def copy_tree(source: str, folder: Path, parts: Sequence[str]) -> None:
    """Copy what a folder or bucket has in its folders `parts`, or in a folder called as this one: what isn't here yet.

    Raises:
        InputError: it can't be listed, or lacks one of them.
    """
    if source.startswith(("http://", "https://")):
        raise InputError(f"source {source} is a web address, which lists no files: give a folder or a bucket's URI")
    origin, copy = open_folder(source, "source"), LocalFolder(folder)
    if folder.name in origin.names():
        origin = origin.child(folder.name)
    listed = {part: origin.child(part).stamps() for part in parts}
    if lacking := [part for part in parts if not listed[part]]:
        raise InputError(f"source {source} has no files in {lacking[0]}/: give a folder with {', '.join(parts)} in it")
    sizes = {f"{part}/{name}": each.num_bytes for part in parts for name, each in listed[part].items()}
    with ProgressBar(folder.name) as bar, locked(folder, bar), ThreadPoolExecutor(16) as pool:
        here = copy.stamps()
        missing = [name for name, size in sizes.items() if name not in here or here[name].num_bytes != size]
        arrived = sum(sizes.values()) - sum(sizes[name] for name in missing)
        for first in range(0, len(missing), 256):
            some = missing[first : first + 256]
            list(pool.map(lambda name: copy.write(name, origin.read(name) or b""), some))
            arrived += sum(sizes[name] for name in some)
            bar.received(arrived, sum(sizes.values()))


def _missing(folder: Path, members: Sequence[str]) -> list[str]:
    """Those that aren't there, from a listing: a look at each takes seconds on a network's disk."""
    there: dict[str, set[str]] = {}
    for parent in {os.path.dirname(member) for member in members}:
        there[parent] = set(os.listdir(folder / parent)) if (folder / parent).is_dir() else set()
    return [member for member in members if os.path.basename(member) not in there[os.path.dirname(member)]]


def _unpack(archive: Path, folder: Path, wanted: set[str], watcher: Watcher) -> None:
    size = archive.stat().st_size
    with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:  # compressed or not, whatever it is called
        for member in tar if wanted else ():
            watcher.received(file.tell(), size)
            name = member.name.removeprefix("./")
            if name in wanted and (content := tar.extractfile(member)) is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / name, content.read())
                wanted.remove(name)
    if wanted:
        raise DataError(f"{archive} lacks {min(wanted)}: put the official archive there")
