"""The whole miniature grid while processes, actors, a node and the driver are killed, against a quiet run of it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.records.decisions import Decision
from sweeps.selection.asha_rule import Rungs
from sweeps.table.cells import MINI
from tests.sweeps.running import SCRIPT, statuses_in_mlflow
from vit_trainer.files.run_dir import RunDir

# The second rate is the worse one at every rung of every cell (seen without early stopping). So the first never stops
# whichever comes to a rung first, which chaos changes, and the table must be equal to the last bit.
GRID = ["--preset", "mini", "--base-lrs", "0.003", "0.1", "--max-failures", "100"]
SECONDS_BETWEEN_KILLS = 4.0
"""And at least one trial has ended in between, so that a slow machine gets somewhere too."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2600)]


def start_driver(storage: Path, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), *GRID, "--storage", str(storage)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"RAY_ADDRESS": address})


def run_dirs(storage: Path) -> list[RunDir]:
    runs = storage / "runs"
    return [RunDir(path) for path in sorted(runs.iterdir())] if runs.is_dir() else []


def num_done(storage: Path) -> int:
    return sum(run_dir.result() is not None for run_dir in run_dirs(storage))


def table(output: str) -> list[str]:
    return re.findall(r"│ .* │", output)


def finished(storage: Path) -> dict[str, tuple[float, float, float]]:
    results = {run_dir.trial_id: run_dir.result() or {} for run_dir in run_dirs(storage)}
    return {
        trial_id: (result["test/accuracy"], result["test/loss"], result["train/loss"])
        for trial_id, result in results.items()
        if result.get("status") == "finished" and "lr0.003" in trial_id
    }


def kill_something(storage: Path, draw: random.Random) -> str | None:
    """SIGKILL to the process of a running trial, to its launcher, or to the actor above that."""
    leases = [lease for run_dir in run_dirs(storage) if not run_dir.result() and (lease := run_dir.lease())]
    draw.shuffle(leases)
    for lease in leases:
        pid, kind = int(lease["pid"]), draw.choice(["process", "launcher", "actor"])
        try:
            for _ in range({"process": 0, "launcher": 1, "actor": 2}[kind]):
                pid = psutil.Process(pid).ppid()
            name = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            if pid > 1 and ("sweeps.running.launcher" in name or name.startswith("ray::")):
                os.kill(pid, signal.SIGKILL)
                return kind
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            continue
    return None


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    storage = tmp_path_factory.mktemp("quiet")
    driver = start_driver(storage, "local")
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, err
    return storage, table(out)


def test_chaos_changes_nothing(quiet: tuple[Path, list[str]], tmp_path: Path, cluster: Any) -> None:
    quiet_storage, quiet_table = quiet
    draw = random.Random(0)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    num_trials = 2 * len(MINI.models) * len(MINI.datasets) * len(MINI.dropouts)
    kills: list[str] = []
    drivers_to_kill, nodes_to_remove = [num_trials // 4, num_trials // 2], [num_trials // 3]
    driver = start_driver(tmp_path, cluster.address)
    try:
        deadline, next_kill, done_at_kill = time.monotonic() + 2000, time.monotonic(), 0
        while driver.poll() is None:
            assert time.monotonic() < deadline, f"{num_done(tmp_path)} of {num_trials} after {kills}"
            time.sleep(0.2)
            done = num_done(tmp_path)
            if drivers_to_kill and done >= drivers_to_kill[0]:
                drivers_to_kill.pop(0)
                driver.kill()
                driver.communicate()
                kills.append("driver")
                driver = start_driver(tmp_path, cluster.address)
            elif nodes_to_remove and done >= nodes_to_remove[0]:
                nodes_to_remove.pop(0)
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                kills.append("node")
                nodes.append(cluster.add_node(num_cpus=1))
            elif time.monotonic() >= next_kill and done_at_kill < done < num_trials - 2:
                next_kill, done_at_kill = time.monotonic() + SECONDS_BETWEEN_KILLS, done
                if killed := kill_something(tmp_path, draw):
                    kills.append(killed)
        out, err = driver.communicate()
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode == 0, err
    assert (kills.count("driver"), kills.count("node")) == (2, 1)
    assert {"process", "launcher", "actor"} <= set(kills)
    print(f"survived {kills}")

    assert table(out) == quiet_table
    assert_nothing_changed(tmp_path, quiet_storage, num_trials)


def assert_nothing_changed(storage: Path, quiet_storage: Path, num_trials: int) -> None:
    # The same table, bit for bit.
    assert finished(storage) == finished(quiet_storage)
    assert len(finished(storage)) == num_trials / 2

    # No run is duplicated, none is lost.
    assert [run_dir.trial_id for run_dir in run_dirs(storage)] == [r.trial_id for r in run_dirs(quiet_storage)]
    assert num_done(storage) == num_trials == len(run_dirs(storage))
    statuses = statuses_in_mlflow(storage)
    of_trials = [statuses.pop(run_dir.trial_id) for run_dir in run_dirs(storage)]
    assert set(of_trials) == {"FINISHED", "KILLED"}
    assert list(statuses.values()) == ["FINISHED"] * (num_trials // 2)  # the cells

    # Every decision has its reason on record, and is what the rule says of what it was compared with.
    lines = (storage / "sweeps" / "paper_grid-mini" / "decisions.jsonl").read_text().splitlines()
    decisions = [Decision.from_dict(json.loads(line)) for line in lines]
    assert len({(decision.trial_id, decision.rung) for decision in decisions}) == len(decisions)
    for run_dir in run_dirs(storage):
        result = run_dir.result() or {}
        own = [decision for decision in decisions if decision.trial_id == run_dir.trial_id]
        total_steps = (run_dir.config() or {})["total_steps"]
        rungs = Rungs("", total_steps=total_steps, reduction_factor=2, grace_fraction=0.25).steps
        reached = {rung for rung in rungs if rung <= min(result["step"], total_steps - 1)}
        assert {decision.rung for decision in own} == reached
        stops = [decision for decision in own if decision.action == "stops"]
        assert (result["status"] == "stopped") == (len(stops) == 1)
        for decision in own:
            assert decision.action == "goes on" or decision.value is not None
            below = decision.cutoff is not None and (decision.value or 0.0) < decision.cutoff
            assert (decision.action == "stops") == below, decision.rule
            assert "ASHA at step" in decision.rule
        for stop in stops:
            assert result["cause"] == stop.rule
