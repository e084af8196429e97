"""The sweep as a job on a running Ray cluster, submitted as on a real one."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stores import free_port
from tests.sweeps.sweep_process import has_validated
from vit_trainer.files.run_dir import RunDir

ROOT = Path(__file__).parents[2]

ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "token"}
"""Ray turns its token on by itself for the cluster it starts, but not for who talks to it."""
START_CLUSTER = """
import sys
from ray.cluster_utils import Cluster

dashboard, agent = map(int, sys.argv[1:])
head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": dashboard, "dashboard_agent_listen_port": agent}
print(Cluster(initialize_head=True, head_node_args=head).webui_url, flush=True)
sys.stdin.read()
"""
"""With ports of its own: where another Ray has the usual ones, no job can be submitted."""


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of a cluster that lives as long as the test."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", START_CLUSTER, str(free_port()), str(free_port())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as cluster:
        assert cluster.stdout is not None
        yield "http://" + cluster.stdout.readline().strip()
        assert cluster.stdin is not None
        cluster.stdin.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submitted_sweep_runs_with_the_code_that_was_sent(dashboard: str, tmp_path: Path) -> None:
    code = tmp_path / "code"
    for package in ("sweeps", "vit_trainer"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    marked = code / "sweeps" / "sweep.py"
    marked.write_text(marked.read_text().replace("of them done", "of them done by what was sent"))
    grid = ["--models", "ViT-B_32-mini", "--datasets", "digits-even", "--dropouts", "0.0", "--base-lrs", "0.01"]
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", dashboard]
    submit += ["--working-dir", str(code), "--", sys.executable, "sweeps/paper_grid.py", *grid]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            [*submit, "--storage", str(tmp_path / "storage")],
            check=False,
            capture_output=True,
            text=True,
            timeout=250,
            cwd=tmp_path,
            env=ENVIRONMENT | {"RAY_ADDRESS": dashboard},  # which counts for more than --address
        )
        if "No available agent to submit job" not in done.stderr or time.monotonic() > deadline:
            break  # else the node's agent is still starting
    assert done.returncode == 0, done.stdout + done.stderr
    assert "paper_grid-mini: " in done.stdout  # without GPUs in that cluster, and with a miniature named
    assert "of them done by what was sent" in done.stdout
    (path,) = (tmp_path / "storage" / "runs").iterdir()
    result = RunDir(path).result()
    assert result is not None
    assert result["status"] == "finished"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_job_stop_keeps_the_states_and_the_same_command_goes_on(dashboard: str, tmp_path: Path) -> None:
    ray = [str(Path(sys.executable).with_name("ray")), "job"]
    environment = ENVIRONMENT | {"RAY_ADDRESS": dashboard}
    grid = ["--models", "ViT-B_32-mini", "--datasets", "digits-even", "--dropouts", "0.0", "--base-lrs", "0.01"]
    grid += ["--total-steps", "20000", "--warmup-steps", "8", "--num-evaluations", "2000"]
    grid += ["--checkpoint-every-minutes", "0.01", "--storage", str(tmp_path / "storage")]
    submit = [*ray, "submit", "--no-wait", "--submission-id", "stopped"]
    command = [*submit, "--", sys.executable, str(ROOT / "sweeps" / "paper_grid.py"), *grid]
    wait_for(lambda: subprocess.run(command, check=False, capture_output=True, env=environment).returncode == 0)
    wait_for(lambda: any(has_validated(run_dir) for run_dir in run_dirs(tmp_path)))
    subprocess.run([*ray, "stop", "stopped"], check=True, capture_output=True, env=environment, timeout=100)
    (run_dir,) = run_dirs(tmp_path)
    wait_for(lambda: run_dir.lease() is None)
    assert run_dir.result() is None
    last = run_dir.journal()[-1]["step"]
    again = [*ray, "submit", "--no-wait", "--submission-id", "again", *command[len(submit) :]]
    subprocess.run(again, check=True, capture_output=True, env=environment, timeout=100)
    wait_for(lambda: len(run_dir.attempts()) == 2)
    assert run_dir.attempts()[1]["from_step"] >= last
    subprocess.run([*ray, "stop", "again"], check=True, capture_output=True, env=environment, timeout=100)
    wait_for(lambda: run_dir.lease() is None)


def run_dirs(folder: Path) -> list[RunDir]:
    return [RunDir(path) for path in (folder / "storage" / "runs").glob("*")]


def wait_for(what: Callable[[], bool], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)
