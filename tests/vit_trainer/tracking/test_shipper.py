"""Shipping run folders to a real MLflow store (SQLite)."""

import json
import os
import re
import shlex
import shutil
import socket
import threading
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.experiments import commands
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from tests.stores import with_mlflow_tables
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import DamagedError, InputError, StoreError
from vit_trainer.files.run_dir import LEASE, RunDir
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.background import BackgroundShipper
from vit_trainer.tracking.catalogue import Membership
from vit_trainer.tracking.experiment import Experiment
from vit_trainer.tracking.trial_runs import Shipper

MEMBERSHIP = Membership("a cell's name", {"cell": "a cell's name"}, published_accuracy=0.9)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of most tests, with MLflow's tables made by the first that ships."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def own_storage(tmp_path: Path) -> Path:
    """Of one test alone."""
    return with_mlflow_tables(tmp_path)


def shipper(storage: Path) -> Shipper:
    return Shipper(Storage(storage).tracking_uri, "a-sweep", storage / "artifacts", {"sweep": "a-sweep"})


def client_of(storage: Path) -> MlflowClient:
    return MlflowClient(Storage(storage).tracking_uri)


TRIAL_IDS: dict[str, str] = {}
"""Of the trials that tests have made, by the names that these have for them."""


def new_run(storage: Path, name: str, **changes: float) -> RunDir:
    values = {"base_lr": 0.01, "seed": zlib.crc32(name.encode()), "total_steps": 20, "warmup_steps": 2}
    config = FinetuneConfig.official("ViT-B_16", "cifar10", dropout=0.1, **values | changes)
    TRIAL_IDS[name] = config.trial_id
    run_dir = RunDir(storage / "runs" / config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    run_dir.append({"step": 10, "train/loss": 0.5, "val/accuracy": 0.8, "images_per_second": 300.0})
    return run_dir


def finish(run_dir: RunDir, accuracy: float, val_accuracy: float = 0.9) -> None:
    run_dir.append({"step": 20, "train/loss": 0.4, "val/accuracy": val_accuracy, "images_per_second": 320.0})
    result = {"status": "finished", "step": 20, "test/accuracy": accuracy, "val/accuracy": val_accuracy}
    run_dir.write_result(result | {"images_per_second": 200.0, "runtime_hours": 2.0, "gpu_hours": 4.0})
    run_dir.close()


def runs_of(storage: Path, key: str, value: str) -> list[Run]:
    client = client_of(storage)
    experiment = client.get_experiment_by_name("a-sweep")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f'tags.{key} = "{value}"'))


def run_of(storage: Path, name: str) -> Run:
    (run,) = runs_of(storage, "trial_id", TRIAL_IDS[name])
    return run


def history(storage: Path, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client_of(storage).get_metric_history(run.info.run_id, metric)]


def test_one_run_for_ever_and_nothing_twice(storage: Path) -> None:
    run_dir = new_run(storage, "resumed")
    for change in ("created", "unchanged"):  # two drivers, one after the other; the second knows nothing of the first
        driver = shipper(storage)
        assert driver.ship(run_dir, MEMBERSHIP) == change
        assert driver.ship(run_dir, MEMBERSHIP) == "unchanged"
        assert run_of(storage, "resumed").info.status == "RUNNING"
    finish(run_dir, 0.91)
    assert shipper(storage).ship(run_dir, MEMBERSHIP) == "updated"
    assert shipper(storage).ship(run_dir, MEMBERSHIP) == "unchanged"

    run = run_of(storage, "resumed")
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in (run_dir.config() or {}).items()}
    assert run.data.metrics["test/accuracy"] == 0.91
    assert run.data.metrics["published/accuracy"] == 0.9
    assert run.data.metrics["accuracy_difference"] == pytest.approx(0.01)
    assert run.data.metrics["images_per_second"] == 200.0, "that of the whole run, not of its last steps"
    assert (run.data.tags["cell"], run.data.tags["sweep"]) == ("a cell's name", "a-sweep")
    assert history(storage, run, "val/accuracy") == [(10, 0.8), (20, 0.9), (20, 0.9)]
    (seen,) = run.inputs.dataset_inputs
    assert seen.dataset.name == "cifar10"
    assert json.loads(seen.dataset.profile)["num_train"] == 49_000


def test_sending_again_without_the_mark_changes_nothing(storage: Path) -> None:
    run_dir = new_run(storage, "unmarked")
    finish(run_dir, 0.9)
    shipper(storage).ship(run_dir, MEMBERSHIP)
    run = run_of(storage, "unmarked")
    metrics = ("train/loss", "test/accuracy", "images_per_second", "accuracy_difference")
    before = {metric: history(storage, run, metric) for metric in metrics}
    client_of(storage).delete_tag(run.info.run_id, "shipped")
    assert shipper(storage).ship(run_dir, MEMBERSHIP) == "updated"
    assert {metric: history(storage, run, metric) for metric in metrics} == before


def test_a_journal_that_was_begun_anew_is_shipped_from_its_first_row(storage: Path) -> None:
    shipper(storage).ship(new_run(storage, "anew"), MEMBERSHIP)
    (storage / "runs" / TRIAL_IDS["anew"] / "journal.jsonl").unlink()
    run_dir = new_run(storage, "anew")
    run_dir.append({"step": 15, "train/loss": 0.1})
    shipper(storage).ship(run_dir, MEMBERSHIP)
    assert len(history(storage, run_of(storage, "anew"), "train/loss")) == 3


@pytest.mark.parametrize(("status", "shown"), [("stopped", "KILLED"), ("failed", "FAILED")])
def test_how_a_run_ended(storage: Path, status: str, shown: str) -> None:
    run_dir = new_run(storage, status)
    run_dir.write_result({"status": status, "step": 10, "cause": "the reason"})
    shipper(storage).ship(run_dir, MEMBERSHIP)
    run = run_of(storage, status)
    assert (run.info.status, run.data.tags["cause"], run.data.tags["outcome"]) == (shown, "the reason", status)


def test_a_failed_run_that_goes_on_is_running_again(storage: Path) -> None:
    run_dir = new_run(storage, "retried")
    run_dir.write_result({"status": "failed", "step": 10, "cause": "the reason"})
    shipper(storage).ship(run_dir, MEMBERSHIP)
    run_dir.open_for_writing(run_dir.config() or {})
    assert run_dir.result() is None
    shipper(storage).ship(run_dir, MEMBERSHIP)
    run = run_of(storage, "retried")
    assert (run.info.status, run.data.tags["cause"], run.data.tags["outcome"]) == ("RUNNING", "", "running")


@pytest.mark.parametrize(
    ("lease", "shown"),
    [
        (None, "KILLED"),
        ({"host": socket.gethostname(), "pid": os.getpid(), "time": 0.0}, "RUNNING"),
        ({"host": socket.gethostname(), "pid": 2**22 + 1, "time": 1e12}, "KILLED"),  # no process has that number
        ({"host": "another", "pid": 1, "time": 1e12}, "RUNNING"),
        ({"host": "another", "pid": 1, "time": 0.0}, "KILLED"),
    ],
    ids=["nobody's", "a living writer", "a dead writer", "another machine's", "another machine's of long ago"],
)
def test_only_a_trial_that_someone_writes_is_running(own_storage: Path, lease: dict[str, object], shown: str) -> None:
    run_dir = new_run(own_storage, "unfinished")
    path = own_storage / "runs" / run_dir.trial_id / "journal.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"time": 1e9}) + "\n")
    run_dir.folder.remove(LEASE)
    if lease is not None:
        run_dir.folder.write(LEASE, json.dumps(lease).encode())
    shipper(own_storage).ship(run_dir, MEMBERSHIP)
    assert run_of(own_storage, "unfinished").info.status == shown


def test_two_shippers_that_meet_a_trial_at_once_make_one_run_in_the_end(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = new_run(storage, "raced")
    meeting = threading.Barrier(2, timeout=60)
    search = Experiment.runs

    def search_together(self: Experiment, key: str, value: str) -> list[Run]:
        found = search(self, key, value)
        if key in ("trial_id", "cell_run") and not found:
            meeting.wait()  # neither has seen the other's run, both will create one
        return found

    monkeypatch.setattr(Experiment, "runs", search_together)
    shippers = [shipper(storage) for _ in range(2)]
    membership = Membership("a raced cell")
    threads = [threading.Thread(target=one.ship, args=(run_dir, membership)) for one in shippers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finish(run_dir, 0.93)
    for one in shippers:
        one.ship(run_dir, membership)
        one.summarise_cells()
    (cell,) = runs_of(storage, "cell_run", "a raced cell")
    assert cell.data.metrics["test/accuracy"] == 0.93
    run = run_of(storage, "raced")
    assert run.data.tags["mlflow.parentRunId"] == cell.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == "ViT-B_16"
    assert [step for step, _ in history(storage, run, "train/loss")] == [10, 20]


def test_a_shipper_that_died_before_the_parameters_is_made_up_for(storage: Path) -> None:
    run_dir = new_run(storage, "half-made")
    client, experiment = client_of(storage), client_of(storage).get_experiment_by_name("a-sweep")
    assert experiment is not None
    client.create_run(experiment.experiment_id, tags={"trial_id": run_dir.trial_id})
    shipper(storage).ship(run_dir, MEMBERSHIP)
    run = run_of(storage, "half-made")
    assert run.data.params["model"] == "ViT-B_16"
    assert run.data.tags["cell"] == "a cell's name"
    assert history(storage, run, "val/accuracy") == [(10, 0.8)]


def test_a_cell_shows_what_counts_and_what_all_of_its_trials_took(own_storage: Path) -> None:
    membership = Membership("cell", {"cell": "cell"}, published_accuracy=0.95)
    better_on_test = new_run(own_storage, "better-on-test", base_lr=0.03, seed=0)
    best, repeated, begun = (new_run(own_storage, name, seed=i) for i, name in enumerate(("best", "repeated", "begun")))
    finish(better_on_test, 0.99, val_accuracy=0.8)
    driver = shipper(own_storage)
    driver.ship(better_on_test, membership)
    driver.ship(begun, membership)
    driver.summarise_cells()
    (cell,) = runs_of(own_storage, "cell_run", "cell")
    assert (cell.info.status, cell.data.metrics["test/accuracy"]) == ("RUNNING", 0.99)
    finish(best, 0.96, val_accuracy=0.9)
    driver.ship(best, membership)
    driver.summarise_cells()
    (cell,) = runs_of(own_storage, "cell_run", "cell")
    assert (cell.data.metrics["test/accuracy"], cell.data.tags["best_trial"]) == (0.96, best.trial_id)
    assert cell.data.metrics["num_seeds"] == 1
    assert "test/accuracy_deviation" not in cell.data.metrics
    finish(repeated, 0.94, val_accuracy=0.6)  # their mean is below what the rival has
    driver.ship(repeated, membership)
    driver.ship(begun, membership, driver_ended=True)
    driver.summarise_cells(driver_ended=True)
    (cell,) = runs_of(own_storage, "cell_run", "cell")
    assert (cell.info.status, cell.data.tags["best_trial"]) == ("KILLED", best.trial_id)
    metrics = cell.data.metrics
    assert (metrics["test/accuracy"], metrics["num_seeds"]) == (pytest.approx(0.95), 2)
    assert metrics["test/accuracy_deviation"] == pytest.approx(0.02 / 2**0.5)
    assert (metrics["published/accuracy"], metrics["accuracy_difference"]) == (0.95, pytest.approx(0, abs=1e-9))
    assert (metrics["runtime_hours"], metrics["gpu_hours"], metrics["num_trials"]) == (6.0, 12.0, 4)
    for name in ("best", "begun"):
        assert run_of(own_storage, name).data.tags["mlflow.parentRunId"] == cell.info.run_id


def test_what_was_published_for_one_learning_rate_is_compared_with_runs_of_that_rate(own_storage: Path) -> None:
    membership = Membership("cell", {"cell": "cell"}, published_accuracy=0.95, published_base_lr=0.03)
    tuned, *published = (
        new_run(own_storage, f"{rate}-{seed}", base_lr=rate, seed=seed)
        for rate, seed in ((0.01, 0), (0.03, 0), (0.03, 1))
    )
    driver = shipper(own_storage)
    for run_dir, accuracy, validation in zip((tuned, *published), (0.97, 0.94, 0.95), (0.9, 0.8, 0.8), strict=True):
        finish(run_dir, accuracy, val_accuracy=validation)
        driver.ship(run_dir, membership)
    driver.summarise_cells(driver_ended=True)
    (cell,) = runs_of(own_storage, "cell_run", "cell")
    assert (cell.data.metrics["test/accuracy"], cell.data.metrics["published/accuracy"]) == (0.97, 0.95)
    assert cell.data.metrics["accuracy_difference"] == pytest.approx(-0.005)
    assert "accuracy_difference" not in run_of(own_storage, "0.01-0").data.metrics


def test_a_cell_says_what_it_is_and_lasts_from_its_first_trial_to_its_last(own_storage: Path) -> None:
    params = {"model": "ViT-B_16", "dataset": "cifar10", "resolution": "384"}
    membership = Membership("a long name", {"cell": "a long name"}, name="short", params=params)
    driver, trials = shipper(own_storage), [new_run(own_storage, f"{i}", base_lr=0.01, seed=i) for i in range(2)]
    for i, run_dir in enumerate(trials):
        finish(run_dir, 0.9)
        lines = [json.dumps(line | {"time": 1e9 + 3600 * i}) + "\n" for line in run_dir.lines()]
        run_dir.folder.write("journal.jsonl", "".join(lines).encode())
        driver.ship(run_dir, membership)
        driver.summarise_cells()  # after the second, its status is as it was
    (cell,) = runs_of(own_storage, "cell_run", "a long name")
    assert (cell.info.run_name, cell.data.params) == ("short", params)
    assert (cell.info.start_time, cell.info.end_time) == (1_000_000_000_000, 1_000_003_600_000)
    assert [each.dataset.name for each in cell.inputs.dataset_inputs] == ["cifar10"]
    assert cell.data.metrics["chosen_base_lr"] == 0.01


def test_a_cell_of_an_earlier_version_gets_what_it_lacks(own_storage: Path) -> None:
    run_dir, client = new_run(own_storage, "earlier"), client_of(own_storage)
    finish(run_dir, 0.9)
    experiment = client.create_experiment("a-sweep")
    earlier = client.create_run(experiment, start_time=2**42, tags={"cell_run": "cell"}, run_name="cell")
    client.log_metric(earlier.info.run_id, "published/accuracy", 0.9)
    for _ in range(2):
        driver = shipper(own_storage)
        driver.ship(run_dir, Membership("cell", {}, 0.9, name="short", params={"dataset": "cifar10"}))
        driver.summarise_cells(driver_ended=True)
    (cell,) = runs_of(own_storage, "cell_run", "cell")
    assert cell.info.run_id == earlier.info.run_id
    assert (cell.info.run_name, cell.data.params) == ("short", {"dataset": "cifar10"})
    assert cell.info.end_time == cell.info.start_time  # which is when it was shipped: not before it
    assert len(cell.inputs.dataset_inputs) == 1
    assert len(history(own_storage, cell, "published/accuracy")) == 1
    client.update_run(earlier.info.run_id, name="mine")
    shipper(own_storage).ship(run_dir, Membership("cell", {}, 0.9, name="short"))
    assert runs_of(own_storage, "cell_run", "cell")[0].info.run_name == "mine"


def test_a_verdict_is_shown_as_long_as_it_is_about_this_difference(own_storage: Path) -> None:
    params = {"model": "ViT-B_16", "dropout": "0.1"}
    membership = Membership("cell", {}, 0.9, params=params)
    row = {"model": "ViT-B_16", "dropout": 0.1, "difference": 0.02, "verdict": "above"}
    others = [{**row, "dropout": 0.0, "verdict": "below"}, {**row, "verdict": None}]

    def verdict(accuracy: float, *report: dict[str, object]) -> str | None:
        run_dir = new_run(own_storage, f"{accuracy}", base_lr=accuracy, seed=0)
        finish(run_dir, accuracy, val_accuracy=accuracy)
        driver.ship(run_dir, membership)
        driver.summarise_cells(report=report)
        return runs_of(own_storage, "cell_run", "cell")[0].data.tags.get("verdict")

    driver = shipper(own_storage)
    assert verdict(0.92) is None
    assert verdict(0.91, *others, row) == "above"
    assert verdict(0.93) == ""
    assert verdict(0.90, *others, row) == ""


def test_an_experiment_leads_to_its_views_and_a_persons_note_stays(own_storage: Path) -> None:
    report = own_storage / "report"
    report.mkdir()
    (report / "report.html").touch()

    def tags() -> dict[str, str]:
        return dict(client_of(own_storage).get_experiment_by_name("a-sweep").tags)  # type: ignore[union-attr]

    first = shipper(own_storage)
    views = {key: value for key, value in tags().items() if key.startswith("mlflow.sharedViewState.")}
    assert set(views) == {"mlflow.sharedViewState.cells", "mlflow.sharedViewState.trials"}
    assert max(map(len, views.values())) <= 5_000
    line = tags()["mlflow.note.content"].splitlines()[0]
    assert f"(#/experiments/{first.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=cells&" in line
    assert "report.html" not in line
    first.ship_files(report)
    (run,) = runs_of(own_storage, "sweep_run", "a-sweep")
    assert f"/runs/{run.info.run_id}/artifacts/report/report.html)" in tags()["mlflow.note.content"].splitlines()[0]
    before = tags()
    shipper(own_storage).ship_files(report)
    assert tags() == before

    client, mine = client_of(own_storage), before["mlflow.note.content"] + " The second seed was lost."
    client.set_experiment_tag(first.experiment_id, "mlflow.note.content", mine)
    client.set_experiment_tag(first.experiment_id, "mlflow.sharedViewState.cells", "mine")
    shipper(own_storage).ship_files(report)
    assert tags() == before | {"mlflow.note.content": mine, "mlflow.sharedViewState.cells": "mine"}
    Shipper(Storage(own_storage).tracking_uri, "alone", own_storage / "artifacts", {})
    alone = client.get_experiment_by_name("alone")
    assert alone is not None
    assert "mlflow.sharedViewState.cells" not in alone.tags
    assert alone.tags["mlflow.note.content"].startswith("Compare the trials: [table](")


def test_what_mlflow_refuses_of_its_views_is_all_that_is_missing(
    own_storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("no such tag")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    run_dir = new_run(own_storage, "shipped")
    assert shipper(own_storage).ship(run_dir, MEMBERSHIP) == "created"


def test_a_trial_whose_folder_is_damaged_counts_no_more_until_it_has_run_anew(own_storage: Path) -> None:
    membership = Membership("cell", {"cell": "cell"})
    best, other = (new_run(own_storage, name, seed=0, base_lr=rate) for name, rate in (("best", 0.03), ("other", 0.01)))
    finish(best, 0.96, val_accuracy=0.9)
    finish(other, 0.91, val_accuracy=0.8)

    def shown() -> tuple[float, str, str, str]:
        driver = shipper(own_storage)
        for run_dir in (best, other):
            with suppress(DamagedError):
                driver.ship(run_dir, membership)
        driver.summarise_cells()
        (cell,) = runs_of(own_storage, "cell_run", "cell")
        tags = run_of(own_storage, "best").data.tags
        return cell.data.metrics["test/accuracy"], cell.data.tags["best_trial"], tags["outcome"], tags.get("cause", "")

    assert shown() == (0.96, best.trial_id, "finished", "")
    good = best.folder.read("result.json") or b""
    best.folder.write("result.json", b"[1]")
    reason = f"runs/{best.trial_id}/result.json is damaged: no object"
    assert shown() == shown() == (0.91, other.trial_id, "interrupted", reason)
    best.folder.write("result.json", good)
    assert shown() == (0.96, best.trial_id, "finished", "")


def test_files_of_the_whole_sweep(own_storage: Path) -> None:
    report = own_storage / "report"
    report.mkdir()
    (report / "report.md").write_text("first")
    shipper(own_storage).ship_files(report)
    (report / "report.md").write_text("second")
    shipper(own_storage).ship_files(report)
    (run,) = runs_of(own_storage, "sweep_run", "a-sweep")
    path = client_of(own_storage).download_artifacts(run.info.run_id, "report/report.md", str(own_storage))
    assert Path(path).read_text() == "second"
    with pytest.raises(InputError, match="no folder of files"):
        shipper(own_storage).ship_files(own_storage / "nowhere")


def test_variables_that_are_not_used_are_named(
    own_storage: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    shipper(own_storage)
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow: MLFLOW_EXPERIMENT_NAME is not used: runs go to experiment a-sweep"
    ]


def test_an_experiment_that_was_deleted_is_said(own_storage: Path) -> None:
    shipper(own_storage)
    client = client_of(own_storage)
    experiment = client.get_experiment_by_name("a-sweep")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(StoreError) as caught:
        shipper(own_storage)
    (command,) = re.findall("`(.*)`", str(caught.value))
    address, _, _, *words = shlex.split(command)
    done = CliRunner(env=dict([address.split("=", 1)])).invoke(commands, words)
    assert done.exit_code == 0, done.output
    shipper(own_storage)


def test_the_background_shipper_ships_everything_before_it_closes(storage: Path) -> None:
    background = BackgroundShipper(Storage(storage).tracking_uri, "a-sweep", storage / "artifacts", {})
    names = [f"background-{i}" for i in range(3)]
    run_dirs = [new_run(storage, name) for name in names]
    damaged = new_run(storage, "damaged")
    damaged.folder.write("result.json", b"{")
    for run_dir in [damaged, *run_dirs]:
        background.ship(run_dir, MEMBERSHIP)
    finish(run_dirs[0], 0.9)
    background.close()
    assert background.failure is None
    assert not runs_of(storage, "trial_id", damaged.trial_id)
    shown = [run_of(storage, name).data.tags["outcome"] for name in names]
    assert shown == ["finished", "interrupted", "interrupted"]


def test_an_outage_is_told_and_delays_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    background = BackgroundShipper(f"sqlite:///{tmp_path}/file/mlflow.db", "a-sweep", tmp_path, {})
    background.ship(new_run(tmp_path, "unseen"), MEMBERSHIP)
    background.close(timeout_seconds=30)
    assert background.failure is not None


def test_what_mlflow_has_of_a_copied_storage_lies_in_the_copy(
    own_storage: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir, client = new_run(own_storage, "copied"), client_of(own_storage)
    finish(run_dir, 0.9)
    (own_storage / "one.txt").write_text("one")
    first = shipper(own_storage)
    first.ship(run_dir, MEMBERSHIP)
    first.ship_trial_files(run_dir.trial_id, [own_storage / "one.txt"], "figures")
    run_id = first.run_of(run_dir.trial_id)
    assert run_id is not None
    client.create_registered_model("a-model")
    client.create_model_version("a-model", f"{client.get_run(run_id).info.artifact_uri}/figures", run_id)
    elsewhere = client.create_experiment("another's", artifact_location="s3://bucket/artifacts")

    copy = tmp_path_factory.mktemp("a copy") / "of it"
    shutil.copytree(own_storage, copy)
    before = sorted(own_storage.rglob("*"))
    _artifact_repos_cache.clear()  # as in another process
    second = shipper(copy)
    second.ship_trial_files(run_dir.trial_id, [copy / "runs" / run_dir.trial_id / "config.json"], "figures")
    copied = client_of(copy)
    files = [file.path for file in copied.list_artifacts(run_id, "figures")]
    assert files == ["figures/config.json", "figures/one.txt"]
    assert copied.get_run(run_id).info.artifact_uri.startswith(copy.as_uri())
    assert copied.get_model_version("a-model", "1").source.startswith(copy.as_uri())
    assert copied.get_experiment(elsewhere).artifact_location == "s3://bucket/artifacts"
    assert sorted(own_storage.rglob("*")) == before
    shipper(copy)
    assert [record.getMessage() for record in caplog.records if "copied or moved" in record.getMessage()] == [
        f"MLflow: this storage was copied or moved: files are in {copy / 'artifacts'} now, no longer in "
        f"{(own_storage / 'artifacts').as_uri()}"
    ]
