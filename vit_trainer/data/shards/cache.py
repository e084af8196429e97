"""The cache: shards of a bucket on this node's fastest disk, for all its processes, fetched once and never evicted.

The order of images is a global shuffle, so what was evicted would be fetched again at once. What the disk can't hold
stays in the bucket. Files are called by their SHA-256, which is compared before a file gets its name; beside it lies,
while it is on its way, `.NAME.part`, and `.NAME.lock`, which the kernel takes from a process that is killed.
"""

import errno
import hashlib
import os
import random
import re
import shutil
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vit_trainer.data.shards.packed import Packed, PackedFile
from vit_trainer.data.shards.remote import NoAnswerError, forget, open_file
from vit_trainer.errors import reason_of
from vit_trainer.files.location import user_cache

VARIABLE = "VIT_SHARD_CACHE"
RESERVE = 0.1
"""Share of the disk that stays free: Ray stops working on one that is full to 95%."""
NUM_THREADS = 8
"""Shards that a process fetches at a time: a bucket gives each some 100 MB/s."""
CHUNK_BYTES = 8 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCAL_DISK = re.compile(r"Instance Storage|nvme_card(?!-pd)|NVMe Direct Disk|EphemeralDisk")
"""Models of disks that are in a rented machine; others, such as Amazon Elastic Block Store, are the network's."""
_NETWORK = re.compile(r"nfs|cifs|smb|lustre|gpfs|beegfs|ceph|afs|panfs|wekafs|9p|fuse\.")
"""Kinds of file systems that other machines hold; shards would go over the network twice, into a home's quota."""
_filled = set[str]()


def cache_folder() -> Path:
    """$VIT_SHARD_CACHE, else on the largest disk of a rented machine's own that can be written, else the user's cache.

    Where that is on the network, in /var/tmp. It need not exist.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given)
    import psutil

    mounts = [Path(each.mountpoint) for each in psutil.disk_partitions() if is_local_disk(each.device)]
    for mount in sorted(mounts, key=lambda mount: -shutil.disk_usage(mount).total):
        folder = mount / "vit_trainer-shards"
        if os.access(folder if folder.exists() else mount, os.W_OK):
            return folder
    folder = user_cache("shards")
    kinds = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    kind = next((kinds[each] for each in (place, *place.parents) if each in kinds), "")
    return Path(f"/var/tmp/vit_trainer-shards-{os.getuid()}") if _NETWORK.match(kind) else folder


def is_local_disk(device: str, blocks: Path = Path("/sys/class/block")) -> bool:
    """Whether a block device, or all that it is made of, are a rented machine's own disks."""
    block = blocks / Path(device).resolve().name
    if slaves := [path.name for path in block.glob("slaves/*")]:
        return all(is_local_disk(slave, blocks) for slave in slaves)
    models = [block / "device/model", block.resolve().parent / "device/model"]  # of a partition the disk's
    return any(model.is_file() and _LOCAL_DISK.search(model.read_text()) for model in models)


def cached_path(folder: Path, shard: PackedFile) -> Path:
    """Where a shard lies in the cache."""
    return folder / f"{shard.sha256[:16]}-{shard.name}"


def fill(packed: Packed) -> list[threading.Thread]:
    """Begin to fetch a bucket's shards behind what this process does; it needn't end for that. Once per data set."""
    if packed.place in _filled:
        return []
    _filled.add(packed.place)
    folder = cache_folder()
    shards = list(packed.header.shards)
    start = random.randrange(len(shards))  # of several trials each begins elsewhere
    waiting = deque(shards[start:] + shards[:start])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder)
    except OSError as error:
        _say(f"no cache for {packed.place} in {folder} ({reason_of(error)}): its images are read one by one")
        return []
    # Daemons would be torn down in the middle of a call when the interpreter ends; these end with the main thread.
    threads = [threading.Thread(target=_fill, args=(packed, folder, waiting)) for _ in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    return threads


def set_aside(path: Path) -> None:
    """Take a damaged shard out of the cache, for a later process to fetch it again."""
    _say(f"{path} is damaged: its images are read from the bucket")
    with suppress(OSError):
        path.unlink()


def _fill(packed: Packed, folder: Path, waiting: "deque[PackedFile]") -> None:
    pause = 1.0
    while _goes_on():
        try:
            shard = waiting.popleft()
        except IndexError:
            return
        path = cached_path(folder, shard)
        try:
            if path.exists():
                continue
            with FileLock(folder / f".{path.name}.lock", blocking=False):
                if path.exists():
                    continue
                _fetch(packed.place, shard, path)
                pause = 1.0
        except Timeout:  # another process fetches it; if that is killed, it is ours
            waiting.append(shard)
            _wait(1.0)
        except NoAnswerError:
            forget()
            waiting.append(shard)
            _wait(pause)
            pause = min(2 * pause, 60.0)
        except OSError as error:
            waiting.clear()
            if error.errno not in _FULL:
                _say(f"cannot fill {folder} ({reason_of(error)}): what isn't there is read image by image")


def _fetch(place: str, shard: PackedFile, path: Path) -> None:
    """Put a shard in its place, unless the process ends before, or what comes is another file."""
    part, digest, arrived = path.with_name(f".{path.name}.part"), hashlib.sha256(), 0
    source = None
    try:
        with part.open("wb") as file:
            with FileLock(path.with_name(".room.lock")):  # many at once would each find room for one
                usage = shutil.disk_usage(path.parent)
                if usage.free - shard.num_bytes < RESERVE * usage.total:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if hasattr(os, "posix_fallocate"):  # macOS has none
                    os.posix_fallocate(file.fileno(), 0, shard.num_bytes)
            while arrived < shard.num_bytes and _goes_on():
                try:
                    source = source or open_file(place, shard.name)
                    chunk = source.read_at(min(CHUNK_BYTES, shard.num_bytes - arrived), arrived)
                except OSError as error:
                    raise NoAnswerError(reason_of(error)) from error
                if not chunk:
                    break
                digest.update(chunk)
                file.write(chunk)
                arrived += len(chunk)
        if not _goes_on():
            return
        if digest.hexdigest() != shard.sha256:
            _say(f"{shard.name} at {place} is not what was packed: its images are read and checked one by one")
            return
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _clean(folder: Path) -> None:
    """Take away what killed processes left."""
    for part in folder.glob(".*.part"):
        with suppress(Timeout), FileLock(part.with_suffix(".lock"), blocking=False):
            part.unlink(missing_ok=True)


def _goes_on() -> bool:
    return threading.main_thread().is_alive()


def _wait(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _goes_on() and time.monotonic() < deadline:
        time.sleep(0.1)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
