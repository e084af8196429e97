"""The launcher and its forked processes, for real, without Ray."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from sweeps.launcher import FAILED, Continue, Exited, Reported, Start, Started
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.run_dir import Row, RunDir

CONFIG = FinetuneConfig.official(
    "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=20, warmup_steps=4, global_batch_size=16
)
EXECUTION = Execution(micro_batch_size=4, num_evaluations=20)
ROOT = Path(__file__).parents[2]


class Launched:
    """A launcher process and this end of its connection."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        command = [sys.executable, "-c", f"from sweeps.launcher import main; main({theirs.fileno()})"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, env=environment)
        theirs.close()
        self.connection = Connection(mine.detach())

    def receive(self) -> object:
        assert self.connection.poll(60), "the launcher says nothing"
        return self.connection.recv()

    def start(self, path: Path, num_processes: int = 1, config: FinetuneConfig = CONFIG) -> tuple[int, ...]:
        self.connection.send(Start(config, str(path), EXECUTION, num_processes, num_threads=1))
        started = self.receive()
        assert isinstance(started, Started)
        return started.pids

    def finish(self) -> tuple[list[Row], int]:
        """Let the trial run to its end: its reports and exit status."""
        rows = []
        while isinstance(message := self.receive(), Reported):
            rows.append(message.row)
            self.connection.send(Continue())
        assert isinstance(message, Exited)
        return rows, message.status


@pytest.fixture(scope="module")
def launched() -> Iterator[Launched]:
    launched = Launched()
    yield launched
    launched.connection.close()
    assert launched.process.wait(10) == 0


def test_a_gang_of_two_follows_the_trajectory_of_one_process(launched: Launched, tmp_path: Path) -> None:
    launched.start(tmp_path / "one")
    one, status = launched.finish()
    assert status == 0
    launched.start(tmp_path / "two", num_processes=2)
    two, status = launched.finish()
    assert status == 0
    assert len(one) == len(two) == 20
    for alone, together in zip(one, two, strict=True):
        assert alone["train/loss"] == pytest.approx(together["train/loss"], abs=1e-5)
        assert alone["val/accuracy"] == together["val/accuracy"]


def test_a_killed_trial_is_told_and_the_next_one_resumes_it(launched: Launched, tmp_path: Path) -> None:
    (pid,) = launched.start(tmp_path)
    for _ in range(3):
        assert isinstance(launched.receive(), Reported)
        launched.connection.send(Continue())
    assert isinstance(launched.receive(), Reported)  # it now waits, with step 4 in place
    os.kill(pid, signal.SIGKILL)
    assert launched.receive() == Exited(-signal.SIGKILL)
    launched.start(tmp_path)
    rows, status = launched.finish()
    assert (rows[0]["step"], status) == (5, 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_killing_any_rank_ends_the_gang(launched: Launched, tmp_path: Path, rank: int) -> None:
    pids = launched.start(tmp_path, num_processes=2)
    ends = [os.pidfd_open(pid) for pid in pids]
    assert isinstance(launched.receive(), Reported)
    os.kill(pids[rank], signal.SIGKILL)
    message = launched.receive()
    assert isinstance(message, Exited)
    assert message.status != 0
    assert all(select.select([end], [], [], 0)[0] for end in ends)  # readable: the process has ended


def test_a_failure_of_the_training_is_told_from_a_death(launched: Launched, tmp_path: Path) -> None:
    config = FinetuneConfig(**{**CONFIG.to_dict(), "base_lr": 1e38})
    launched.start(tmp_path, config=config)
    _, status = launched.finish()
    assert status == FAILED
    result = RunDir(tmp_path).result()
    assert result is not None
    assert result["cause"].startswith("NonFiniteLossError")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_trials_do_not_outlive_their_launcher(tmp_path: Path) -> None:
    launched = Launched()
    (pid,) = launched.start(tmp_path)
    end = os.pidfd_open(pid)
    assert isinstance(launched.receive(), Reported)
    launched.process.kill()
    launched.process.wait()
    assert select.select([end], [], [], 10)[0]  # readable: the process has ended
