"""Unpacked: a bundle of evidence as the storage that it was packed from; and what storages note of their bundles."""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.schema import instance_of, json_of
from vit_trainer.files.storage import DATA_HASHES, PACKED, Storage, lines_as

MANIFEST = "manifest.json"
MAX_BYTES = 2**31
"""Unpacked; 30 cells take 0.1 GB."""
MAX_FILES = 200_000


@dataclass(frozen=True)
class Packed:
    """A bundle that was made of a storage."""

    time: float
    """When, Unix seconds."""
    root: str
    """The root hash of its manifest."""
    file: str
    """Name of the file."""
    num_trials: int
    sweep: str | None = None
    """Whose trials these are; None: all of the storage."""


def note_packed(storage: Storage, packed: Packed) -> None:
    """Write down that a bundle was made; raises OSError for what the storage refuses."""
    storage.folder.append(PACKED, (json.dumps(asdict(packed)) + "\n").encode())


def read_packed(storage: Storage) -> list[Packed]:
    """The bundles that were made of a storage; damaged lines say of none."""
    try:
        found = lines_as(storage.folder.read(PACKED) or b"", partial(instance_of, Packed))[0]
    except IsADirectoryError:
        return []
    return [packed for packed in found if 0 <= packed.time < 1e12]


def read_data_hashes(storage: Storage) -> dict[str, dict[str, Any]]:
    """What is kept of data sets that were read for their hash, by name, `sha256` among it; a damaged file has none."""
    try:
        kept = json_of(storage.folder.read(DATA_HASHES) or b"{}")
        return {name: dict(values) for name, values in kept.items() if "sha256" in values}
    except (ValueError, TypeError, AttributeError, IsADirectoryError):
        return {}


def root_of(hashes: Mapping[str, str]) -> str:
    """One hash that stands for all files: of the lines of `sha256sum`, in the order of their names."""
    lines = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


@contextmanager
def unpacked(bundle: str | Path) -> Iterator[Path]:
    """A bundle's files in a temporary folder, laid out as a storage; they are those of its manifest.

    Raises:
        InputError: it is no bundle, is damaged, or would write elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="evidence-") as folder:
        try:
            with zipfile.ZipFile(bundle) as archive:
                members = [each for each in archive.infolist() if not each.is_dir()]
                if sum(each.file_size for each in members) > MAX_BYTES or len(members) > MAX_FILES:
                    raise InputError(f"{bundle} unpacks to more than evidence does: take another copy")
                for each in members:
                    parts = PurePosixPath(each.filename).parts
                    if not parts or parts[0] == "/" or ".." in parts or "\\" in each.filename:
                        raise InputError(f"{bundle} would write outside of its folder: it is no bundle of evidence")
                archive.extractall(folder)
            manifest = json_of((Path(folder) / MANIFEST).read_bytes())
            hashes = {
                name: hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest() for name in manifest["files"]
            }
            is_whole = hashes == manifest["files"] and manifest["root"] == root_of(hashes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise InputError(f"{bundle} is no bundle of evidence ({reason_of(error)}): give an evidence.zip") from error
        if not is_whole:
            raise InputError(f"{bundle}: its hashes aren't those of its files: python check_evidence.py says more")
        yield Path(folder)
