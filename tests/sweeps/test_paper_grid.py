"""The whole thing: real Ray, real training, real MLflow, in the smallest grid that shows it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vit_trainer.config import FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.train import train

SCRIPT = Path(__file__).parents[2] / "sweeps" / "paper_grid.py"
GRID = ["--preset", "mini", "--models", "ViT-B_32-mini", "--datasets", "digits-even", "--dropouts", "0.0"]


HOSTILE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_TP_SIZE": "2",
    "FSDP_OFFLOAD_PARAMS": "true",
    **{"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29500"},
    **{"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_USE_AGENT_STORE": "True", "LOCAL_WORLD_SIZE": "2"},
    **{"PMI_SIZE": "2", "PMI_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_SIZE": "2"},
    "MPI_LOCALRANKID": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_THREAD_LIMIT": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TIMM_FUSED_ATTN": "0",
}
"""Of a shell inside torchrun, srun or mpirun, and of somebody who has tried things; no trial may follow it."""


def begin(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """The script as a user starts it, from a folder of theirs."""
    pipe = subprocess.PIPE
    command = [sys.executable, str(SCRIPT), *GRID, *arguments]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=os.environ | environment)


def finish(process: "subprocess.Popen[str]") -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def begun_early() -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A sweep and its folder: one candidate that trains and one whose rate makes the loss no number."""
    with (
        tempfile.TemporaryDirectory() as folder,
        begin(Path(folder), "--base-lrs", "0.01", "1e38", **HOSTILE) as process,
    ):
        yield Path(folder), process
        if process.poll() is None:
            process.kill()


@pytest.fixture(scope="module")
def folder(begun: tuple[Path, "subprocess.Popen[str]"]) -> Path:
    return begun[0]


@pytest.fixture(scope="module")
def first(begun: tuple[Path, "subprocess.Popen[str]"]) -> subprocess.CompletedProcess[str]:
    return finish(begun[1])


def run_dirs(folder: Path) -> dict[str, RunDir]:
    return {path.name: RunDir(path) for path in (folder / "sweep-results" / "runs").iterdir()}


def accuracy_in_table(output: str) -> str:
    (entry,) = re.findall(r"^ViT-B_32-mini +(\d+\.\d\d)", output, re.M)
    return str(entry)


def test_a_failing_trial_is_named_and_takes_no_other_down(
    first: subprocess.CompletedProcess[str], folder: Path
) -> None:
    assert first.returncode == 1, first.stderr
    failures = [line for line in first.stderr.splitlines() if line.startswith("failed:")]
    assert len(failures) == 1
    assert "lr1e+38" in failures[0]
    assert "NonFiniteLossError: the training loss is nan" in failures[0]
    by_status = {str((run_dir.result() or {})["status"]): run_dir for run_dir in run_dirs(folder).values()}
    assert set(by_status) == {"finished", "failed"}
    result = by_status["finished"].result()
    assert result is not None
    assert accuracy_in_table(first.stdout) == f"{100 * result['test/accuracy']:.2f}"
    assert result["test/accuracy"] > 0.9


def test_a_hostile_environment_changes_no_bit_of_a_trial(
    first: subprocess.CompletedProcess[str], folder: Path, tmp_path: Path
) -> None:
    (there,) = (run_dir for run_dir in run_dirs(folder).values() if (run_dir.result() or {})["status"] == "finished")
    config = FinetuneConfig(**(there.config() or {}))
    train(config, RunDir(tmp_path))
    bits = [
        [(row["step"], row["train/loss"], row.get("val/loss"), row.get("val/accuracy")) for row in run_dir.journal()]
        for run_dir in (there, RunDir(tmp_path))
    ]
    assert bits[0] == bits[1]
    assert (there.result() or {})["test/loss"] == (RunDir(tmp_path).result() or {})["test/loss"]


def test_mlflow_has_one_run_per_trial_with_what_the_ui_compares(
    first: subprocess.CompletedProcess[str], folder: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/sweep-results/mlflow.db")
    experiment = client.get_experiment_by_name("paper_grid-mini")
    assert experiment is not None
    all_runs = client.search_runs([experiment.experiment_id])
    (cell,) = (run for run in all_runs if "cell_run" in run.data.tags)
    runs = {run.data.tags["trial_id"]: run for run in all_runs if "trial_id" in run.data.tags}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {cell.info.run_id}
    assert (cell.info.status, cell.data.metrics["num_trials"]) == ("FINISHED", 2)
    assert set(runs) == set(run_dirs(folder))
    for trial_id, run_dir in run_dirs(folder).items():
        run_, result = runs[trial_id], run_dir.result()
        assert result is not None
        assert run_.data.params["model"] == "ViT-B_32-mini"
        assert run_.data.tags["sweep"] == "paper_grid-mini"
        assert run_.data.tags["cell"].startswith("ViT-B_32-mini digits-even")
        assert run_.info.status == {"finished": "FINISHED", "failed": "FAILED"}[result["status"]]
        if result["status"] == "finished":
            assert run_.data.metrics["test/accuracy"] == result["test/accuracy"]
            assert {"runtime_hours", "gpu_hours", "lr", "images_per_second", "input_wait_fraction"} <= set(
                run_.data.metrics
            )
            steps = [metric.step for metric in client.get_metric_history(run_.info.run_id, "train/loss")]
            assert sorted(set(steps)) == [row["step"] for row in run_dir.journal()]


def test_the_same_command_again_runs_nothing_and_prints_the_same_table(
    first: subprocess.CompletedProcess[str], folder: Path
) -> None:
    before = {trial_id: run_dir.rows() for trial_id, run_dir in run_dirs(folder).items()}
    start = time.monotonic()
    again = finish(begin(folder, "--base-lrs", "0.01"))
    assert time.monotonic() - start < 20
    assert again.returncode == 0, again.stderr
    assert "1 trial, 1 of them done" in again.stdout
    assert accuracy_in_table(again.stdout) == accuracy_in_table(first.stdout)
    assert before == {trial_id: run_dir.rows() for trial_id, run_dir in run_dirs(folder).items()}
