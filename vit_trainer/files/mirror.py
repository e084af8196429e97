"""A mirror of one's own: filled once, with files as `fetch --source` of the same place finds them. Imports no torch."""

import uuid
from pathlib import Path

from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.download import CHUNK_BYTES, Check, Watcher, download
from vit_trainer.files.folder import Folder, LocalFolder, RemoteFolder, open_folder
from vit_trainer.files.location import folder_location


def require_writable(location: str, what: str) -> Folder:
    """The folder or bucket at a location, in which a small file was written and removed.

    Raises:
        InputError: there can be none, or it can't be written.
    """
    folder, probe = open_folder(location, what), f".write-probe-{uuid.uuid4().hex[:8]}"
    try:
        folder.write(probe, b"")
        folder.remove(probe)
    except OSError as error:
        raise InputError(
            f"{what} {location} cannot be written ({reason_of(error)}): give a writable folder or bucket"
        ) from error
    return folder


def open_mirror(to: str, *others: str | Path) -> Folder:
    """Where `to` is to be filled.

    Args:
        others: places that can't be filled, since files come from there.

    Raises:
        InputError: a web address, one of the others, or what can't be written.
    """
    if to.startswith(("http://", "https://")):
        raise InputError(
            f"to {to} is a web address, which can't be written: give a folder or such as s3://bucket/mirror"
        )
    if (place := _place(to)) and place in map(_place, others):
        raise InputError(f"to {to} is where the files come from: give another folder or bucket")
    return require_writable(to, "to")


def _place(location: str | Path) -> str:
    """What two ways to write the same folder or bucket have in common."""
    try:
        return str(folder_location(location)).partition("?")[0].rstrip("/")
    except InputError:  # a file, or what is refused where it is read
        return ""


def send(path: Path, mirror: Folder, name: str, *, check: Check, watcher: Watcher) -> bool:
    """Put a file into a mirror, whole or not at all; returns whether it had to be sent.

    What is there is left: in a folder if it passes the check, in a bucket if it has the same size.

    Args:
        name: what it is called there, with the folders that it lies in.

    Raises:
        InputError: the mirror can't be written, or the file isn't good.
    """
    if isinstance(mirror, LocalFolder):
        return download(str(path), mirror.path / name, check=check, watcher=watcher)
    assert isinstance(mirror, RemoteFolder)
    size, sent, store = path.stat().st_size, 0, mirror.filesystem
    # Under another name first: a stream that is left in its midst, by Ctrl-C say, is closed like one that is whole.
    target, part = f"{mirror.path}/{name}", f".{name.replace('/', '.')}.{uuid.uuid4().hex[:8]}.part"
    try:
        if store.get_file_info(target).size == size:
            return False
        try:
            with path.open("rb") as file, store.open_output_stream(f"{mirror.path}/{part}", compression=None) as stream:
                while piece := file.read(8 * CHUNK_BYTES):
                    stream.write(piece)
                    sent += len(piece)
                    watcher.received(sent, size)
            store.move(f"{mirror.path}/{part}", target)
        finally:
            mirror.remove(part)
    except OSError as error:
        raise InputError(
            f"cannot send {path} to {mirror.location} ({reason_of(error)}): the same command goes on with what is left"
        ) from error
    return True
