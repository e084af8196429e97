"""profiled_steps(): a trace of ten steps, and on a GPU what its memory held meanwhile, for the run folder.

The memory's part has not yet run on a GPU.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import MEMORY, TRACE, Row, RunDir
from vit_trainer.loop.liveness import START_SECONDS, expect

NUM_BEFORE = 3
"""Steps before those: the first compiles, the last of them is the profiler's own warm-up."""
NUM_STEPS = 10
MOST_ALLOCATIONS = 200_000
"""The latest that the snapshot tells of."""


def require_enough_steps(total_steps: int) -> None:
    """Raise InputError for a run that is too short."""
    if total_steps < NUM_BEFORE + NUM_STEPS:
        least = NUM_BEFORE + NUM_STEPS
        raise InputError(f"total_steps {total_steps} is too few for --profile: give at least {least}, or leave it out")


@contextmanager
def profiled_steps(
    run_dir: RunDir | None, device: torch.device, report: Callable[[Row], None] | None
) -> Iterator[Callable[[], None]]:
    """What is to be called after each step; after the last of those that are profiled it writes, and says where.

    Args:
        run_dir: open for writing; None: nothing is profiled. A run that ends before leaves nothing.
    """
    if run_dir is None:
        yield lambda: None
        return
    on_gpu, num_steps = device.type == "cuda", 0
    if not on_gpu:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it complains that there is no GPU

    def write(profiler: profile) -> None:
        if num_steps < NUM_BEFORE + NUM_STEPS:
            return
        expect(START_SECONDS)  # a large model's trace takes a while
        note = f"profiled {NUM_STEPS} steps: {run_dir.location}/{TRACE} opens in https://ui.perfetto.dev"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json.gz"
            profiler.export_chrome_trace(str(path))
            run_dir.write_profile(TRACE, path.read_bytes())
            if on_gpu:
                torch.cuda.memory._dump_snapshot(str(path))
                torch.cuda.memory._record_memory_history(enabled=None)
                run_dir.write_profile(MEMORY, path.read_bytes())
                note += f", {run_dir.location}/{MEMORY} in https://pytorch.org/memory_viz"
        line = run_dir.append({"note": note})
        if report is not None:
            report(line)

    def step_done() -> None:
        nonlocal num_steps
        num_steps += 1
        if on_gpu and num_steps in (NUM_BEFORE, NUM_BEFORE + NUM_STEPS):
            torch.cuda.synchronize()
        if on_gpu and num_steps == NUM_BEFORE:
            torch.cuda.memory._record_memory_history(stacks="python", max_entries=MOST_ALLOCATIONS)
        profiler.step()

    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])],
        schedule=schedule(skip_first=NUM_BEFORE - 1, wait=0, warmup=1, active=NUM_STEPS, repeat=1),
        on_trace_ready=write,
    ) as profiler:
        yield step_done
