"""A process that has imported everything and forks each trial's processes, so that every trial starts clean.

The Tune actor starts one launcher and keeps it. A trial then costs a fork (milliseconds) instead of the imports
(seconds), and shares no CUDA context, no Accelerate state and no memory with the trial before it. Imports no Ray.

Over one connection, the actor sends a `Start`; the launcher answers `Started`; the first forked process sends a
`Reported` after each validation and waits for `Continue` or `End`; the launcher closes the trial with `Exited`.
"""

import ctypes
import importlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from sweeps.running.hang_watch import HangWatch
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import GangRestartError, LeaseLostError, RunInterruptedError, RunPausedError
from vit_trainer.files.run_dir import STOP, Row, RunDir
from vit_trainer.loop.interruption import signals_as_request
from vit_trainer.loop.liveness import expect_as_before

PIPE_BYTES = 65536
"""What a pipe holds on Linux, so what a process can leave in one without a reader."""
SECONDS_BETWEEN_LOOKS = 0.5
"""How often a process that waits for a word looks whether it was asked to end."""
SECONDS_BETWEEN_REQUESTS = 5.0
"""How often a trial looks whether its run folder asks it to end."""
SECONDS_TO_END = 0.5
"""How long a killed process may still be there after others have lost it: its connections close a little before."""
PRELOADED = ("vit_trainer.train", "vit_trainer.data.families.digits")


@dataclass(frozen=True)
class Start:
    """Run this trial, or this node's part of it."""

    config: FinetuneConfig
    location: str
    """Path or URI of the run folder."""
    execution: Execution
    num_processes: int
    """One per GPU; the processes of a trial are a gang: they live and die together."""
    num_threads: int
    """CPU threads per process."""
    first_rank: int = 0
    """Rank of this node's first process."""
    world_size: int = 0
    """Processes on all nodes; 0: all are on this one."""
    rendezvous: str = ""
    """host:port where the gang meets; empty: a free one of this machine."""
    pause_at: int | None = None
    """Optimiser steps: it ends for now with its first validation there; None: it runs to its end."""


@dataclass(frozen=True)
class Started:
    """The trial's processes are running."""

    pids: tuple[int, ...]


@dataclass(frozen=True)
class Stepped:
    """The first process has taken its first step; it waits for nothing."""


@dataclass(frozen=True)
class Reported:
    """The first process has a row and waits for a word."""

    row: Row


@dataclass(frozen=True)
class Continue:
    """Go on."""


@dataclass(frozen=True)
class End:
    """Go no further."""


FINISHED, FAILED, INTERRUPTED, RESTART, LEASE_LOST, HUNG, PAUSED = 0, 3, 4, 5, 6, 7, 8
"""Exit codes of a trial's process. Any other, or a signal, is the process's death, not the training's failure.

HUNG is the launcher's word for processes that it has killed because one of them took no step for too long.
"""


@dataclass(frozen=True)
class Exited:
    """All processes of the trial have ended."""

    status: int
    """FINISHED, FAILED and so on, or minus the signal that ended the first process to fail."""
    cause: str | None = None
    """Why they ended, in one line, where a process could still say it."""
    result: Row | None = None
    """What result.json says of a failure, or should say of a gang, where no process knows who was first to fail."""
    micro_batch_size: int | None = None
    """What to start again with, where a gang ran out of memory."""


def die_with_parent(with_signal: int) -> None:
    """Have the kernel signal this process when the one that started it dies, however it dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, with_signal)  # PR_SET_PDEATHSIG


def main(file_descriptor: int) -> None:
    """Run trials one after another, asked for over a socket, until its other end closes."""
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the business of whoever runs the sweep
    connection = Connection(file_descriptor)
    for module in PRELOADED:
        importlib.import_module(module)
    while True:
        try:
            start = connection.recv()
        except EOFError:
            return
        if isinstance(start, Start):  # else a word to a process that was killed before it read it
            connection.send(_run_gang(start, connection))


def _run_gang(start: Start, connection: Connection) -> Exited:
    world_size = start.world_size or start.num_processes
    rendezvous = start.rendezvous or (f"127.0.0.1:{free_port()}" if world_size > 1 else "")
    start = replace(start, world_size=world_size, rendezvous=rendezvous)
    launcher = os.getpid()
    first_lives = os.pipe()
    last_words = [os.pipe() for _ in range(start.num_processes)]
    watch = HangWatch(start.first_rank, start.num_processes)
    pids = []
    for i in range(start.num_processes):
        pid = os.fork()
        if pid == 0:
            for read_end, write_end in last_words:
                os.close(read_end)
                if write_end != last_words[i][1]:
                    os.close(write_end)
            if i:
                os.close(first_lives[1])  # only the first process holds it open, until it ends
            watch.announce(i)
            os._exit(_run_process(start, connection, i, launcher, first_lives[0], last_words[i][1]))
        pids.append(pid)
    for end in (*first_lives, *(write_end for _, write_end in last_words)):
        os.close(end)
    connection.send(Started(tuple(pids)))
    with watch.over(pids):
        first_to_fail, status = wait_for_all(pids)
    if watch.cause and status:
        return Exited(HUNG, watch.cause)
    words = [_read_what_is_there(read_end) for read_end, _ in last_words]
    if first_to_fail is not None and words[first_to_fail] and status > 0:
        exited = pickle.loads(words[first_to_fail])
        assert isinstance(exited, Exited)
        return exited
    return Exited(status)


def _read_what_is_there(read_end: int) -> bytes:
    """And no more: a data-loading process may hold the pipe open a little longer than the one that it served."""
    os.set_blocking(read_end, False)
    with suppress(BlockingIOError), os.fdopen(read_end, "rb", buffering=0) as pipe:
        return pipe.read(PIPE_BYTES) or b""
    return b""


def wait_for_all(pids: list[int]) -> tuple[int | None, int]:
    """Wait for a gang; the first process to fail takes the others with it.

    Returns:
        Its place among the pids and its exit code, or minus the signal that ended it; (None, 0) if none failed. Where
        one was killed, the others' errors are about losing it, so the killed one counts as the first.
    """
    first: tuple[int | None, int] = (None, 0)
    waiting = set(pids)
    while waiting:
        pid, status = os.wait()
        waiting.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if code == 0 or first[1] != 0:
            continue
        first = (pids.index(pid), code)
        deadline = time.monotonic() + (SECONDS_TO_END if code in (FAILED, INTERRUPTED) else 0)
        for other in sorted(waiting):
            ended, status = os.waitpid(other, os.WNOHANG)
            while not ended and time.monotonic() < deadline:
                time.sleep(0.002)
                ended, status = os.waitpid(other, os.WNOHANG)
            if ended and ((code := os.waitstatus_to_exitcode(status)) < 0 <= first[1] or code == PAUSED):
                first = (pids.index(other), code)
            if ended:
                waiting.discard(other)
            else:
                os.kill(other, signal.SIGKILL)
    return first


def free_port() -> int:
    """A port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _run_process(
    start: Start, connection: Connection, local_rank: int, launcher: int, first_lives: int, last_words: int
) -> int:
    """In a forked process: be one rank of the trial. Returns the exit code."""
    rank = start.first_rank + local_rank
    # The first process is asked to end, so that it keeps its state; the others end when it does.
    die_with_parent(signal.SIGTERM if start.first_rank == 0 else signal.SIGKILL)
    if os.getppid() != launcher:
        return INTERRUPTED
    if rank > 0:
        connection.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if start.first_rank == 0:
            threading.Thread(target=_end_with, args=(first_lives,), daemon=True).start()
    if start.world_size > 1:
        host, port = start.rendezvous.rsplit(":", 1)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(start.world_size),
            "LOCAL_WORLD_SIZE": str(start.num_processes),
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
        }
    try:
        exited = _train(start, connection, rank)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    with os.fdopen(last_words, "wb") as pipe:
        pipe.write(pickle.dumps(exited))
    return exited.status


def _wait_for_request(run_dir: RunDir, asked: threading.Event, has_met: Callable[[], bool]) -> None:
    """Have the trial end, its state kept, once its run folder asks for that; whoever started it sees why.

    Or once its launcher is gone: who still waits in PyTorch for the rest of its gang takes no note of the signal, has
    no state yet and may wait for ever, so it ends at once.
    """
    launcher = os.getppid()
    while not asked.wait(SECONDS_BETWEEN_REQUESTS):
        with suppress(OSError):  # an outage: later, then
            if os.getppid() != launcher or run_dir.folder.read(STOP) is not None:
                asked.set()
    if not has_met():
        os._exit(INTERRUPTED)


def _end_with(first_lives: int) -> None:
    os.read(first_lives, 1)  # returns when the first process has ended
    os._exit(INTERRUPTED)


def _train(start: Start, connection: Connection, rank: int) -> Exited:
    import torch

    from vit_trainer.train import failure, train

    torch.set_num_threads(start.num_threads)
    run_dir = RunDir(start.location)
    has_stepped: list[bool] = []
    asked = threading.Event()

    def has_met() -> bool:
        return start.world_size == 1 or torch.distributed.is_initialized()

    if rank == 0:
        threading.Thread(target=_wait_for_request, args=(run_dir, asked, has_met), daemon=True).start()
    try:
        with signals_as_request((signal.SIGTERM,) if rank == 0 else ()) as interrupted:

            def report(row: Row) -> None:
                try:
                    connection.send(Reported(row))
                    word: object = None
                    while word is None and not interrupted():
                        expect_as_before()
                        word = connection.recv() if connection.poll(SECONDS_BETWEEN_LOOKS) else None
                    if not isinstance(word, Continue):
                        raise RunInterruptedError("interrupted after a report; its state is kept")
                except (EOFError, OSError) as error:
                    raise RunInterruptedError("whoever started the trial is gone") from error
                if start.pause_at is not None and "val/accuracy" in row and row["step"] >= start.pause_at:
                    run_dir.append({"paused": row["step"]})
                    raise RunPausedError("paused at its rung; its state is kept")

            def asked_to_end() -> bool:
                """Called after every step."""
                if rank == 0 and not has_stepped:
                    has_stepped.append(True)
                    with suppress(OSError):
                        connection.send(Stepped())
                return interrupted() or asked.is_set()

            train(start.config, run_dir, start.execution, report, asked_to_end)
    except LeaseLostError as error:
        return Exited(LEASE_LOST, str(error))
    except RunInterruptedError as error:
        return Exited(PAUSED if isinstance(error, RunPausedError) else INTERRUPTED, str(error))
    except GangRestartError as error:
        return Exited(RESTART, str(error), micro_batch_size=error.micro_batch_size)
    except Exception as error:
        sys.excepthook(*sys.exc_info())
        result = failure(error, run_dir)
        result["traceback"] = str(result["traceback"])[-PIPE_BYTES // 4 :]
        return Exited(FAILED, str(result["cause"]), result)
    return Exited(FINISHED)
