"""The machine: what PyTorch finds and can use of it, what its device is called, and how fast its GPUs exchange data.

Imports PyTorch only when it looks. Tested on the CPU, with Gloo in NCCL's place; not yet run on GPUs.

Command: python -m vit_trainer.machine, which prints what `look` returns as JSON; with a device it is one of the
processes of `measure_speeds`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

ALL_REDUCE_BYTES = 1 << 28
ALL_REDUCE_REPEATS = 10


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

    With several GPUs also `all_reduce`, in bytes per second.

    Raises:
        OSError: PyTorch can't be imported, or crashes.
    """
    hidden = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK")  # a shell inside torchrun has the second
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    found = _run([sys.executable, "-m", "vit_trainer.machine"], environment)
    if len(found["gpus"]) > 1 and not any(gpu["problem"] for gpu in found["gpus"]):
        speeds = measure_speeds(len(found["gpus"]), "cuda", environment)
        if problems := [each["problem"] for each in speeds if "problem" in each]:
            raise OSError(max(problems, key=len) or "no answer from PyTorch within 120 s")
        found["all_reduce"] = speeds[0]["all_reduce"]
    return found


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


def measure_speeds(
    num_processes: int, device: str, environment: dict[str, str], *, seconds: float = 120
) -> list[dict[str, Any]]:
    """How fast this machine's GPUs compute and exchange data, all at once, each with a process of its own.

    Args:
        num_processes: one per GPU.
        device: `cuda`, where NCCL exchanges data, or `cpu` with Gloo.
        environment: of the processes.
        seconds: after these, who hasn't answered doesn't.

    Returns:
        Of each process `flops_per_second` of matrix products and `all_reduce`, the bus bandwidth: bytes that leave each
        process per second, 2 (n - 1) / n of the data, as NVIDIA's nccl-tests count. Where it didn't come so far, what
        it has and a `problem`: the error, or an empty text if others' errors or the time ended it.
    """
    command = [sys.executable, "-m", "vit_trainer.machine", device]
    with tempfile.TemporaryDirectory() as folder:
        own = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(num_processes), "RENDEZVOUS": f"{folder}/rendezvous"}
        environments = [environment | own | {"LOCAL_RANK": str(rank)} for rank in range(num_processes)]
        found: list[dict[str, Any]] = []
        for code, out in run_together([(command, each) for each in environments], seconds):
            lines = out.strip().splitlines()
            found.append({})
            for line in lines:
                found[-1] |= json.loads(line) if line.startswith("{") else {}
            if code != 0:
                said = lines[-1] if lines and (code or 0) > 0 else f"exit code {code}"
                found[-1]["problem"] = "" if code is None else said
    return found


def run_together(
    commands: Sequence[tuple[Sequence[str], dict[str, str]]], seconds: float
) -> list[tuple[int | None, str]]:
    """Run programs at once until all have ended, one has failed, or the time is up.

    Who still runs then is killed and not waited for: what waits for a broken GPU or disk may never end.

    Args:
        commands: each with its environment.
        seconds: for all.

    Returns:
        The exit code of each, None of one that can't be started or was still running, and what it printed.
    """
    with ExitStack() as stack:
        outs = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands]
        running: list[subprocess.Popen[bytes] | None] = []
        for (command, environment), out in zip(commands, outs, strict=True):
            try:
                running.append(
                    subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment)
                )
            except OSError as error:
                running.append(None)
                out.write(str(error).encode())
                out.flush()
        deadline = time.monotonic() + seconds
        codes: list[int | None] = [None]
        while time.monotonic() < deadline:
            codes = [process.poll() if process else None for process in running]
            if None not in codes or any(codes) or None in running:
                break
            time.sleep(0.05)
        for process in running:
            if process is not None and process.poll() is None:
                process.kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
        return [
            (code, os.pread(out.fileno(), os.fstat(out.fileno()).st_size, 0).decode(errors="replace"))
            for code, out in zip(codes, outs, strict=True)
        ]


def _run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    except subprocess.TimeoutExpired:
        raise OSError("no answer from PyTorch within 120 s") from None
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure(device_type: str) -> None:
    """Be one process of `measure_speeds`: print each figure as soon as it is there."""
    import torch
    from torch import distributed

    rank, count, on_gpus = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]), device_type == "cuda"
    device = torch.device(device_type, rank if on_gpus else 0)
    if on_gpus:
        torch.cuda.set_device(device)
    print(json.dumps({"flops_per_second": _flops_per_second(device)}), flush=True)
    if count > 1:
        rendezvous = f"file://{os.environ['RENDEZVOUS']}"
        distributed.init_process_group(
            "nccl" if on_gpus else "gloo", init_method=rendezvous, rank=rank, world_size=count
        )
        print(json.dumps({"all_reduce": _all_reduce(device, rank, count)}), flush=True)
        distributed.destroy_process_group()


def _flops_per_second(device: torch.device) -> float:
    """The rate of matrix products that `Card.peak_flops_per_second` is about.

    Raises:
        ArithmeticError: the same product has other bits the second time.
    """
    import torch

    on_gpu = device.type == "cuda"
    has_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    size, seconds = (8192, 2.0) if on_gpu else (512, 0.2)
    factors = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if has_bfloat16 else torch.float32)
    first, product = factors[0] @ factors[1], torch.empty_like(factors[0])
    repeats, start = 0, 0.0
    while repeats < 15 or time.perf_counter() < start + seconds:
        if repeats == 5:  # the first ones choose kernels and wake the clocks
            start = time.perf_counter()
        for _ in range(5):
            torch.matmul(factors[0], factors[1], out=product)
        if on_gpu:
            torch.cuda.synchronize()
        repeats += 5
    rate = 2 * size**3 * (repeats - 5) / (time.perf_counter() - start)
    if not torch.equal(first, product):
        raise ArithmeticError("the same product of matrices has other bits the second time")
    return rate


def _all_reduce(device: torch.device, rank: int, count: int) -> float:
    """Bus bandwidth of an all-reduce.

    Raises:
        ArithmeticError: a sum is wrong.
    """
    import torch
    from torch import distributed

    on_gpus = device.type == "cuda"
    data = torch.full(((ALL_REDUCE_BYTES if on_gpus else ALL_REDUCE_BYTES // 64) // 4,), rank + 1.0, device=device)
    distributed.all_reduce(data)
    if not data.eq(count * (count + 1) / 2).all():
        raise ArithmeticError("an all-reduce gives a wrong sum")
    data.zero_()
    distributed.all_reduce(data)  # the first two set connections up
    if on_gpus:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(ALL_REDUCE_REPEATS):
        distributed.all_reduce(data)
    if on_gpus:
        torch.cuda.synchronize()
    return 2 * (count - 1) / count * data.nbytes * ALL_REDUCE_REPEATS / (time.perf_counter() - start)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measure(sys.argv[1])
    else:
        print(json.dumps(look()))
