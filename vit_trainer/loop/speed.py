"""Speed: what a row says of how fast a run goes, how much of the card that is, what it waits for, how busy all is.

Tested on the CPU, with made-up events in CUDA's place; not yet run on GPUs.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

import psutil
import torch
from accelerate import Accelerator

from vit_trainer.architectures import MODELS
from vit_trainer.cards import card_of_device
from vit_trainer.config import FinetuneConfig
from vit_trainer.files.run_dir import Row
from vit_trainer.machine import device_name

Batch = TypeVar("Batch")
_process = psutil.Process()


class InputWait:
    """Time for which the model waited for its images: to be read, decoded, cut, sent to the device and resized there.

    A GPU gets its work ahead of time, so its own clock decides: from the end of what it was given before to the images
    being there, which is no more than their resize if they were ready in time. Nobody waits for it to tell.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._started_at = time.monotonic()
        self._seconds = 0.0
        self._marks: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch."""
        if not self._on_gpu:
            start = time.perf_counter()
            batch = next(batches)
            self._seconds += time.perf_counter() - start
            return batch
        self._read_marks()
        asked, there = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        asked.record()
        batch = next(batches)
        there.record()
        self._marks.append((asked, there))
        return batch

    def take_fraction(self, seconds: float) -> float:
        """Waiting's part of the time since the last call, in [0, 1], once the device has done what it was asked for.

        Args:
            seconds: since the last call; of an earlier attempt's part of them nothing is known.
        """
        self._read_marks()
        waited, self._seconds = self._seconds, 0.0
        return min(1.0, waited / min(seconds, time.monotonic() - self._started_at))

    def _read_marks(self) -> None:
        while self._marks and self._marks[0][1].query():
            asked, there = self._marks.popleft()
            self._seconds += asked.elapsed_time(there) / 1000


def speed(
    config: FinetuneConfig, accelerator: Accelerator, num_steps: int, seconds: float, input_wait: InputWait
) -> Row:
    """What the row after some steps says of them, once the device has done them; evaluations aren't counted.

    Args:
        seconds: that they took.

    Returns:
        `images_per_second` of all processes together and `input_wait_fraction` of this one, see `InputWait`; on a GPU
        `peak_memory_gib`, what PyTorch had allocated at most on this process's since the last row; on a card that is
        known `mfu`, the share of the peak of all cards (`Card.peak_flops_per_second`) that `train_flops` come to.
    """
    rate = num_steps * config.global_batch_size / seconds
    row: Row = {"images_per_second": rate, "input_wait_fraction": input_wait.take_fraction(seconds)}
    if accelerator.device.type == "cuda":
        row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        if (share := mfu(config, rate, device_name(), accelerator.num_processes)) is not None:
            row["mfu"] = share
    return row


def mfu(config: FinetuneConfig, images_per_second: float, device: str, num_devices: int = 1) -> float | None:
    """Share of the devices' peak that training reaches; None: it isn't known.

    >>> round(mfu(FinetuneConfig("ViT-B_16", "cifar10"), 1190, "NVIDIA H100 80GB HBM3"), 3)
    0.401
    """
    card = card_of_device(device)
    if card is None or card.peak_flops_per_second is None:
        return None
    flops = images_per_second * MODELS[config.model].train_flops(config.resolution)
    return flops / (num_devices * card.peak_flops_per_second)


def system_metrics() -> dict[str, float]:
    """The load of this process and its GPU since the last call; at the first call, of the CPU since the import.

    Returns:
        `system/cpu_percent` (100 is one core), `system/memory_gb` (2**30 bytes); on a GPU also, where NVML is there,
        `system/gpu_percent` at this moment.
    """
    found = {
        "system/cpu_percent": _process.cpu_percent(),
        "system/memory_gb": _process.memory_info().rss / 2**30,
    }
    if torch.cuda.is_available():
        with suppress(Exception):  # needs nvidia-ml-py, and a driver that tells
            found["system/gpu_percent"] = float(torch.cuda.utilization())
    return found
