"""What two weeks on a cluster bring, done for real: processes, drivers and nodes that die in the middle of a sweep."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.sweeps.running import SCRIPT, Start, Sweep, has_validated, is_finished, numbers, statuses_in_mlflow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of a sweep that nothing happens to."""
    storage = tmp_path_factory.mktemp("quiet")
    sweep = Sweep(storage)
    assert sweep.finish()[0] == 0
    return numbers(storage)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: signal.Signals(number).name)
def test_a_request_to_end_keeps_every_state(quiet: dict[str, Any], start: Start, tmp_path: Path, number: int) -> None:
    sweep = start(tmp_path)
    sweep.wait_until(has_validated)
    asked = time.monotonic()
    sweep.process.send_signal(number)
    code, _, err = sweep.finish()
    assert time.monotonic() - asked < 30
    assert code == 130, err
    assert f"all states are kept. To go on: {sys.executable} {SCRIPT}" in err
    assert "Traceback" not in err
    rows_before = {run_dir.trial_id: run_dir.rows() for run_dir in sweep.run_dirs()}
    shown = statuses_in_mlflow(tmp_path)
    assert "RUNNING" not in shown.values()
    assert "KILLED" in shown.values()
    again = start(tmp_path)
    assert again.finish()[0] == 0
    assert set(statuses_in_mlflow(tmp_path).values()) == {"FINISHED"}
    assert numbers(tmp_path) == quiet
    for run_dir in again.run_dirs():
        before = rows_before[run_dir.trial_id]
        if len(run_dir.attempts()) > 1:
            assert run_dir.attempts()[1]["from_step"] >= (before[-1]["step"] if before else 0)
        assert len(run_dir.rows()) == len(run_dir.journal())  # no step was done again


def test_a_driver_that_is_killed_costs_nothing_that_was_finished(
    quiet: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    sweep = start(tmp_path)
    finished = sweep.wait_until(is_finished)
    sweep.process.kill()
    sweep.finish()
    before = finished.lines()
    again = start(tmp_path)
    code, out, err = again.finish()
    assert code == 0, err
    assert "of them done" in out
    assert set(statuses_in_mlflow(tmp_path).values()) == {"FINISHED"}
    assert finished.lines() == before
    assert numbers(tmp_path) == quiet


def test_a_killed_process_is_started_again_from_its_checkpoint(
    quiet: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    sweep = start(tmp_path)
    victim = sweep.wait_until(has_validated)
    lease = victim.lease()
    assert lease is not None
    os.kill(lease["pid"], signal.SIGKILL)
    code, out, err = sweep.finish()
    assert code == 0, err
    assert (
        f"{victim.trial_id}: its process died (signal SIGKILL); goes on from its last checkpoint (retry 1 of 3)" in out
    )
    assert [attempt["attempt"] for attempt in victim.attempts()] == [1, 2]
    assert victim.attempts()[1]["from_step"] > 0
    assert numbers(tmp_path) == quiet


@pytest.mark.parametrize("kind", ["launcher", "actor"])
def test_whatever_is_killed_above_a_trial_it_goes_on(
    quiet: dict[str, Any], start: Start, tmp_path: Path, kind: str
) -> None:
    sweep = start(tmp_path)
    victim = sweep.wait_until(has_validated)
    lease = victim.lease()
    assert lease is not None
    pid = int(lease["pid"])
    for _ in range(1 if kind == "launcher" else 2):
        pid = psutil.Process(pid).ppid()
    name = Path(f"/proc/{pid}/cmdline").read_text()
    assert "sweeps.running.launcher" in name if kind == "launcher" else name.startswith("ray::")
    os.kill(pid, signal.SIGKILL)
    code, out, err = sweep.finish()
    assert code == 0, err
    said = "the launcher of its processes died" if kind == "launcher" else "its node or actor was lost"
    assert f"{victim.trial_id}: " in out
    assert said in out
    assert len(victim.attempts()) == 2
    assert len(victim.rows()) == len(victim.journal())  # the process kept its state when its launcher died
    assert numbers(tmp_path) == quiet


def test_a_process_that_always_dies_is_given_up_and_takes_no_other_down(start: Start, tmp_path: Path) -> None:
    sweep = start(tmp_path, "--max-failures", "1")
    victim = sweep.wait_until(has_validated)
    for attempt in (1, 2):
        sweep.wait_until(
            lambda run_dir, n=attempt: run_dir.trial_id == victim.trial_id and len(run_dir.attempts()) == n
        )
        lease = victim.lease()
        assert lease is not None
        os.kill(lease["pid"], signal.SIGKILL)
    code, _, err = sweep.finish()
    assert code == 1
    assert f"failed: {victim.trial_id}: its process died (signal SIGKILL) 2 times: more than max_failures 1" in err
    assert sorted(str((run_dir.result() or {})["status"]) for run_dir in sweep.run_dirs()) == ["failed", "finished"]
    again = start(tmp_path)  # which tries the failed one again
    assert again.finish()[0] == 0
    assert is_finished(victim)


def test_a_trial_moves_when_its_node_is_lost_and_new_nodes_are_used(
    quiet: dict[str, Any], start: Start, tmp_path: Path, cluster: Any
) -> None:
    lost = cluster.add_node(num_cpus=1)
    sweep = start(tmp_path, address=cluster.address)
    victim = sweep.wait_until(has_validated)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    code, out, err = sweep.finish()
    assert code == 0, err
    assert f"{victim.trial_id}: its node or actor was lost; goes on from its last checkpoint" in out
    assert len(victim.attempts()) == 2
    assert numbers(tmp_path) == quiet


def test_a_used_up_budget_keeps_every_state_and_a_larger_one_goes_on(
    quiet: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    hours = 4 / 3600  # a few seconds of a trial
    sweep = start(tmp_path, "--max-gpu-hours", str(hours))
    code, _, err = sweep.finish()
    assert code == 1
    assert "The budget is used up (0.00" in err
    assert "To go on: the same command with a larger --max-gpu-hours" in err
    unfinished = [run_dir for run_dir in sweep.run_dirs() if run_dir.result() is None]
    assert len(sweep.run_dirs()) - len(unfinished) < 2  # the second may not even have begun
    assert all(run_dir.lease() is None for run_dir in unfinished)
    used = sum(run_dir.rows()[-1]["runtime_hours"] for run_dir in sweep.run_dirs() if run_dir.rows())
    assert used < hours * 1.05
    again = start(tmp_path, "--max-gpu-hours", "1")
    assert again.finish()[0] == 0
    assert numbers(tmp_path) == quiet


def test_optuna_goes_on_with_what_a_killed_driver_had_asked_for(start: Start, tmp_path: Path) -> None:
    search = ["--search", "optuna", "--num-trials", "4", "--base-lrs", "0.001", "0.01"]
    sweep = start(tmp_path, *search)
    sweep.wait_until(is_finished)
    begun = {run_dir.trial_id for run_dir in sweep.run_dirs() if run_dir.config() is not None}
    sweep.process.kill()
    sweep.finish()
    again = start(tmp_path, *search)
    code, out, err = again.finish()
    assert code == 0, err
    assert "4 trials, " in out
    assert len(again.run_dirs()) == 4
    assert begun <= {run_dir.trial_id for run_dir in again.run_dirs() if run_dir.result() is not None}
    assert {run_dir.trial_id for run_dir in again.run_dirs()} == {path.name for path in (tmp_path / "runs").iterdir()}
