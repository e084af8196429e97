"""`python -m vit_trainer sync` against real stores: SQLite, PostgreSQL, and a server that dies and comes back."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.stores import MlflowServer, free_port, postgresql
from vit_trainer.config import FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.background import BackgroundShipper
from vit_trainer.tracking.catalogue import Catalogue, Membership
from vit_trainer.tracking.store import be_impatient

TRIALS = [FinetuneConfig.official("ViT-B_16", "cifar10", seed=seed) for seed in range(3)]


def sync(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vit_trainer", "sync", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env=os.environ | environment
    )


def make_storage(folder: Path) -> Path:
    """Three trials, the first two of a sweep, and four folders that are none."""
    runs = folder / "runs"
    for number, config in enumerate(TRIALS):
        run_dir = RunDir(runs / config.trial_id)
        run_dir.open_for_writing(config.to_dict())
        for step in range(50, 501, 50):
            run_dir.append({"step": step, "train/loss": 1 / step, "lr": 0.01, "val/accuracy": 0.9 + number / 100})
        if number < 2:
            result = {"status": "finished", "step": 500, "test/accuracy": 0.95, "val/accuracy": 0.9 + number / 100}
            run_dir.write_result(result | {"runtime_hours": 1.0, "gpu_hours": 1.0})
        run_dir.close()
    Catalogue(Storage(folder), "a-sweep").add(
        {config.trial_id: Membership("a cell", {"cell": "a cell"}, 0.94) for config in TRIALS[:2]}
    )
    (runs / "empty").mkdir()
    (runs / "a-file").touch()
    shutil.copytree(runs / TRIALS[0].trial_id, runs / f"{TRIALS[0].trial_id}-copy")
    damaged = runs / FinetuneConfig.official("ViT-B_16", "cifar10", seed=9).trial_id
    shutil.copytree(runs / TRIALS[0].trial_id, damaged)
    (damaged / "config.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_storage(tmp_path_factory.mktemp("storage"))


def content(tracking_uri: str) -> dict[str, object]:
    """All that MLflow holds, by what it is about."""
    client = MlflowClient(tracking_uri)
    experiments = client.search_experiments()
    found: dict[str, object] = {}
    for run in client.search_runs([experiment.experiment_id for experiment in experiments]):
        points = {
            key: [
                (point.step, point.timestamp, point.value) for point in client.get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        name = run.data.tags.get("trial_id") or run.data.tags["cell_run"]
        assert name not in found
        found[name] = (run.info.status, run.data.params, run.data.tags, points)
    return found


def check(tracking_uri: str, storage: Path) -> None:
    arguments = ["--storage", str(storage), "--tracking-uri", tracking_uri]
    first = sync(*arguments)
    assert first.returncode == 0, first.stderr
    assert "3 created, 0 updated, 0 unchanged; 4 folders left out" in first.stdout
    for name in (
        "left out: runs/empty: no config.json: not a run folder",
        "left out: runs/a-file",
        "-copy/config.json is damaged: it is that of",
        "config.json is damaged: no JSON",
    ):
        assert name in first.stderr
    before = content(tracking_uri)
    assert set(before) == {"a cell", *(config.trial_id for config in TRIALS)}
    again = sync(*arguments)
    assert "0 created, 0 updated, 3 unchanged" in again.stdout, again.stderr
    assert content(tracking_uri) == before
    client = MlflowClient(tracking_uri)
    sweep, alone = (client.get_experiment_by_name(name) for name in ("a-sweep", "vit_trainer"))
    assert sweep is not None
    assert alone is not None
    for run in client.search_runs([sweep.experiment_id, alone.experiment_id]):
        if "shipped" in run.data.tags:
            client.delete_tag(run.info.run_id, "shipped")
    assert "3 updated" in sync(*arguments).stdout
    assert content(tracking_uri) == before
    cell_run = client.search_runs([sweep.experiment_id], "tags.cell_run = 'a cell'")[0]
    assert cell_run.data.metrics["accuracy_difference"] == pytest.approx(0.01)
    assert cell_run.data.metrics["num_seeds"] == 2
    assert cell_run.data.metrics["val/accuracy"] == pytest.approx(0.905)
    assert cell_run.data.tags["best_trial"] == TRIALS[0].trial_id


@pytest.mark.slow
def test_a_sqlite_file_gets_everything_once(storage: Path, tmp_path: Path) -> None:
    check(f"sqlite:///{tmp_path}/mlflow.db", storage)


@pytest.fixture(scope="module")
def postgresql_store() -> Iterator[str]:
    with postgresql() as uri:
        yield uri


@pytest.mark.slow
def test_a_server_on_postgresql_gets_everything_once(storage: Path, tmp_path: Path, postgresql_store: str) -> None:
    server = MlflowServer(tmp_path, postgresql_store)
    server.start()
    try:
        check(server.address, storage)
    finally:
        server.kill()


@pytest.mark.slow
def test_what_a_dead_server_missed_is_shipped_when_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_trainer.tracking.background.SECONDS_BETWEEN_ATTEMPTS", 0.5)
    server = MlflowServer(tmp_path)
    config = TRIALS[0]
    run_dir = RunDir(tmp_path / "storage" / "runs" / config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    background = BackgroundShipper(server.address, "vit_trainer", tmp_path, {})  # down at the start
    run_dir.append({"step": 1, "train/loss": 1.0})
    background.ship(run_dir, Membership())
    server.start()
    wait_for_row(server.address, config.trial_id, 1)
    server.kill()  # down in the middle
    run_dir.append({"step": 2, "train/loss": 0.9})
    background.ship(run_dir, Membership())
    server.start()
    wait_for_row(server.address, config.trial_id, 2)
    server.kill()  # down at the end
    run_dir.append({"step": 3, "train/loss": 0.8})
    run_dir.write_result({"status": "finished", "step": 3, "test/accuracy": 0.9, "val/accuracy": 0.8})
    run_dir.close()
    background.ship(run_dir, Membership())
    background.close()
    assert background.failure is not None

    arguments = ["--storage", str(tmp_path / "storage"), "--tracking-uri", server.address]
    refused = sync(*arguments)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: MLflow at {server.address} can't be used (")
    assert refused.stderr.count("\n") == 1
    server.start()
    try:
        done = sync(*arguments)
        assert "0 created, 1 updated, 0 unchanged" in done.stdout, done.stderr
        status, _, tags, points = content(server.address)[config.trial_id]  # type: ignore[misc]
        assert (status, tags["outcome"]) == ("FINISHED", "finished")
        assert [(step, value) for step, _, value in points["train/loss"]] == [(1, 1.0), (2, 0.9), (3, 0.8)]
    finally:
        server.kill()


def wait_for_row(address: str, trial_id: str, step: int) -> None:
    client, deadline = MlflowClient(address), time.monotonic() + 60
    while time.monotonic() < deadline:
        experiment = client.get_experiment_by_name("vit_trainer")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        for run in runs:
            points = client.get_metric_history(run.info.run_id, "train/loss")
            if run.data.tags["trial_id"] == trial_id and max((point.step for point in points), default=0) == step:
                return
        time.sleep(0.2)
    raise AssertionError(f"step {step} was not shipped")


def test_a_storage_without_run_folders_is_said(tmp_path: Path) -> None:
    done = sync("--storage", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: there are no run folders in {tmp_path}: give the storage of a sweep or of train\n"


def test_mlflows_own_variable_gives_its_address(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a-trial").mkdir(parents=True)
    done = sync("--storage", str(tmp_path), MLFLOW_TRACKING_URI="htp://host")
    assert done.returncode == 2
    assert done.stderr.startswith("error: tracking-uri htp://host is none of MLflow's")


@pytest.mark.parametrize(
    ("uri", "reason", "advice"),
    [
        ("htp://host", "is none of MLflow's", "give http://host:port"),
        ("./mlruns", "is none of MLflow's", "sqlite:///folder/mlflow.db"),
        (f"http://127.0.0.1:{free_port()}", "Connection refused", "start the server there"),
        ("http://127.0.0.1:40149", "Connection refused", "start the server there"),  # no 401
        ("http://no-such-host.invalid:5000", "can't be used", "correct the address"),
        ("sqlite:////no/such/folder/mlflow.db", "/no/such/folder is no folder", "correct the address"),
        (f"postgresql+psycopg2://me:secret@127.0.0.1:{free_port()}/mlflow", "me:***@", "start the server there"),
        ("postgresql+psycopg://host/mlflow", "No module named 'psycopg'", "psycopg2-binary"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path, uri: str, reason: str, advice: str) -> None:
    command = [sys.executable, "-m", "vit_trainer", "train", "--model", "ViT-B_32-mini", "--dataset", "digits-even"]
    command += ["--storage", str(tmp_path / "storage"), "--tracking-uri", uri]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert advice in done.stderr
    assert "secret" not in done.stderr
    assert not (tmp_path / "storage").exists()


@pytest.mark.slow
def test_a_server_that_accepts_and_never_answers_is_one_line(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = sync("--storage", str(storage), "--tracking-uri", address, MLFLOW_HTTP_REQUEST_TIMEOUT="2")
        assert time.monotonic() - start < 45 - 2 * (10 - 2)
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr


def test_unless_told_otherwise_mlflow_gives_up_after_two_attempts_of_10_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MAX_RETRIES", "TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "to be restored")
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}")
    be_impatient()
    assert (os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"], os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("1", "10")
