"""The launcher and its forked processes, for real, without Ray."""

import dataclasses
import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sweeps.running.launcher import (
    FAILED,
    FINISHED,
    HUNG,
    INTERRUPTED,
    RESTART,
    Continue,
    End,
    Exited,
    Reported,
    Start,
    Started,
    Stepped,
    free_port,
)
from sweeps.running.launcher_client import LauncherClient
from tests.sweeps.sweep_process import rows_of
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import STOP, Row, RunDir

CONFIG = FinetuneConfig.official(
    "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=20, warmup_steps=4, global_batch_size=16
)
EXECUTION = Execution(micro_batch_size=4, num_evaluations=20)
ROOT = Path(__file__).parents[3]


class Launched:
    """A launcher process and this end of its connection."""

    def __init__(self, log: IO[str]) -> None:
        mine, theirs = socket.socketpair()
        command = [sys.executable, "-c", f"from sweeps.running.launcher import main; main({theirs.fileno()})"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        theirs.close()
        self.connection = Connection(mine.detach())

    def receive(self) -> object:
        """What it says next, beside that a first step was taken."""
        message: object = Stepped()
        while isinstance(message, Stepped):
            assert self.connection.poll(60), "the launcher says nothing"
            message = self.connection.recv()
        return message

    def start(
        self,
        path: Path,
        num_processes: int = 1,
        config: FinetuneConfig = CONFIG,
        execution: Execution = EXECUTION,
    ) -> tuple[int, ...]:
        self.connection.send(Start(config, str(path), execution, num_processes, num_threads=1))
        started = self.receive()
        assert isinstance(started, Started)
        return started.pids

    def finish(self) -> tuple[list[Row], int]:
        """Let the trial run to its end: its reports and exit status."""
        rows, exited = self.finish_with()
        return rows, exited.status

    def finish_with(self) -> tuple[list[Row], Exited]:
        """The same with all that the end says."""
        rows = []
        while isinstance(message := self.receive(), Reported):
            rows.append(message.row)
            self.connection.send(Continue())
        assert isinstance(message, Exited)
        return rows, message


@contextmanager
def begun_early() -> Iterator[Launched]:
    with tempfile.TemporaryFile("w+") as log:
        launched = Launched(log)
        yield launched
        launched.connection.close()
        launched.process.wait(10)


@pytest.fixture(scope="session")
def launchers() -> Iterator[list[Launched]]:
    """Those that were told to end, which takes a while."""
    launchers: list[Launched] = []
    yield launchers
    for launched in launchers:
        assert launched.process.wait(10) == 0


@pytest.fixture(scope="module")
def launched(begun: Launched, launchers: list[Launched]) -> Iterator[Launched]:
    yield begun
    begun.connection.close()
    launchers.append(begun)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_killed_trial_is_told_and_the_next_one_resumes_it(launched: Launched, tmp_path: Path) -> None:
    (pid,) = launched.start(tmp_path, execution=dataclasses.replace(EXECUTION, checkpoint_every_minutes=1e-4))
    for _ in range(3):
        assert isinstance(launched.receive(), Reported)
        launched.connection.send(Continue())
    assert isinstance(launched.receive(), Reported)  # it now waits
    while "state.safetensors" not in RunDir(tmp_path).folder.child("checkpoint").names():
        assert not launched.connection.poll(0.002)
    os.kill(pid, signal.SIGKILL)
    assert launched.receive() == Exited(-signal.SIGKILL)
    launched.start(tmp_path)
    rows, status = launched.finish()
    assert 1 < rows[0]["step"] <= 5
    assert status == 0


def test_a_trial_that_is_ended_at_its_report_goes_on_after_it(launched: Launched, tmp_path: Path) -> None:
    """Whoever ends or pauses a trial at a rung finds its state in the run folder once the lease is given back."""
    for last_step in (3, 7):
        launched.start(tmp_path)
        while isinstance(message := launched.receive(), Reported):
            launched.connection.send(Continue() if message.row["step"] < last_step else End())
        assert message == Exited(INTERRUPTED, "interrupted after a report; its state is kept")
        assert RunDir(tmp_path).lease() is None
    launched.start(tmp_path)
    assert launched.finish()[1] == FINISHED
    assert [attempt["from_step"] for attempt in RunDir(tmp_path).attempts()] == [0, 3, 7]
    assert [row["step"] for row in RunDir(tmp_path).rows()] == list(range(1, 21))


@pytest.fixture(scope="module")
def own_client() -> Iterator[LauncherClient]:
    client = LauncherClient(num_threads=1)
    yield client
    client.close()


@pytest.fixture
def client(own_client: LauncherClient) -> Iterator[LauncherClient]:
    """Where nothing runs; its launcher may be there already."""
    yield own_client
    own_client.end()


def next_of(client: LauncherClient) -> Reported | Exited:
    """What it hears next, beside that a first step was taken."""
    while isinstance(message := client.receive(), Stepped):
        pass
    return message


def holder(folder: Path) -> int:
    """The process that writes to a run folder."""
    lease = RunDir(folder).lease()
    return 0 if lease is None else int(lease["pid"])


@pytest.mark.slow
def test_a_word_to_a_process_that_was_killed_before_it_read_it_is_passed_over(
    client: LauncherClient, tmp_path: Path
) -> None:
    start = Start(CONFIG, str(tmp_path), EXECUTION, 1, num_threads=1)
    client.start(start)
    assert isinstance(next_of(client), Reported)
    first = holder(tmp_path)
    launcher = psutil.Process(first).ppid()
    os.kill(first, signal.SIGKILL)
    assert next_of(client) == Exited(-signal.SIGKILL)  # having told it to go on
    client.start(start)
    while holder(tmp_path) in (0, first):
        assert isinstance(next_of(client), Reported)
    assert psutil.Process(holder(tmp_path)).ppid() == launcher


@pytest.mark.slow
def test_a_launcher_that_was_killed_between_trials_costs_nothing(client: LauncherClient, tmp_path: Path) -> None:
    start = Start(CONFIG, str(tmp_path), EXECUTION, 1, num_threads=1)
    client.start(start)
    assert isinstance(next_of(client), Reported)
    launcher = psutil.Process(holder(tmp_path)).ppid()
    client.end()
    os.kill(launcher, signal.SIGKILL)
    client.start(start)
    while isinstance(message := next_of(client), Reported):
        pass
    assert message == Exited(FINISHED)


def weights(path: Path) -> dict[str, torch.Tensor]:
    with RunDir(path).weights() as file:
        assert file is not None
        return load_file(file)


@pytest.mark.parametrize(("num_processes", "micro_batch_size"), [(1, 16), (1, 4), (2, 4)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    launched: Launched, tmp_path: Path, num_processes: int, micro_batch_size: int
) -> None:
    execution = Execution(
        micro_batch_size, num_evaluations=5, log_every_steps=1, checkpoint_every_minutes=1e-4, save_weights=True
    )
    launched.start(tmp_path / "quiet", num_processes, execution=execution)
    _, status = launched.finish()
    assert status == FINISHED
    draw = random.Random(micro_batch_size + num_processes)
    for attempt, last_step in enumerate((draw.randrange(2, 7), draw.randrange(7, 13), draw.randrange(13, 19)), 1):
        pids = launched.start(tmp_path / "killed", num_processes, execution=execution)
        while not any(row["step"] >= last_step for row in rows_of(RunDir(tmp_path / "killed"), attempt)):
            if launched.connection.poll(0.002):
                assert isinstance(launched.receive(), Reported)
                launched.connection.send(Continue())
        time.sleep(draw.uniform(0, 0.02))  # somewhere in the next step
        os.kill(draw.choice(pids), signal.SIGKILL)
        _, status = launched.finish()
        assert status == -signal.SIGKILL
    launched.start(tmp_path / "killed", num_processes, execution=execution)
    assert launched.finish()[1] == FINISHED
    killed = RunDir(tmp_path / "killed")
    assert len(killed.attempts()) == 4
    assert any(attempt["from_step"] > 0 for attempt in killed.attempts())
    for name, tensor in weights(tmp_path / "quiet").items():
        assert torch.equal(tensor, weights(tmp_path / "killed")[name]), name
    for one, other in zip(RunDir(tmp_path / "quiet").journal(), killed.journal(), strict=True):
        assert (one["step"], one["train/loss"], one.get("val/loss")) == (
            other["step"],
            other["train/loss"],
            other.get("val/loss"),
        )


def test_a_trial_goes_on_with_other_processes_and_micro_batches(launched: Launched, tmp_path: Path) -> None:
    execution = Execution(8, num_evaluations=4, save_weights=True)
    launched.start(tmp_path / "one", execution=execution)
    rows, _ = launched.finish()
    for attempt, (num_processes, micro_batch_size) in enumerate([(1, 4), (2, 8), (2, 4), (1, 16)]):
        changed = dataclasses.replace(execution, micro_batch_size=micro_batch_size)
        launched.start(tmp_path / "several", num_processes, execution=changed)
        message = launched.receive()
        assert isinstance(message, Reported)
        assert message.row["train/loss"] == pytest.approx(rows[attempt]["train/loss"], abs=1e-5)
        if attempt < 3:
            launched.connection.send(End())
            exited = launched.receive()
            assert isinstance(exited, Exited)
            assert exited.status == INTERRUPTED
        else:
            launched.connection.send(Continue())
            assert launched.receive() == Exited(FINISHED)
    assert [attempt["num_processes"] for attempt in RunDir(tmp_path / "several").attempts()] == [1, 2, 2, 1]
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "several")[name], rtol=0, atol=1e-4)


def test_a_request_to_end_keeps_the_state_of_the_step_that_it_came_in(launched: Launched, tmp_path: Path) -> None:
    execution = Execution(4, num_evaluations=1, save_weights=True)
    for num_processes in (1, 2):
        path = tmp_path / str(num_processes)
        pids = launched.start(path, num_processes, execution=execution)
        while not RunDir(path).attempts():
            launched.connection.poll(0.01)
        os.kill(pids[0], signal.SIGTERM)
        exited = launched.receive()
        assert isinstance(exited, Exited)
        assert exited.status == INTERRUPTED
        assert exited.cause is not None
        step = int(exited.cause.removeprefix("interrupted after step ").removesuffix("; its state is kept"))
        assert step > 0
        assert RunDir(path).lease() is None
        launched.start(path, num_processes, execution=execution)
        launched.finish()
        assert RunDir(path).attempts()[1]["from_step"] == step
    for name, tensor in weights(tmp_path / "1").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "2")[name], rtol=0, atol=1e-4)


def test_a_gang_says_which_process_failed_first_and_why(launched: Launched, tmp_path: Path) -> None:
    config = FinetuneConfig(**{**CONFIG.to_dict(), "base_lr": 1e38})
    launched.start(tmp_path, 2, config=config)
    _, exited = launched.finish_with()
    assert exited.status == FAILED
    assert exited.result is not None
    assert exited.result["cause"].startswith("NonFiniteLossError: the training loss is nan at step")
    assert RunDir(tmp_path).result() is None  # who started the gang writes it


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of other processes as Linux can")
def test_a_gang_that_runs_out_of_memory_asks_for_smaller_parts(launched: Launched, tmp_path: Path) -> None:
    config = FinetuneConfig(**{**CONFIG.to_dict(), "model": "ViT-B_16-mini", "global_batch_size": 256})
    pids = launched.start(tmp_path, 2, config=config, execution=Execution(128, num_evaluations=1))
    while not RunDir(tmp_path).attempts():
        launched.connection.poll(0.001)
    for pid in pids:
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
    _, exited = launched.finish_with()
    assert exited == Exited(RESTART, "out of memory with micro_batch_size 128: goes on with 64", micro_batch_size=64)
    assert RunDir(tmp_path).result() is None


@pytest.mark.parametrize("rank", [0, 1])
def test_killing_any_rank_ends_the_gang(launched: Launched, tmp_path: Path, rank: int) -> None:
    pids = launched.start(tmp_path, num_processes=2)
    ends = [os.pidfd_open(pid) for pid in pids]
    assert isinstance(launched.receive(), Reported)
    os.kill(pids[rank], signal.SIGKILL)
    message = launched.receive()
    assert isinstance(message, Exited)
    assert message.status == -signal.SIGKILL
    assert RunDir(tmp_path).result() is None  # losing a process is no failure of the training
    assert all(select.select([end], [], [], 0)[0] for end in ends)  # readable: the process has ended


@pytest.mark.parametrize("num_processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_process_that_takes_no_step_ends_the_gang_which_says_where_all_of_it_stood(
    launched: Launched, tmp_path: Path, num_processes: int
) -> None:
    config = dataclasses.replace(CONFIG, total_steps=200)
    execution = Execution(4, num_evaluations=2, log_every_steps=1, hang_minutes=0.02)
    pids = launched.start(tmp_path, num_processes, config=config, execution=execution)
    assert isinstance(launched.receive(), Reported)
    assert not launched.connection.poll(2 * 60 * execution.hang_minutes)  # a word takes as long as it takes
    launched.connection.send(Continue())
    while RunDir(tmp_path).journal()[-1]["step"] < 102:
        assert not launched.connection.poll(0.002)
    os.kill(pids[-1], signal.SIGSTOP)
    exited = launched.receive()
    assert isinstance(exited, Exited)
    assert exited.status == HUNG
    assert exited.cause is not None
    assert "took no step for too long: rank 0 in " in exited.cause
    assert len(re.findall(r"rank \d in \w+ \(\w+\.py:\d+\)", exited.cause)) == num_processes, exited.cause
    assert " < " in exited.cause
    assert RunDir(tmp_path).result() is None


def test_a_failure_of_the_training_is_told_from_a_death(launched: Launched, tmp_path: Path) -> None:
    config = FinetuneConfig(**{**CONFIG.to_dict(), "base_lr": 1e38})
    launched.start(tmp_path, config=config)
    _, status = launched.finish()
    assert status == FAILED
    result = RunDir(tmp_path).result()
    assert result is not None
    assert result["cause"].startswith("NonFiniteLossError")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_trials_do_not_outlive_their_launcher(client: LauncherClient, tmp_path: Path) -> None:
    client.start(Start(CONFIG, str(tmp_path), EXECUTION, 1, num_threads=1))
    assert isinstance(next_of(client), Reported)
    end = os.pidfd_open(holder(tmp_path))
    os.kill(psutil.Process(holder(tmp_path)).ppid(), signal.SIGKILL)
    assert select.select([end], [], [], 10)[0]  # readable: the process has ended


@pytest.mark.slow
@pytest.mark.parametrize("how", ["its launcher is killed", "its folder asks"])
def test_the_first_of_a_gang_does_not_wait_for_the_others_once_it_is_to_end(
    client: LauncherClient, tmp_path: Path, how: str
) -> None:
    place = f"127.0.0.1:{free_port()}"
    start = Start(CONFIG, str(tmp_path), EXECUTION, 1, num_threads=1, world_size=2, rendezvous=place)
    client.start(start)
    (process,) = (psutil.Process(pid) for pid in client._pids)
    end = os.pidfd_open(process.pid)
    while not any(each.status == psutil.CONN_LISTEN for each in process.net_connections()):
        assert not select.select([end], [], [], 0.1)[0]
    if how == "its folder asks":
        RunDir(tmp_path).folder.write(STOP, b"{}")
    else:
        process.parent().kill()
    try:
        assert select.select([end], [], [], 15)[0]
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    exited = client.receive()
    assert isinstance(exited, Exited)
    assert exited.status == (INTERRUPTED if how == "its folder asks" else -signal.SIGKILL)


LATE = """
import os, signal
from sweeps.running.launcher import FAILED, wait_for_all

if (lost := os.fork()) == 0:
    os._exit(FAILED)
if (killed := os.fork()) == 0:
    try:
        while True:
            os.kill(lost, 0)
    except ProcessLookupError:  # that it ended has been seen
        os.kill(os.getpid(), signal.SIGKILL)
print(wait_for_all([lost, killed]))
"""


def test_a_killed_process_is_to_blame_also_where_it_ends_after_those_that_lost_it() -> None:
    """Its connections close a moment before it can be waited for."""
    done = subprocess.run([sys.executable, "-c", LATE], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "(1, -9)\n"
