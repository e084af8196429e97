"""The micro-batch that a node's memory was enough for, once one was too large, for which the next trial compiles none.

A small file each, beside the kernels that Inductor made, and gone with them. A card that other programs had filled is
remembered like any other; `--micro-batch-size` overrides it.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import Accelerator

from vit_trainer.config import FinetuneConfig
from vit_trainer.kernels import node_folder
from vit_trainer.machine import device_name


def survived_micro_batch(config: FinetuneConfig, accelerator: Accelerator) -> int | None:
    """Images per forward and backward that were not too many; the least of all processes. None: any may fit."""
    size = _read(_file(config, accelerator))
    if accelerator.num_processes == 1:
        return size
    sizes = accelerator.gather(torch.tensor([size or 0], device=accelerator.device)).tolist()
    return min((size for size in sizes if size), default=None)


def remember_micro_batch(config: FinetuneConfig, accelerator: Accelerator, size: int) -> None:
    """Note that memory ran out with a larger one."""
    path = _file(config, accelerator)
    with suppress(OSError):  # a full disk costs no more than another compilation
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(str(min(size, _read(path) or size)))
        beside.replace(path)


def _read(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _file(config: FinetuneConfig, accelerator: Accelerator) -> Path:
    share = config.global_batch_size // accelerator.num_processes
    model = (config.model, config.resolution, config.dropout > 0, share, accelerator.num_processes)
    what = (device_name(), *model, accelerator.mixed_precision, torch.__version__)
    return node_folder() / f"vit-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.survived"
