"""Storages as sweeps leave them, written by the same means, with figures that a test makes up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_trainer.config import FinetuneConfig
from vit_trainer.files.run_dir import RunDir

ATTEMPT: dict[str, Any] = {
    "attempt": 1,
    "from_step": 0,
    "host": "node-1",
    "device": "cuda",
    "device_name": "NVIDIA A100-SXM4-40GB",
    "num_processes": 1,
    "micro_batch_size": 128,
    "weights_sha256": "ab" * 32,
    "versions": {"python": "3.11.9", "torch": "2.7.0"},
    "commit": "c0ffee" * 6 + "c0ff",
}


def write_run(
    storage: Path,
    config: FinetuneConfig,
    validations: Sequence[tuple[int, float]],
    result: Mapping[str, Any] | None,
    *,
    hours: float = 8.0,
    speeds: Mapping[str, float] | None = None,
    attempt: Mapping[str, Any] = ATTEMPT,
) -> RunDir:
    """A run folder.

    Args:
        validations: (step, accuracy as a fraction) of each.
        result: content of result.json beside the step and the hours; None: the run isn't done.
        hours: of a whole run.
        speeds: what each row says of it; older versions' rows said nothing.
    """
    run_dir = RunDir(storage / "runs" / config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    run_dir.append(dict(attempt))
    for step, accuracy in validations:
        run_dir.append({"step": step, "val/accuracy": accuracy, **_hours(config, step, hours), **(speeds or {})})
    if result is not None:
        step = validations[-1][0] if validations else 0
        run_dir.write_result({"step": step, **_hours(config, step, hours), **result})
    run_dir.close()
    return run_dir


def finished(config: FinetuneConfig, validation: float, test: float) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """Validations and result of a run that came to its end."""
    steps = [config.total_steps * i // 8 for i in range(1, 9)]
    curve = [(step, validation * (1 - 0.3 * 0.5**i)) for i, step in enumerate(steps)]
    curve[-1] = (steps[-1], validation)
    return curve, {"status": "finished", "val/accuracy": validation, "test/accuracy": test}


def _hours(config: FinetuneConfig, step: int, hours: float) -> dict[str, float]:
    so_far = hours * step / config.total_steps
    return {"runtime_hours": so_far, "gpu_hours": so_far}
