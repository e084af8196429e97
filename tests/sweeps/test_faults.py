"""What two weeks on a cluster bring, done for real: processes, drivers and nodes that die in the middle of a sweep."""

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.records.decisions import read_decisions
from sweeps.records.slots import read_slots
from tests.sweeps.sweep_process import (
    QUIET_LRS,
    SCRIPT,
    Start,
    Sweep,
    has_validated,
    has_validated_in,
    is_finished,
    metrics_in_mlflow,
    numbers,
    statuses_in_mlflow,
)
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.files.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def after_a_request_to_end(sweep: Sweep, number: int) -> dict[str, list[Row]]:
    """Ask a sweep to end and see that it does; the rows of its trials by now."""
    asked = time.monotonic()
    if number == signal.SIGHUP:  # a terminal that ends tells all that was started from it
        os.killpg(sweep.process.pid, number)
    else:
        sweep.process.send_signal(number)
    code, _, err = sweep.finish()
    assert time.monotonic() - asked < 30
    assert code == 130, err
    assert f"all states are kept. To go on: {sys.executable} {SCRIPT}" in err
    assert "keeping states, at most 30 s; Ctrl-C again to leave now" in err
    assert "Traceback" not in err
    shown = statuses_in_mlflow(sweep.storage)
    assert "RUNNING" not in shown.values()
    assert "KILLED" in shown.values()
    for run_dir in sweep.run_dirs():
        assert len(run_dir.rows()) == len(run_dir.journal())  # no step was done again
    return {run_dir.trial_id: run_dir.rows() for run_dir in sweep.run_dirs()}


def test_whatever_ends_a_driver_no_state_is_lost_and_what_was_finished_costs_nothing(
    quiet: dict[str, Any], start: Start, tmp_path: Path, two_slots: str
) -> None:
    """Ctrl-C, SIGTERM, SIGHUP and SIGKILL, one after the other, on a Ray of its own and on a cluster in turn."""
    rates = ["--base-lrs", *QUIET_LRS[:3]]
    interrupted = start(tmp_path, *rates)
    interrupted.wait_until(has_validated)
    rows_before = [after_a_request_to_end(interrupted, signal.SIGINT)]
    terminated = start(tmp_path, *rates, address=two_slots)
    terminated.wait_until(has_validated_in(2))
    rows_before.append(after_a_request_to_end(terminated, signal.SIGTERM))
    hung_up = start(tmp_path, *rates)
    hung_up.wait_until(has_validated_in(3))
    rows_before.append(after_a_request_to_end(hung_up, signal.SIGHUP))
    killed = start(tmp_path, *rates)
    finished = killed.wait_until(is_finished)
    killed.process.kill()
    killed.finish()
    before = finished.lines()
    again = start(tmp_path, *rates, address=two_slots)
    code, out, err = again.finish()
    assert code == 0, err
    assert "of them done" in out
    assert set(statuses_in_mlflow(tmp_path).values()) == {"FINISHED"}
    assert finished.lines() == before
    assert len(again.run_dirs()) == 3
    assert numbers(tmp_path) == {run_dir.trial_id: quiet[run_dir.trial_id] for run_dir in again.run_dirs()}
    for run_dir in again.run_dirs():
        for rows, attempt in zip(rows_before, run_dir.attempts()[1:], strict=False):
            steps = [row["step"] for row in rows.get(run_dir.trial_id, [])]
            assert attempt["from_step"] >= max(steps, default=0)


def kill(run_dir: RunDir, kind: str) -> None:
    """SIGKILL to a trial's process, to the launcher that forked it, or to the actor above that."""
    lease = run_dir.lease()
    assert lease is not None
    pid = int(lease["pid"])
    for _ in range(["process", "launcher", "actor"].index(kind)):
        pid = psutil.Process(pid).ppid()
    name = Path(f"/proc/{pid}/cmdline").read_text()
    assert name.startswith("ray::") if kind == "actor" else "sweeps.running.launcher" in name
    os.kill(pid, signal.SIGKILL)


def test_whatever_is_killed_of_a_trial_it_goes_on_and_takes_no_other_down(
    quiet: dict[str, Any], start: Start, tmp_path: Path, two_slots: str
) -> None:
    given_up, process, launcher, actor = map(float, QUIET_LRS)
    to_kill = {given_up: ["process", "process"], process: ["process"], launcher: ["launcher"], actor: ["actor"]}
    num_killed = dict.fromkeys(to_kill, 0)

    def base_lr_of(run_dir: RunDir) -> float:
        return float((run_dir.config() or {}).get("base_lr", 0))

    def is_next(run_dir: RunDir) -> bool:
        base_lr = base_lr_of(run_dir)
        return bool(to_kill.get(base_lr)) and has_validated_in(num_killed[base_lr] + 1)(run_dir)

    flags = ["--base-lrs", *QUIET_LRS, "--max-failures", "1"]
    sweep = start(tmp_path, *flags, address=two_slots)
    while any(to_kill.values()):
        victim = sweep.wait_until(is_next)
        num_killed[base_lr_of(victim)] += 1
        kill(victim, to_kill[base_lr_of(victim)].pop(0))
    code, out, err = sweep.finish()
    run_dirs = {base_lr_of(run_dir): run_dir for run_dir in sweep.run_dirs()}
    assert code == 1
    trial_id = run_dirs[given_up].trial_id
    assert f"failed: {trial_id}: its process died (signal SIGKILL) 2 times: more than max_failures 1" in err
    assert err.count("failed: ") == 1
    statuses = sorted(str((run_dir.result() or {})["status"]) for run_dir in sweep.run_dirs())
    assert statuses == ["failed", "finished", "finished", "finished"]
    died = "its process died (signal SIGKILL); goes on from its last checkpoint (retry 1 of 1)"
    assert f"{run_dirs[process].trial_id}: {died}" in out
    assert f"{run_dirs[launcher].trial_id}: its process died (the launcher of its processes died)" in out
    assert f"{run_dirs[actor].trial_id}: its node or actor was lost" in out
    for base_lr in (process, launcher, actor):
        assert [attempt["attempt"] for attempt in run_dirs[base_lr].attempts()] == [1, 2]
        assert run_dirs[base_lr].attempts()[1]["from_step"] > 0
    for base_lr in (launcher, actor):  # the process kept its state when its launcher died
        assert len(run_dirs[base_lr].rows()) == len(run_dirs[base_lr].journal())

    again = start(tmp_path, *flags, address=two_slots)  # which tries the failed one again
    code, _, err = again.finish()
    assert code == 0, err
    assert is_finished(run_dirs[given_up])
    assert numbers(tmp_path) == quiet


def test_what_is_reported_again_after_a_kill_is_decided_once_and_shown_once(
    quiet: dict[str, Any], start: Start, tmp_path: Path, two_slots: str
) -> None:
    """Without a later checkpoint the trial begins again at its rung, and comes to each row after it a second time."""
    sweep = start(tmp_path, "--checkpoint-every-minutes", "10", "--early-stopping", "asha", address=two_slots)

    def is_past_a_rung(run_dir: RunDir) -> bool:
        return run_dir.result() is None and any(row["step"] > 20 for row in run_dir.rows())

    victim = sweep.wait_until(is_past_a_rung)
    kill(victim, "process")
    code, _, err = sweep.finish()
    assert code == 0, err
    assert [attempt["from_step"] for attempt in victim.attempts()] == [0, 20, 20]
    assert len(victim.rows()) > len(victim.journal())
    found = {trial_id: trial for trial_id, trial in numbers(tmp_path).items() if trial[1] == "finished"}
    assert found
    assert found == {trial_id: quiet[trial_id] for trial_id in found}
    decisions, num_damaged = read_decisions(Storage(tmp_path), "paper_grid-mini")
    assert num_damaged == 0
    decided = [(decision.trial_id, decision.rung, decision.action) for decision in decisions]
    assert len(decided) == len(set(decided)) >= 2
    assert set(statuses_in_mlflow(tmp_path).values()) <= {"FINISHED", "KILLED"}
    shown = metrics_in_mlflow(tmp_path, victim.trial_id, "val/accuracy")
    assert set(shown) == {(row["step"], row["val/accuracy"]) for row in victim.journal() if "val/accuracy" in row}


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
    assert [hold.until is None for hold in read_slots(Storage(tmp_path))[victim.trial_id]] == [False, False]
    assert numbers(tmp_path) == {run_dir.trial_id: quiet[run_dir.trial_id] for run_dir in sweep.run_dirs()}


def test_a_used_up_budget_keeps_every_state_and_a_larger_one_goes_on(
    quiet: dict[str, Any], start: Start, tmp_path: Path, two_slots: str
) -> None:
    hours = 8 / 3600  # a few seconds of two slots, starts included
    sweep = start(tmp_path, "--max-gpu-hours", str(hours), address=two_slots)
    code, _, err = sweep.finish()
    assert code == 1
    assert "The budget is used up (0.00" in err
    assert "To go on: the same command with a larger --max-gpu-hours" in err
    num_waiting = sum(not is_finished(run_dir) for run_dir in sweep.run_dirs()) + 2 - len(sweep.run_dirs())
    assert f"; waiting: {num_waiting} trial" in err
    assert "failed" not in err
    unfinished = [run_dir for run_dir in sweep.run_dirs() if run_dir.result() is None]
    assert len(sweep.run_dirs()) - len(unfinished) < 2  # the second may not even have begun
    assert all(run_dir.lease() is None for run_dir in unfinished)
    used = sum(run_dir.rows()[-1]["runtime_hours"] for run_dir in sweep.run_dirs() if run_dir.rows())
    assert used < hours * 1.05
    held = [hold for holds in read_slots(Storage(tmp_path)).values() for hold in holds]
    assert sum((hold.until or math.inf) - hold.since for hold in held) / 3600 > 0.8 * hours
    again = start(tmp_path, "--max-gpu-hours", "1", address=two_slots)
    assert again.finish()[0] == 0
    assert len(again.run_dirs()) == 2
    assert numbers(tmp_path) == {run_dir.trial_id: quiet[run_dir.trial_id] for run_dir in again.run_dirs()}


def test_optuna_goes_on_with_what_a_killed_driver_had_asked_for(start: Start, tmp_path: Path, two_slots: str) -> None:
    search = ["--search", "optuna", "--num-trials", "4", "--base-lrs", "0.001", "0.01"]
    sweep = start(tmp_path, *search, address=two_slots)
    sweep.wait_until(is_finished)
    begun = {run_dir.trial_id for run_dir in sweep.run_dirs() if run_dir.config() is not None}
    sweep.process.kill()
    sweep.finish()
    again = start(tmp_path, *search, address=two_slots)
    code, out, err = again.finish()
    assert code == 0, err
    assert "4 trials, " in out
    assert len(again.run_dirs()) == 4
    assert begun <= {run_dir.trial_id for run_dir in again.run_dirs() if run_dir.result() is not None}
    assert {run_dir.trial_id for run_dir in again.run_dirs()} == {path.name for path in (tmp_path / "runs").iterdir()}
