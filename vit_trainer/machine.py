"""The machine: what PyTorch finds and can use of it, and what its device is called.

Imports PyTorch only when it looks. Tested on the CPU; not yet run on GPUs.

Command: python -m vit_trainer.machine, which prints what `look` returns as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


def device_name() -> str:
    """What a trial in this process would run on: the GPU's name, or the CPU's and the number of threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_cpu_name()} with {torch.get_num_threads()} threads"


def card_and_versions() -> str:
    """What computes here, in a line: the device, and what stands between it and this project."""
    import torch

    parts = [device_name()]
    if torch.cuda.is_available():
        version = torch.backends.cudnn.version() or 0
        cudnn = f"{version // 10_000}.{version // 100 % 100}.{version % 100}"
        parts += [f"driver {(_drivers() or ['unknown'])[0]}", f"CUDA {torch.version.cuda}", f"cuDNN {cudnn}"]
    return ", ".join([*parts, f"torch {torch.__version__}"])


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller parts may help; CUDA's own allocations, cuDNN's and cuBLAS's say it in words of their own."""
    from accelerate.utils.memory import should_reduce_batch_size

    signs = ("CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
    return should_reduce_batch_size(error) or any(sign in str(error) for sign in signs)


def num_cores() -> int:
    """CPU cores for this process: as many as PyTorch has threads, which whoever started it knows.

    But torchrun and `accelerate launch` give each process one thread, however many cores there are for it.
    """
    import torch

    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return torch.get_num_threads()
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """A small array as a tensor on the device, which isn't waited for.

    A GPU copies by itself only from pinned memory; for any other, the driver may first wait for what is queued.
    """
    import torch

    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def look() -> dict[str, Any]:
    """Versions, and each GPU with what it can't do: `cuda`, `driver`, and `gpus` as (name, memory_gib, problem).

    `num_of_driver` is how many GPUs the driver has, also where PyTorch can use none of them.

    A GPU has been used when this returns: a product of two small matrices is compared with the CPU's.
    """
    import torch

    gpus = []
    for i in range(torch.cuda.device_count()):
        try:
            properties = torch.cuda.get_device_properties(i)
            name, memory = properties.name, properties.total_memory / 2**30
            ones = torch.ones(256, 256, device=f"cuda:{i}", dtype=torch.bfloat16)
            problem = "" if (ones @ ones).float().cpu().eq(256).all() else "computes a wrong product"
        except (RuntimeError, AssertionError) as error:
            name, memory, problem = f"GPU {i}", 0.0, str(error).splitlines()[0]
        gpus.append({"name": name, "memory_gib": round(memory, 1), "problem": problem})
    drivers = _drivers()
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": drivers[0] if drivers else None,
        "num_of_driver": len(drivers),
        "gpus": gpus,
    }


def _drivers() -> list[str]:
    """The NVIDIA driver's version, once per GPU that it has; none if there is no driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def look_from_outside() -> dict[str, Any]:
    """What `look` finds from a process of its own that sees all GPUs, whatever this one may use.

    Raises:
        OSError: PyTorch can't be imported, or crashes.
    """
    hidden = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK")  # a shell inside torchrun has the second
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return _run([sys.executable, "-m", "vit_trainer.machine"], environment)


def gpus_from_outside(*, of_machine: bool) -> list[dict[str, Any]]:
    """What PyTorch says of each GPU as (name, memory_gib, has_bfloat16), from a process of its own: this uses none.

    Args:
        of_machine: all of them, else those that this process may use.

    Raises:
        OSError: PyTorch can't be imported, or crashes.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    look_at = "import json; from vit_trainer.machine import gpus; print(json.dumps({'gpus': gpus()}))"
    return list(_run([sys.executable, "-c", look_at], environment if of_machine else {**os.environ})["gpus"])


def gpus() -> list[dict[str, Any]]:
    """What `gpus_from_outside` tells of this process's GPUs."""
    import torch

    if not torch.cuda.is_available():
        return []
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {"name": each.name, "memory_gib": round(each.total_memory / 2**30, 1), "has_bfloat16": has_bfloat16}
        for each in found
    ]


def _run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    except subprocess.TimeoutExpired:
        raise OSError("no answer from PyTorch within 120 s") from None
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    print(json.dumps(look()))
