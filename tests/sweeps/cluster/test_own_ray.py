"""A Ray of a sweep's own: started in spite of what is in the way, and met by nobody else."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from tests.sweeps.sweep_process import SCRIPT, SMALL_GRID, Start, has_validated, numbers

ROOT = Path(__file__).parents[3]
START = """
import json
import psutil
import ray
from sweeps.cluster.own_ray import start_ray

start_ray()
ray.get(ray.remote(lambda: "a worker has started").remote())
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
sockets = [each for one in family for each in one.net_connections("inet") if each.status == psutil.CONN_LISTEN]
addresses = sorted({each.laddr.ip.removeprefix("::ffff:") for each in sockets})
print(json.dumps([addresses, ray.nodes()[0]["RayletSocketName"]]))
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """HOME, and where Ray keeps its files; short, as the names of its sockets must be."""
    with TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        monkeypatch.setenv("HOME", folder)
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        yield Path(folder)


def starting() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", START], stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def raylet_of(process: "subprocess.Popen[str]", seconds: float = 60) -> psutil.Process:
    """The node that a process has started, as soon as it has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        for child in psutil.Process(process.pid).children():
            if child.name() == "raylet":
                return child
        time.sleep(0.01)
    raise AssertionError(f"no raylet within {seconds} s")


@pytest.mark.slow
def test_it_listens_on_loopback_with_a_token_of_its_users_own_whatever_the_temporary_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(home / "as-long-as-those-that-slurm" / "makes-for-its-jobs" / "are"))
    out, err = starting().communicate(timeout=120)
    addresses, socket = json.loads(out or err)
    assert addresses == ["127.0.0.1"]
    assert socket.startswith(f"/tmp/ray-{os.getuid()}/")
    assert stat.S_IMODE(Path(f"/tmp/ray-{os.getuid()}").stat().st_mode) == 0o700
    token = home / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    token.chmod(0o644)
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    out, err = starting().communicate(timeout=120)
    why = "Ray can't start on this machine (Not a directory): see to that, or name a running cluster in RAY_ADDRESS"
    assert err.strip().endswith(f"InputError: {why}")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_start_that_timed_out_is_tried_once_more(home: Path) -> None:
    process = starting()
    slow = raylet_of(process)
    slow.send_signal(signal.SIGSTOP)  # as if the machine were too busy
    out, err = process.communicate(timeout=180)
    assert json.loads(out or err)[0] == ["127.0.0.1"]
    assert not slow.is_running()


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_sweeps_side_by_side_each_come_to_their_end_and_one_that_is_interrupted_takes_no_other_along(
    quiet: dict[str, Any], start: Start, tmp_path: Path, home: Path
) -> None:
    first = start(tmp_path / "first", address="")
    first.wait_until(lambda run_dir: run_dir.config() is not None)
    second, third = start(tmp_path / "second", address=""), start(tmp_path / "third", address="")
    third.wait_until(has_validated)
    third.process.send_signal(signal.SIGINT)
    assert third.finish()[0] == 130
    for sweep in (first, second):
        code, _, err = sweep.finish()
        assert code == 0, err
        assert "Joined" not in err
        assert numbers(sweep.storage) == {run_dir.trial_id: quiet[run_dir.trial_id] for run_dir in sweep.run_dirs()}
        assert len(sweep.run_dirs()) == 2


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("whose", ["own", "joined"])
def test_a_sweep_whose_ray_is_lost_ends_within_a_minute_and_says_how_to_go_on(
    whose: str, quiet: dict[str, Any], start: Start, tmp_path: Path, home: Path
) -> None:
    """Its last node's raylet is killed, or the head of the cluster that it has joined, with all that belongs to it."""
    from ray.cluster_utils import Cluster

    orphans: list[psutil.Process] = []
    cluster = Cluster(initialize_head=whose == "joined", head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        sweep = start(tmp_path, address="")  # the cluster is announced
        run_dir = sweep.wait_until(has_validated)
        lease = run_dir.lease()
        assert lease is not None
        orphans = [psutil.Process(lease["pid"])]
        orphans[0].suspend()  # it would be done before anybody notices
        if whose == "own":
            raylet_of(sweep.process).kill()
        else:
            gcs, raylet = (cluster.head_node.all_processes[name][0].process.pid for name in ("gcs_server", "raylet"))
            orphans += psutil.Process(raylet).children(recursive=True)
            os.kill(gcs, signal.SIGKILL)
            os.kill(raylet, signal.SIGKILL)
        code, _, err = sweep.finish(60)
        assert code == 1
        why = "This machine's Ray node has died" if whose == "own" else f"The Ray cluster at {cluster.address} doesn't"
        assert f"all states are kept. To go on: {sys.executable} {SCRIPT}" in err
        assert why in err
        assert (f"Joined the Ray cluster at {cluster.address}" in err) == (whose == "joined")
        assert "Traceback" not in err
    finally:
        for orphan in orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        cluster.shutdown()
    again = start(tmp_path, address="")
    code, _, err = again.finish()
    assert code == 0, err
    assert numbers(tmp_path) == {run_dir.trial_id: quiet[run_dir.trial_id] for run_dir in again.run_dirs()}


@pytest.mark.parametrize("address", ["foo bar", "127.0.0.1:1"])
def test_a_cluster_that_can_not_be_joined_is_one_line_before_anything_is_written(address: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *SMALL_GRID, "--storage", str(tmp_path)]
    environment = os.environ | {"RAY_ADDRESS": address}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
