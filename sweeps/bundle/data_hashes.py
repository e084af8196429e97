"""Data hashes: one SHA-256 for all the files of a data set, read once and kept in the storage."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from sweeps.records.unpacked import read_data_hashes
from vit_trainer.data.datasets import data_folder
from vit_trainer.data.shards.packed import HEADER, Header
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.progress_bar import ProgressBar
from vit_trainer.files.storage import DATA_HASHES, NUM_READERS, Storage

NUM_AT_ONCE = 1024
"""Files that are waited for at a time, so that millions take no memory."""


def hash_data(storage: Storage, datasets: Iterable[str]) -> None:
    """Have the storage know the hashes of those data sets whose files are here; what hasn't changed isn't read again.

    Of a packed folder that of its header; else of the lines of `sha256sum`, in the order of their names' bytes.

    Raises:
        InputError: a file can't be read.
    """
    kept = read_data_hashes(storage)
    for name in datasets:
        root = data_folder() / name
        try:
            if (root / HEADER).is_file():  # which has the hashes of its index and shards
                content = (root / HEADER).read_bytes()
                header = Header.from_json(content, str(root))
                digest = hashlib.sha256(content).hexdigest()
                known = {"of": HEADER, "sha256": digest, "num_bytes": header.num_bytes}
                known["num_files"] = sum(header.num_images.values())
            elif root.is_dir():
                stamp, num_files, num_bytes = _stamp(root)
                known = kept.get(name, {})
                if known.get("stamp") != stamp:
                    print(f"reading the {num_files} files of {name} for their hash", file=sys.stderr)
                    digest = _digest(root, name, num_bytes)
                    known = {"stamp": stamp, "sha256": digest, "num_files": num_files, "num_bytes": num_bytes}
            else:
                continue
            storage.folder.write(DATA_HASHES, json.dumps(kept := kept | {name: known}).encode())
        except OSError as error:
            raise InputError(f"cannot hash {name} in {root} ({reason_of(error)}): leave --hash-data out") from error


def _files(folder: str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below a folder with its path there, in the order of these paths' bytes."""
    with os.scandir(folder) as entries:
        found = sorted((os.fsencode(each.name) + b"/" * each.is_dir(), each) for each in entries)
    for _, entry in found:
        if entry.is_dir():
            yield from _files(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield f"{prefix}{entry.name}", entry


def _stamp(root: Path) -> tuple[str, int, int]:
    """What changes with a folder's files, how many there are, and their bytes."""
    digest, num_files, num_bytes = hashlib.sha256(), 0, 0
    for path, entry in _files(str(root)):
        status = entry.stat()
        num_files, num_bytes = num_files + 1, num_bytes + status.st_size
        digest.update(os.fsencode(f"{path} {status.st_size} {status.st_mtime_ns}\n"))
    return digest.hexdigest(), num_files, num_bytes


def _digest(root: Path, name: str, total_bytes: int) -> str:
    digest, num_bytes, files = hashlib.sha256(), 0, _files(str(root))
    with ProgressBar(f"hashing {name}") as bar, ThreadPoolExecutor(NUM_READERS) as pool:
        while batch := list(islice(files, NUM_AT_ONCE)):
            hashes = pool.map(_of_file, (entry.path for _, entry in batch))
            digest.update(
                b"".join(os.fsencode(f"{each}  {path}\n") for each, (path, _) in zip(hashes, batch, strict=True))
            )
            num_bytes += sum(entry.stat().st_size for _, entry in batch)
            bar.received(num_bytes, total_bytes)
    return digest.hexdigest()


def _of_file(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
