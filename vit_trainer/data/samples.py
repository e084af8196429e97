"""sample_files(): what files' contents are known by, without reading all of them. Imports no torch.

A hash of each file's size and of its first and last 16 KB, where two images of one format differ. It is kept in the
user's cache folder, so that a big folder is read once; a file whose times, size or place on the disk have changed is
read again. Without that cache, or with a damaged one, all are read: slower, and no other result.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vit_trainer.errors import reason_of
from vit_trainer.files.folder import write_atomically
from vit_trainer.files.location import user_cache

SAMPLE_BYTES = 16 * 1024
"""How much of a file's start, and of its end, is read."""
NUM_READERS = 8
"""Files read at a time: a network's file system answers each late, but many at once."""
FILES_AT_ONCE = 20
"""Files that one reader takes before it takes others."""
SECONDS_TO_SETTLE = 2
"""A file this young may still change within the precision of its times, so it is read again the next time."""


class Samples(NamedTuple):
    """What a look at files came to."""

    hashes: dict[str, str]
    """By path, 16 hex digits."""
    unreadable: dict[str, str]
    """By path, why a file can't be read; it has no hash."""


def sample_files(root: Path, paths: Iterable[str]) -> Samples:
    """Hash a sample of each file; paths are relative to the root."""
    cache = _cache_file(root)
    known, kept = _read_cache(cache), {}
    samples, changed = Samples({}, {}), dict[str, str]()
    settled_before = time.time_ns() - SECONDS_TO_SETTLE * 10**9
    for path in paths:
        try:
            status = os.stat(f"{root}/{path}")  # pathlib would take several times as long
        except OSError as error:
            samples.unreadable[path] = reason_of(error)
            continue
        stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        if path in known and known[path][0] == stamp:
            samples.hashes[path] = known[path][1]
        else:
            changed[path] = stamp
        if max(status.st_mtime_ns, status.st_ctime_ns) < settled_before:
            kept[path] = stamp
    if changed:
        from vit_trainer.files.progress_bar import ProgressBar  # which takes a tenth of a second

        sizes = {path: min(int(stamp.split()[0]), 2 * SAMPLE_BYTES) for path, stamp in changed.items()}
        names, total, arrived = list(changed), sum(sizes.values()), 0
        parts = [names[first : first + FILES_AT_ONCE] for first in range(0, len(names), FILES_AT_ONCE)]
        with ProgressBar(f"looking into {root.name}") as bar, ThreadPoolExecutor(NUM_READERS) as pool:
            for part, some in zip(parts, pool.map(partial(_read, root), parts), strict=True):
                samples.hashes.update(some.hashes)
                samples.unreadable.update(some.unreadable)
                arrived += sum(sizes[path] for path in part)
                if len(names) > 2_000:  # fewer are soon done
                    bar.received(arrived, total)
    entries = {path: (stamp, samples.hashes[path]) for path, stamp in kept.items() if path in samples.hashes}
    if changed and entries:
        with suppress(OSError):  # nothing depends on it
            cache.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(entries).encode()
            write_atomically(cache, hashlib.sha256(content).hexdigest().encode(), content)
    return samples


def sample_of(content: bytes) -> str:
    """What a file of this content is known by."""
    size = len(content)
    return _known_by(size, content[:SAMPLE_BYTES], content[_start_of_end(size) :])


def _start_of_end(size: int) -> int:
    """Where the last bytes begin that count, of which none is among the first."""
    return max(SAMPLE_BYTES, size - SAMPLE_BYTES)


def _known_by(size: int, start: bytes, end: bytes) -> str:
    return hashlib.sha256(b"%d " % size + start + end).hexdigest()[:16]


def _read(root: Path, paths: list[str]) -> Samples:
    samples = Samples({}, {})
    for path in paths:
        try:
            with open(f"{root}/{path}", "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                start, end = file.read(SAMPLE_BYTES), b""
                if size > SAMPLE_BYTES:
                    file.seek(_start_of_end(size))
                    end = file.read(SAMPLE_BYTES)
        except OSError as error:
            samples.unreadable[path] = reason_of(error)
        else:
            samples.hashes[path] = _known_by(size, start, end)
    return samples


def _cache_file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return user_cache("folders") / f"{name}.json"


def _read_cache(cache: Path) -> dict[str, list[str]]:
    try:
        content = cache.read_bytes()
    except OSError:
        return {}
    is_whole = hashlib.sha256(content[64:]).hexdigest().encode() == content[:64]
    return json.loads(content[64:]) if is_whole else {}
