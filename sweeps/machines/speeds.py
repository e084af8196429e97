"""How fast this machine's GPUs compute and exchange data.

Tested on the CPU, with Gloo in NCCL's place; not yet run on GPUs.

Command: python -m sweeps.machines.speeds cuda, or cpu: one of the processes of `measure_speeds`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_trainer.machine import look_from_outside

if TYPE_CHECKING:
    import torch

ROOT = str(Path(__file__).parents[2])
ALL_REDUCE_BYTES = 1 << 28
ALL_REDUCE_REPEATS = 10


def look_and_measure() -> dict[str, Any]:
    """What `look_from_outside` finds; of several GPUs also `all_reduce`.

    Raises:
        OSError: PyTorch can't be imported, or crashes.
    """
    found = look_from_outside()
    if len(found["gpus"]) > 1 and not any(gpu["problem"] for gpu in found["gpus"]):
        speeds = measure_speeds(len(found["gpus"]), "cuda")
        if problems := [each["problem"] for each in speeds if "problem" in each]:
            raise OSError(max(problems, key=len) or "no answer from PyTorch in time")
        found["all_reduce"] = min(each["all_reduce"] for each in speeds)
    return found


def measure_speeds(num_processes: int, device: str, *, seconds: float = 120) -> list[dict[str, Any]]:
    """How fast this machine's GPUs compute and exchange data, all at once, each with a process of its own.

    Args:
        num_processes: one per GPU, in the order of nvidia-smi.
        device: `cuda`, where NCCL exchanges data, or `cpu` with Gloo.
        seconds: after these, who hasn't answered doesn't.

    Returns:
        Of each process `flops_per_second` of matrix products and `all_reduce`, the bus bandwidth: bytes that leave each
        process per second, 2 (n - 1) / n of the data, as NVIDIA's nccl-tests count. Where it didn't come so far, what
        it has and a `problem`: the error, or an empty text if others' errors or the time ended it.
    """
    hidden = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "WORLD_SIZE": str(num_processes)}
    command = [sys.executable, "-m", "sweeps.machines.speeds", device]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        environment["RENDEZVOUS"] = f"{folder}/rendezvous"
        ranks = [environment | {"LOCAL_RANK": str(rank)} for rank in range(num_processes)]
        for code, out in run_together([(command, each) for each in ranks], seconds):
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
    _measure(sys.argv[1])
