"""A miniature grid while processes, actors, a node and the driver are killed, against a quiet run of it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.records.decisions import Decision
from sweeps.table.cells import MINI
from tests.sweeps.sweep_process import SCRIPT, statuses_in_mlflow
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.schema import instance_of

NUM_TEST_IMAGES = 180
# Who comes to a rung first is changed by chaos and decides nothing: the table must be equal to the last bit.
MINIATURE = ("--preset", "mini", "--max-failures", "100")
MINIATURE += ("--checkpoint-every-minutes", "0.001")  # a miniature is over before the first one would be due


@dataclass(frozen=True)
class Chaos:
    """A grid, and what happens to it."""

    flags: tuple[str, ...]
    num_trials: int
    drivers_at: tuple[int, ...]
    """At how many trials done a driver is killed."""
    nodes_at: tuple[int, ...]
    """At how many trials done a node is lost, and another one comes."""
    num_kills: int
    """Of a trial's process, its launcher or its actor; each kind comes before one comes again."""
    seconds_between_kills: float
    """At least; and at least one trial has ended in between, so that a slow machine gets somewhere too."""
    min_steps_left: int = 0
    """Of a trial that is killed: Tune gives one up whose actor dies while it is handed from trial to trial."""
    grows: bool = False
    """Whether gangs grow, for whatever that saves, on nodes of two cores."""


ALL = 2 * len(MINI.models) * len(MINI.datasets) * len(MINI.dropouts)
WHOLE = Chaos(MINIATURE, ALL, (ALL // 4, ALL // 2), (ALL // 3,), num_kills=ALL, seconds_between_kills=4.0)
SMALL_GRID = (*MINIATURE, "--models", "ViT-B_32-mini")
SMALL = Chaos(SMALL_GRID, 8, (3,), (5,), num_kills=3, seconds_between_kills=0.0, min_steps_left=30)
GROWING = replace(SMALL, grows=True)
ALWAYS_GROWS = """
import runpy, sys
from sweeps.running import growth
growth.STARTS_WORTH = 0.0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start_driver(chaos: Chaos, storage: Path, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, *(("-c", ALWAYS_GROWS) if chaos.grows else ()), str(SCRIPT), *chaos.flags]
    command += [*(("--grow-gangs",) if chaos.grows else ()), "--storage", str(storage)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"RAY_ADDRESS": address})


def run_dirs(storage: Path) -> list[RunDir]:
    runs = storage / "runs"
    return [RunDir(path) for path in sorted(runs.iterdir())] if runs.is_dir() else []


def num_done(storage: Path) -> int:
    return sum(run_dir.result() is not None for run_dir in run_dirs(storage))


def table(output: str) -> list[str]:
    return re.findall(r"\d\d\.\d\d|lr\S+", output.rpartition("\nmodel ")[2].partition("test accuracy, %")[0])


def finished(storage: Path) -> dict[str, tuple[float, float, float]]:
    results = {run_dir.trial_id: run_dir.result() or {} for run_dir in run_dirs(storage)}
    return {
        trial_id: (result["test/accuracy"], result["test/loss"], result["train/loss"])
        for trial_id, result in results.items()
        if result.get("status") == "finished" and "lr0.003" in trial_id
    }


def kill_something(storage: Path, draw: random.Random, kind: str, min_steps_left: int) -> bool:
    """SIGKILL to the process of a running trial, to its launcher, or to the actor above that; False if none runs."""
    running = [run_dir for run_dir in run_dirs(storage) if not run_dir.result()]
    if min_steps_left:
        running = [each for each in running if (rows := each.rows()) and rows[-1]["step"] <= 80 - min_steps_left]
    leases = [lease for run_dir in running if (lease := run_dir.lease())]
    draw.shuffle(leases)
    for lease in leases:
        pid = int(lease["pid"])
        try:
            for _ in range({"process": 0, "launcher": 1, "actor": 2}[kind]):
                pid = psutil.Process(pid).ppid()
            name = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            if pid > 1 and ("sweeps.running.launcher" in name or name.startswith("ray::")):
                os.kill(pid, signal.SIGKILL)
                return True
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            continue
    return False


Quietly = Callable[[Chaos], tuple[Path, str]]


@pytest.fixture(scope="module")
def quietly(tmp_path_factory: pytest.TempPathFactory, two_slots: str) -> Quietly:
    """The storage and the output of a grid that nothing happens to, run once."""

    @cache
    def run(flags: tuple[str, ...]) -> tuple[Path, str]:
        storage = tmp_path_factory.mktemp("quiet")
        driver = start_driver(replace(SMALL, flags=flags), storage, two_slots)
        out, err = driver.communicate(timeout=1200)
        assert driver.returncode == 0, err
        return storage, out

    return lambda chaos: run(chaos.flags)


@pytest.mark.timeout(3200)
@pytest.mark.parametrize(
    "chaos",
    [
        pytest.param(SMALL, marks=pytest.mark.slow),
        pytest.param(GROWING, marks=pytest.mark.slow),
        pytest.param(WHOLE, marks=pytest.mark.long),
    ],
    ids=["small", "growing", "whole"],
)
def test_chaos_changes_nothing(chaos: Chaos, tmp_path: Path, quietly: Quietly, cluster: Any) -> None:
    storage = tmp_path / "chaos"
    quiet_storage, quiet_out = quietly(chaos)

    draw = random.Random(0)
    num_cpus = 2 if chaos.grows else 1
    nodes = [cluster.add_node(num_cpus=num_cpus) for _ in range(2)]
    rounds = (draw.sample(("process", "launcher", "actor"), 3) for _ in range(chaos.num_kills))
    kinds = [kind for each in rounds for kind in each][: chaos.num_kills]
    kills: list[str] = []
    drivers_to_kill, nodes_to_remove = list(chaos.drivers_at), list(chaos.nodes_at)
    driver = start_driver(chaos, storage, cluster.address)
    try:
        deadline, next_kill, done_at_kill = time.monotonic() + 2000, time.monotonic(), -1
        while driver.poll() is None:
            assert time.monotonic() < deadline, f"{num_done(storage)} of {chaos.num_trials} after {kills}"
            time.sleep(0.1)
            done = num_done(storage)
            if drivers_to_kill and done >= drivers_to_kill[0]:
                drivers_to_kill.pop(0)
                driver.kill()
                driver.communicate()
                kills.append("driver")
                driver = start_driver(chaos, storage, cluster.address)
            elif nodes_to_remove and done >= nodes_to_remove[0]:
                nodes_to_remove.pop(0)
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                kills.append("node")
                nodes.append(cluster.add_node(num_cpus=num_cpus))
            elif (
                kinds
                and done > done_at_kill
                and time.monotonic() >= next_kill
                and kill_something(storage, draw, kinds[0], chaos.min_steps_left)
            ):
                kills.append(kinds.pop(0))
                next_kill, done_at_kill = time.monotonic() + chaos.seconds_between_kills, done
        out, err = driver.communicate()
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode == 0, err
    assert (kills.count("driver"), kills.count("node")) == (len(chaos.drivers_at), len(chaos.nodes_at))
    killed = {"process", "launcher", "actor"} & set(kills)
    assert len(killed) >= (1 if chaos.grows else 3)  # on four slots a small grid is over before each has had its turn
    print(f"survived {kills}")

    if chaos.grows:
        sizes = [attempt["num_processes"] for each in run_dirs(storage) for attempt in each.attempts()]
        assert max(sizes) == 2
    else:
        assert table(out) == table(quiet_out) != []
    assert_nothing_changed(storage, quiet_storage, chaos.num_trials, is_exact=not chaos.grows)


def assert_nothing_changed(storage: Path, quiet_storage: Path, num_trials: int, *, is_exact: bool) -> None:
    # The same table, bit for bit; where gangs grew, within one image.
    ours, quiet = finished(storage), finished(quiet_storage)
    assert len(ours) == num_trials / 2
    if is_exact:
        assert ours == quiet
    assert {each: accuracy for each, (accuracy, *_) in ours.items()} == pytest.approx(
        {each: accuracy for each, (accuracy, *_) in quiet.items()}, abs=1.001 / NUM_TEST_IMAGES
    )

    # No run is duplicated, none is lost.
    assert [run_dir.trial_id for run_dir in run_dirs(storage)] == [r.trial_id for r in run_dirs(quiet_storage)]
    assert num_done(storage) == num_trials == len(run_dirs(storage))
    statuses = statuses_in_mlflow(storage)
    of_trials = [statuses.pop(run_dir.trial_id) for run_dir in run_dirs(storage)]
    assert set(of_trials) == {"FINISHED", "KILLED"}
    assert list(statuses.values()) == ["FINISHED"] * (num_trials // 2)  # the cells

    # The same was decided, for the same reasons, and each reason is on record once.
    whole = slice(None) if is_exact else slice(2)  # the reasons name accuracies
    assert sorted(each[whole] for each in decisions(storage)) == sorted(
        each[whole] for each in decisions(quiet_storage)
    )
    for run_dir in run_dirs(storage):
        result = run_dir.result() or {}
        own = [decision for decision in decisions(storage) if decision[0] == run_dir.trial_id]
        actions = ["stays paused", "stops"] if result["status"] == "stopped" else ["goes on"]
        assert [action for _, action, _ in own] == actions
        if result["status"] == "stopped":
            assert own[-1][2] == result["cause"]
            with run_dir.checkpoint() as checkpoint:
                assert checkpoint is None, "a cell that is done needs its losers' states no more"


def decisions(storage: Path) -> list[tuple[str, str, str]]:
    """(trial id, action, rule) of each that is on record."""
    lines = (storage / "sweeps" / "paper_grid-mini" / "decisions.jsonl").read_text().splitlines()
    found = [instance_of(Decision, json.loads(line)) for line in lines]
    return [(each.trial_id, each.action, each.rule) for each in found]
