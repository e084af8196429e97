"""Shared memory: where processes that read image files put what they have read, and how much of it they need."""

import shutil
from pathlib import Path

FOLDER = Path("/dev/shm")
BATCH_SIZE, IMAGE_BYTES = 256, 3 * 500 * 375
"""Images of an evaluation's batch, which are whole ones, and what one of ImageNet takes on average."""
ADVICE = "give a container more (docker run --shm-size=32g; in Kubernetes an emptyDir with medium: Memory at /dev/shm)"


def batch_bytes(num_workers: int) -> int:
    """What a batch of ImageNet of each of so many processes takes; a batch that waits may double it."""
    return num_workers * BATCH_SIZE * IMAGE_BYTES


def shared_memory_bytes() -> int | None:
    """The size of this machine's /dev/shm; None: it has none, and shares in other ways."""
    return shutil.disk_usage(FOLDER).total if FOLDER.is_dir() else None


def too_small(num_workers: int, batches: int = 1) -> str:
    """Why so many processes can't each have so many batches of ImageNet there, in one line; empty if they can."""
    there, needed = shared_memory_bytes(), batches * batch_bytes(num_workers)
    if there is None or there >= needed:
        return ""
    return (
        f"{FOLDER} has {there / 1e9:.2f} GB, and {num_workers} processes that read images need {needed / 1e9:.1f}: "
        f"{ADVICE}, or fewer --num-workers"
    )
