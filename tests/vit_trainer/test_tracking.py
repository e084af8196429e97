"""Shipping run folders to a real MLflow store (SQLite)."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from vit_trainer.run_dir import RunDir
from vit_trainer.tracking import BackgroundShipper, Shipper, default_tracking_uri

CONFIG = {"model": "ViT-B_16", "dropout": 0.1}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


def shipper(storage: Path) -> Shipper:
    return Shipper(default_tracking_uri(storage), "a-sweep", storage / "artifacts", {"sweep": "a-sweep"})


def new_run(storage: Path, name: str) -> RunDir:
    run_dir = RunDir(storage / "runs" / name)
    run_dir.open_for_writing(CONFIG)
    run_dir.append({"step": 10, "train/loss": 0.5, "val/accuracy": 0.8})
    return run_dir


def runs_of(storage: Path, trial_id: str) -> list[Run]:
    client = MlflowClient(default_tracking_uri(storage))
    experiment = client.get_experiment_by_name("a-sweep")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.trial_id = '{trial_id}'"))


def test_one_run_for_ever_and_nothing_twice(storage: Path) -> None:
    run_dir = new_run(storage, "resumed")
    for _ in range(2):  # two drivers, one after the other; the second knows nothing of the first
        driver = shipper(storage)
        driver.ship(run_dir, {"cell": "a cell"})
        driver.ship(run_dir, {"cell": "a cell"})
        (run,) = runs_of(storage, "resumed")
        assert run.info.status == "RUNNING"
    run_dir.append({"step": 20, "train/loss": 0.4, "val/accuracy": 0.9})
    run_dir.write_result({"status": "finished", "step": 20, "test/accuracy": 0.91})
    shipper(storage).ship(run_dir, {"cell": "a cell"})

    (run,) = runs_of(storage, "resumed")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model": "ViT-B_16", "dropout": "0.1"}
    assert run.data.metrics["test/accuracy"] == 0.91
    assert (run.data.tags["cell"], run.data.tags["sweep"]) == ("a cell", "a-sweep")
    history = MlflowClient(default_tracking_uri(storage)).get_metric_history(run.info.run_id, "val/accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.8), (20, 0.9)]


@pytest.mark.parametrize(("status", "shown"), [("stopped", "KILLED"), ("failed", "FAILED")])
def test_how_a_run_ended(storage: Path, status: str, shown: str) -> None:
    run_dir = new_run(storage, status)
    run_dir.write_result({"status": status, "step": 10, "cause": "the reason"})
    shipper(storage).ship(run_dir, {})
    (run,) = runs_of(storage, status)
    assert (run.info.status, run.data.tags["cause"]) == (shown, "the reason")


def test_a_failed_run_that_goes_on_is_running_again(storage: Path) -> None:
    run_dir = new_run(storage, "retried")
    run_dir.write_result({"status": "failed", "step": 10, "cause": "the reason"})
    shipper(storage).ship(run_dir, {})
    run_dir.open_for_writing(CONFIG)
    assert run_dir.result() is None
    shipper(storage).ship(run_dir, {})
    (run,) = runs_of(storage, "retried")
    assert run.info.status == "RUNNING"


def test_the_background_shipper_ships_everything_before_it_closes(storage: Path) -> None:
    background = BackgroundShipper(default_tracking_uri(storage), "a-sweep", storage / "artifacts", {})
    run_dirs = [new_run(storage, f"background-{i}") for i in range(3)]
    for run_dir in run_dirs:
        background.ship(run_dir, {})
    background.close()
    assert background.failure is None
    assert all(len(runs_of(storage, run_dir.trial_id)) == 1 for run_dir in run_dirs)


def test_an_outage_is_told_and_delays_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    background = BackgroundShipper(f"sqlite:///{tmp_path}/file/mlflow.db", "a-sweep", tmp_path, {})
    background.ship(new_run(tmp_path, "unseen"), {})
    background.close(timeout_seconds=30)
    assert background.failure is not None
