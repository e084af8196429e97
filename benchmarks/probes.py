"""Probes of many models within a time: each in a process of its own, which is ended when its time is up."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.provenance import ROOT
from vit_trainer.config import FinetuneConfig

NO_TIME = "no time was left"
FEWEST_SECONDS = 20
"""With less time than this left, nothing more is begun."""


@dataclass(frozen=True)
class Probed:
    """What `python -m vit_trainer probe` says of one model with one dropout, in a process of its own."""

    model: str
    resolution: int
    """Side of the images in pixels."""
    dropout: float
    wall_seconds: float
    """That it took, start and compilation included."""
    problem: str | None = None
    """Why there are no figures; None: there are."""
    train_images_per_second: float | None = None
    evaluation_images_per_second: float | None = None
    mfu: float | None = None
    """Share of the card's peak in training; None: it isn't known."""
    micro_batch_size: int | None = None
    peak_memory_gib: float | None = None
    """What PyTorch held at most, evaluations included; None on a CPU."""
    estimated_memory_gib: float | None = None
    """By which the micro-batch is chosen on a GPU."""
    device_name: str | None = None


def probe_all(configs: Sequence[FinetuneConfig], seconds: float, ends_at: float) -> Iterator[list[Probed]]:
    """Probe one after the other; what there is no time for says so.

    Args:
        seconds: to measure each.
        ends_at: by the monotonic clock.

    Yields:
        Those done so far, after each.
    """
    done: list[Probed] = []
    for i, config in enumerate(configs):
        left = ends_at - time.monotonic()
        # One that hangs must not take the others' time: twice its part of what is left.
        done.append(probed(config, seconds, min(left, max(90.0, 2 * left / (len(configs) - i)))))
        yield list(done)


def probed(config: FinetuneConfig, seconds: float, limit: float) -> Probed:
    """Probe one model in a process of its own.

    Args:
        seconds: to measure.
        limit: seconds until the process is ended.
    """
    from vit_trainer.loop.speed import mfu
    from vit_trainer.model.memory import memory_bytes

    which = (config.model, config.resolution, config.dropout)
    if limit < FEWEST_SECONDS:
        return Probed(*which, 0.0, NO_TIME)
    command = [sys.executable, "-m", "vit_trainer", "probe", "--json", "--seconds", str(seconds)]
    for name in ("model", "dataset", "resolution", "dropout", "global_batch_size"):
        command += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    start = time.monotonic()
    ended = run_within(command, limit)
    took = time.monotonic() - start
    if ended.problem is not None:
        return Probed(*which, took, ended.problem)
    found = json.loads(ended.out.splitlines()[-1])
    peak, micro_batch_size = found["peak_memory_bytes"], found["micro_batch_size"]
    return Probed(
        *which,
        took,
        None,
        found["train_images_per_second"],
        found["evaluation_images_per_second"],
        mfu(config, found["train_images_per_second"], found["device_name"]),
        micro_batch_size,
        None if peak is None else peak / 2**30,
        memory_bytes(config, micro_batch_size) / 2**30,
        found["device_name"],
    )


def probed_text(probed: Probed) -> str:
    """In a line."""
    name = f"{probed.model} at {probed.resolution} px, dropout {probed.dropout:g}"
    if probed.problem is not None:
        return f"{name}: {probed.problem}"
    share = "" if probed.mfu is None else f" ({probed.mfu:.1%} of the peak)"
    peak = "" if probed.peak_memory_gib is None else f"{probed.peak_memory_gib:.1f} GiB of "
    return (
        f"{name}: {probed.train_images_per_second:.0f} images/s{share}, evaluation "
        f"{probed.evaluation_images_per_second:.0f}; micro-batch {probed.micro_batch_size}, "
        f"{peak}{probed.estimated_memory_gib:.1f} GiB estimated; {probed.wall_seconds:.0f} s"
    )


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    problem: str | None
    """What went wrong, in a line; None: nothing."""
    out: str
    """What it printed."""


def run_within(command: Sequence[str], seconds: float) -> Ended:
    """Run a command in a session of its own, and end all of that once it is over or its time is up."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}  # what it printed before its time was up
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment, start_new_session=True
    )
    problem = None
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        problem = f"not done within {seconds:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if problem is not None:
        out, _ = process.communicate()
    elif process.returncode:
        problem = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    return Ended(problem, out)
