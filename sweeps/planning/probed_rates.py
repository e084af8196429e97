"""Probed rates: how fast a sweep's models go here, each probed once and kept in the storage."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from sweeps.table.cells import Trial
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.schema import instance_of, json_of
from vit_trainer.files.storage import PROBES, Storage
from vit_trainer.loop.accelerator import for_trials
from vit_trainer.loop.probe import ProbeResult


@dataclass(frozen=True)
class Workload:
    """What the speed of a trial depends on, beside the machine."""

    model: str
    resolution: int
    """Side of the input image in pixels."""
    has_dropout: bool

    @classmethod
    def of(cls, trial: Trial) -> "Workload":
        """The workload that a trial is."""
        return cls(trial.cell.model, trial.cell.resolution, trial.config.dropout > 0)

    @property
    def name(self) -> str:
        return f"{self.model} {self.resolution}px{' with dropout' if self.has_dropout else ''}"


def measure(trials: Iterable[Trial], storage: Storage, *, seconds: float, on_gpu: bool) -> dict[Workload, ProbeResult]:
    """The rates of every workload on this machine, each probed in a process of its own unless that was done before.

    Args:
        storage: the sweep's; what was measured there with the same device and versions, and for as long, is
            used again.
        seconds: of each probe.
        on_gpu: whether the trials will run on GPUs; else a probe gets one CPU thread, as a trial does.

    Raises:
        InputError: a probe failed, or there is no GPU on this machine (the message is the probe's own last line); or
            the storage can't be written.
    """
    chosen: dict[Workload, Trial] = {}
    for trial in trials:
        chosen.setdefault(Workload.of(trial), trial)
    kept = _read(storage)
    device = _run(["-c", "from vit_trainer.machine import device_name; print(device_name())"], on_gpu) if kept else ""
    results = {}
    for workload, trial in chosen.items():
        result = kept.get(_key(workload, device.strip()))
        if result is None or result.seconds < seconds:
            print(f"probing {workload.name} for {seconds:g} s", file=sys.stderr)
            result = ProbeResult(**json.loads(_run(_arguments(trial, seconds, on_gpu), on_gpu)))
            kept[_key(workload, result.device_name)] = result
            content = {key: asdict(value) for key, value in sorted(kept.items())}
            _write(storage, json.dumps(content, indent=1).encode())
        results[workload] = result
    return results


def known(trials: Iterable[Trial], storage: Storage) -> dict[Workload, ProbeResult]:
    """What was measured before of these trials' workloads, on whichever device; the last of each."""
    kept = _read(storage)
    workloads = dict.fromkeys(map(Workload.of, trials))
    found = {workload: [kept[key] for key in kept if key.startswith(f"{workload.name} on ")] for workload in workloads}
    return {workload: results[-1] for workload, results in found.items() if results}


def _key(workload: Workload, device: str) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "timm", "accelerate"))
    return f"{workload.name} on {device}, {versions}"


def _read(storage: Storage) -> dict[str, ProbeResult]:
    try:
        kept = json_of(storage.folder.read(PROBES) or b"{}")
        results = {key: instance_of(ProbeResult, value) for key, value in kept.items()}
        if not all(
            min(each.train_images_per_second, each.evaluation_images_per_second) > 0 for each in results.values()
        ):
            raise ValueError("a rate that is not above 0")
        return results
    except (ValueError, AttributeError, IsADirectoryError) as error:
        raise InputError(
            f"{storage.location}/{PROBES} is damaged ({reason_of(error)}): delete it to measure anew"
        ) from error


def _write(storage: Storage, content: bytes) -> None:
    try:
        storage.folder.write(PROBES, content)
    except OSError as error:
        raise InputError(
            f"cannot write {storage.location}/{PROBES} ({reason_of(error)}): give a writable --storage"
        ) from error


def _arguments(trial: Trial, seconds: float, on_gpu: bool) -> list[str]:
    config = trial.config
    values = {
        "model": config.model,
        "dataset": config.dataset,
        "resolution": config.resolution,
        "dropout": config.dropout,
        "global-batch-size": config.global_batch_size,
        "seconds": seconds,
    }
    flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return ["-m", "vit_trainer", "probe", "--json", *flags, *(["--require-gpu"] if on_gpu else [])]


def _run(arguments: list[str], on_gpu: bool) -> str:
    """What a Python process prints; this one doesn't import torch, and its memory isn't the probe's."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = for_trials(os.environ) | {"PYTHONPATH": path}
    if not on_gpu:
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise InputError(f"cannot probe: {last[0].removeprefix('error: ')}")
    return done.stdout
