"""Sweeps as a user starts them, on clusters as one finds them, and what can be seen of them from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.stores import with_mlflow_tables
from vit_trainer.files.run_dir import Row, RunDir

SCRIPT = Path(__file__).parents[2] / "sweeps" / "paper_grid.py"
SMALL_GRID = ["--preset", "mini", "--models", "ViT-B_32-mini", "--datasets", "digits-even", "--dropouts", "0.1"]
BASE_LRS = ("0.003", "0.001")
"""Of a sweep that isn't given others."""
QUIET_LRS = (*BASE_LRS, "0.002", "0.0005")
"""Of the sweep that others are compared with."""


class Sweep:
    """A sweep as a user starts it, and what can be seen of it from outside."""

    def __init__(self, storage: Path, *arguments: str, address: str = "local") -> None:
        self.storage = storage
        if not (storage / "mlflow.db").exists():
            with_mlflow_tables(storage)
        rates = [] if "--base-lrs" in arguments else ["--base-lrs", *BASE_LRS]
        selection = [] if "--early-stopping" in arguments else ["--no-early-stopping"]
        # A miniature is over before its first checkpoint would be due.
        often = [] if "--checkpoint-every-minutes" in arguments else ["--checkpoint-every-minutes", "0.001"]
        grid = [*SMALL_GRID[:4], *SMALL_GRID[6:]] if "--datasets" in arguments else SMALL_GRID
        flags = [*grid, *often, *rates, *selection, *arguments, "--storage", str(storage)]
        command = [sys.executable, str(SCRIPT), *flags]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAY_ADDRESS": address},
            start_new_session=True,
        )

    def run_dirs(self) -> list[RunDir]:
        runs = self.storage / "runs"
        return [RunDir(path) for path in sorted(runs.iterdir())] if runs.is_dir() else []

    def wait_until(self, what: Callable[[RunDir], bool], seconds: float = 120) -> RunDir:
        """The first run folder of which this is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for run_dir in self.run_dirs():
                if what(run_dir):
                    return run_dir
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s")

    def finish(self, seconds: float = 200) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err


def rows_of(run_dir: RunDir, attempt: int) -> list[Row]:
    """What one attempt, and what came after it, has written; none before it has begun."""
    lines = run_dir.lines()
    begins = [i for i, line in enumerate(lines) if line.get("attempt") == attempt]
    return [line for i in begins for line in lines[i:] if "step" in line]


def has_validated_in(attempt: int) -> Callable[[RunDir], bool]:
    """Whether a trial is in the middle of such an attempt: a checkpoint is there, and steps are still to come."""

    def has_validated(run_dir: RunDir) -> bool:
        with run_dir.checkpoint() as path:
            return path is not None and any("val/accuracy" in row for row in rows_of(run_dir, attempt))

    return has_validated


has_validated = has_validated_in(1)


def is_finished(run_dir: RunDir) -> bool:
    return (run_dir.result() or {}).get("status") == "finished"


def numbers(storage: Path) -> dict[str, Any]:
    """All that must not depend on what happened on the way, to the last bit."""
    found = {}
    for path in (storage / "runs").iterdir():
        run_dir = RunDir(path)
        rows = [(row["step"], row["train/loss"], row.get("val/loss")) for row in run_dir.journal()]
        result = run_dir.result() or {}
        found[path.name] = (rows, result["status"], result.get("test/accuracy"), result.get("test/loss"))
    return found


def statuses_in_mlflow(storage: Path) -> dict[str, str]:
    """Status of each trial's run and each cell's, by its name; there is one of each."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("paper_grid-mini")
    assert experiment is not None
    runs = [run for run in client.search_runs([experiment.experiment_id]) if "sweep_run" not in run.data.tags]
    found = [(run.info.run_name, run.info.status) for run in runs]
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


def metrics_in_mlflow(storage: Path, trial_id: str, metric: str) -> list[tuple[int, float]]:
    """Every step and value that a trial's run has of a metric."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("paper_grid-mini")
    assert experiment is not None
    (run,) = [each for each in client.search_runs([experiment.experiment_id]) if each.info.run_name == trial_id]
    return [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, metric)]


Start = Callable[..., Sweep]
