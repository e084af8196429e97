"""What two weeks on a cluster bring, done for real: processes, drivers and nodes that die in the middle of a sweep."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vit_trainer.run_dir import RunDir

SCRIPT = Path(__file__).parents[2] / "sweeps" / "paper_grid.py"
GRID = ["--preset", "mini", "--models", "ViT-B_32-mini", "--datasets", "digits-even", "--dropouts", "0.1"]
GRID += ["--base-lrs", "0.003", "0.001", "--no-early-stopping"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


class Sweep:
    """A sweep as a user starts it, and what can be seen of it from outside."""

    def __init__(self, storage: Path, *arguments: str, address: str = "local") -> None:
        self.storage = storage
        command = [sys.executable, str(SCRIPT), *GRID, *arguments, "--storage", str(storage)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAY_ADDRESS": address},
        )

    def run_dirs(self) -> list[RunDir]:
        runs = self.storage / "runs"
        return [RunDir(path) for path in sorted(runs.iterdir())] if runs.is_dir() else []

    def wait_until(self, what: Callable[[RunDir], bool], seconds: float = 120) -> RunDir:
        """The first run folder of which this is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for run_dir in self.run_dirs():
                if what(run_dir):
                    return run_dir
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s")

    def finish(self, seconds: float = 200) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err


def has_validated(run_dir: RunDir) -> bool:
    """In the middle: a checkpoint is there, and most steps are still to come."""
    return run_dir.result() is None and any("val/accuracy" in row for row in run_dir.rows())


def is_finished(run_dir: RunDir) -> bool:
    return (run_dir.result() or {}).get("status") == "finished"


def numbers(storage: Path) -> dict[str, Any]:
    """All that must not depend on what happened on the way, to the last bit."""
    found = {}
    for path in (storage / "runs").iterdir():
        run_dir = RunDir(path)
        rows = [(row["step"], row["train/loss"], row.get("val/loss")) for row in run_dir.journal()]
        result = run_dir.result() or {}
        found[path.name] = (rows, result["status"], result.get("test/accuracy"), result.get("test/loss"))
    return found


Start = Callable[..., Sweep]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sweeps, and leaves none behind."""
    sweeps: list[Sweep] = []

    def start(storage: Path, *arguments: str, address: str = "local") -> Sweep:
        sweeps.append(Sweep(storage, *arguments, address=address))
        return sweeps[-1]

    yield start
    for sweep in sweeps:
        sweep.process.kill()
        sweep.process.communicate()


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
    again = start(tmp_path)
    assert again.finish()[0] == 0
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


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of several nodes on this machine: a head without slots, and as many workers as a test adds."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


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
