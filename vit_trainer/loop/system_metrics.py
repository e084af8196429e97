"""How busy the machine is with a trial, as metrics in rows of the journal."""

from contextlib import suppress

import psutil
import torch

_process = psutil.Process()


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
