"""Calls on every node of real clusters, and nodes whose versions differ."""

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from sweeps.cluster.nodes import on_every_node
from sweeps.cluster.versions import differences, versions
from tests.sweeps.sweep_process import Start


def test_both_versions_are_named() -> None:
    here = {"ray": "2.60", "torch": "2.15"}
    found = {"10.0.0.1": dict(here), "10.0.0.2": {"ray": "2.59"}, "10.0.0.3": OSError("lost")}
    assert differences(here, found) == [
        "10.0.0.2 has ray 2.59, this process 2.60",
        "10.0.0.2 has torch missing, this process 2.15",
    ]


def test_the_code_is_known_by_its_content() -> None:
    assert versions()["code"] == versions()["code"]
    assert len(versions()["code"]) == 12


@pytest.fixture
def another_timm(tmp_path: Path) -> dict[str, str]:
    """The environment of a node that has one."""
    other = tmp_path / "other" / "timm-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0.0.1\n")
    return {"PYTHONPATH": str(other.parent)}


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_node_with_another_timm_is_refused_before_a_trial_starts(
    cluster: Any, start: Start, tmp_path: Path, another_timm: dict[str, str]
) -> None:
    cluster.add_node(num_cpus=2)
    odd = cluster.add_node(num_cpus=2, env_vars=another_timm)
    ray.init(address=cluster.address)
    try:
        seen = on_every_node(versions)
        assert sorted(each["timm"] for each in seen.values()) == ["0.0.1", *2 * [versions()["timm"]]]
        assert all(
            isinstance(each, FileNotFoundError) for each in on_every_node(shutil.disk_usage, "/nowhere").values()
        )
    finally:
        ray.shutdown()
    code, _, err = start(tmp_path / "results", address=cluster.address).finish()
    assert code == 2
    assert f"has timm 0.0.1, this process {versions()['timm']}" in err
    assert not (tmp_path / "results" / "runs").exists()
    cluster.remove_node(odd)
    code, _, err = start(tmp_path / "results", "--base-lrs", "0.003", address=cluster.address).finish()
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_one_that_joins_later_ends_the_sweep_and_spoils_nothing(
    cluster: Any, start: Start, tmp_path: Path, another_timm: dict[str, str]
) -> None:
    cluster.add_node(num_cpus=1)
    rates = [f"0.00{number}" for number in range(1, 8)]
    sweep = start(tmp_path / "results", "--base-lrs", *rates, address=cluster.address)
    first = sweep.wait_until(lambda run_dir: bool(run_dir.journal()))
    lease = first.lease()
    assert lease is not None
    # A miniature ends before an actor has started: the other node would never get a trial in time.
    os.kill(lease["pid"], signal.SIGSTOP)
    odd = cluster.add_node(num_cpus=1, env_vars=another_timm)
    wait_for_actor(odd)
    os.kill(lease["pid"], signal.SIGCONT)
    code, _, err = sweep.finish()
    assert code == 2, err
    assert f"has timm 0.0.1, this process {versions()['timm']}: give all nodes" in err
    results = [run_dir.result() for run_dir in sweep.run_dirs()]
    assert {result["status"] for result in results if result is not None} <= {"finished"}
    assert len(results) < len(rates) or None in results


def wait_for_actor(node: Any, seconds: float = 120) -> None:
    """Until a trial's actor has started there."""
    (raylet,) = node.all_processes["raylet"]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for worker in psutil.Process(raylet.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if "".join(worker.cmdline()).startswith("ray::TrialActor"):
                    return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")
