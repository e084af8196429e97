"""A process that has imported everything and forks each trial's processes, so that every trial starts clean.

The Tune actor starts one launcher and keeps it. A trial then costs a fork (milliseconds) instead of the imports
(seconds), and shares no CUDA context, no Accelerate state and no memory with the trial before it. Imports no Ray.

Over one connection, the actor sends a `Start`; the launcher answers `Started`; the first forked process sends a
`Reported` after each validation and waits for a word; the launcher closes the trial with `Exited`.
"""

import ctypes
import importlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import LeaseLostError
from vit_trainer.run_dir import Row, RunDir

PRELOADED = ("vit_trainer.train", "vit_trainer.data.digits")


@dataclass(frozen=True)
class Start:
    """Run this trial."""

    config: FinetuneConfig
    run_path: str
    execution: Execution
    num_processes: int
    """One per GPU; the processes of a trial are a gang: they live and die together."""
    num_threads: int
    """CPU threads per process."""


@dataclass(frozen=True)
class Started:
    """The trial's processes are running."""

    pids: tuple[int, ...]


@dataclass(frozen=True)
class Reported:
    """The first process has validated and waits for `Continue`."""

    row: Row


@dataclass(frozen=True)
class Continue:
    """Go on."""


@dataclass(frozen=True)
class Exited:
    """All processes of the trial have ended."""

    status: int
    """0, an exit code, or minus the signal that ended the first one to fail."""


RECORDED_FAILURE = 3
"""Exit code of a process whose failure stands in result.json: trying again would fail again."""


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it dies, however it dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main(file_descriptor: int) -> None:
    """Run trials one after another, asked for over a socket, until its other end closes."""
    die_with_parent()
    connection = Connection(file_descriptor)
    for module in PRELOADED:
        importlib.import_module(module)
    while True:
        try:
            start = connection.recv()
        except EOFError:
            return
        assert isinstance(start, Start)
        connection.send(Exited(_run_gang(start, connection)))


def _run_gang(start: Start, connection: Connection) -> int:
    port = _free_port() if start.num_processes > 1 else 0
    pids = []
    for rank in range(start.num_processes):
        pid = os.fork()
        if pid == 0:
            os._exit(_run_process(start, connection, rank, port))
        pids.append(pid)
    connection.send(Started(tuple(pids)))
    return wait_for_all(pids)


def wait_for_all(pids: list[int]) -> int:
    """Wait for a gang; the first process to fail takes the others with it, and its exit is returned."""
    outcome, waiting = 0, set(pids)
    while waiting:
        pid, status = os.wait()
        waiting.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if code != 0 and outcome == 0:
            outcome = code
            for other in waiting:
                os.kill(other, signal.SIGKILL)
    return outcome


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_process(start: Start, connection: Connection, rank: int, port: int) -> int:
    """In a forked process: be one rank of the trial. Returns the exit code."""
    die_with_parent()
    if start.num_processes > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(start.num_processes),
            "LOCAL_WORLD_SIZE": str(start.num_processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    import torch

    from vit_trainer.train import train

    torch.set_num_threads(start.num_threads)

    def report(row: Row) -> None:
        connection.send(Reported(row))
        connection.recv()

    try:
        train(start.config, RunDir(start.run_path), start.execution, report)
    except (LeaseLostError, EOFError, BrokenPipeError) as error:
        print(f"{start.config.trial_id}, rank {rank}: {error!r}", file=sys.stderr)
        return 1  # whoever started this trial is gone, or has given it to another process
    except Exception:
        sys.excepthook(*sys.exc_info())
        return RECORDED_FAILURE
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
