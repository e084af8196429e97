"""Shared memory: where processes that read image files put what they have read, and how much of it they need."""

import shutil
from pathlib import Path

FOLDER = Path("/dev/shm")
WORKER_BYTES = 32 * 2**20
"""What lies there of each process that reads, at most, whatever the sizes of the images."""
ADVICE = "give a container more (docker run --shm-size=4g; in Kubernetes an emptyDir with medium: Memory at /dev/shm)"


def shared_memory_bytes() -> int | None:
    """The size of this machine's /dev/shm; None: it has none, and shares in other ways."""
    return shutil.disk_usage(FOLDER).total if FOLDER.is_dir() else None


def too_small(num_workers: int) -> str:
    """Why there is no room for what so many processes read, in one line; empty if there is."""
    there, needed = shared_memory_bytes(), num_workers * WORKER_BYTES
    if there is None or there >= needed:
        return ""
    return (
        f"{FOLDER} has {there / 1e9:.2f} GB, and {num_workers} processes that read images need {needed / 1e9:.1f}: "
        f"{ADVICE}, or fewer --num-workers"
    )
