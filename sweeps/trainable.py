"""TrialActor: what Ray Tune schedules. It owns a slot of the cluster and runs trials in it, one after another.

It never imports torch: the training happens in processes that its launcher forks. So Tune may reuse the actor
without a trace of the trial before, and killing the actor ends everything that it started.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ray import tune

from sweeps.launcher import RECORDED_FAILURE, Continue, Exited, Reported, Start, Started
from vit_trainer.errors import VitTrainerError


class ProcessDiedError(VitTrainerError):
    """A trial's process ended without a word: killed, out of memory, or its node lost. Worth another try."""


class TrialActor(tune.Trainable):
    """Runs the trial in config["start"]; a result per validation, and a last one with `done`."""

    _launcher: subprocess.Popen[bytes] | None = None
    _connection: Connection
    _pids: tuple[int, ...] = ()
    _waits = False

    def setup(self, config: dict[str, Any]) -> None:
        start = config["start"]
        assert isinstance(start, Start)
        if self._launcher is None or self._launcher.poll() is not None:
            self._launch(start.num_threads)
        self._connection.send(start)
        started = self._receive()
        assert isinstance(started, Started)
        self._pids = started.pids

    def step(self) -> dict[str, Any]:
        if self._waits:
            self._connection.send(Continue())
            self._waits = False
        message = self._receive()
        if isinstance(message, Reported):
            self._waits = True
            return dict(message.row)
        assert isinstance(message, Exited)
        self._pids = ()
        if message.status in (0, RECORDED_FAILURE):
            return {"done": True}
        raise ProcessDiedError(
            f"signal {signal.Signals(-message.status).name}" if message.status < 0 else f"exit code {message.status}"
        )

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end_trial()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._end_trial()
        if self._launcher is not None:
            self._connection.close()
            self._launcher.wait()
            self._launcher = None

    def _launch(self, num_threads: int) -> None:
        mine, theirs = socket.socketpair()
        root = str(Path(__file__).parent.parent)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "OMP_NUM_THREADS": str(num_threads),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is a GPU must not spoil it for forks
        }
        command = [sys.executable, "-c", f"from sweeps.launcher import main; main({theirs.fileno()})"]
        self._launcher = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()
        self._connection = Connection(mine.detach())

    def _receive(self) -> object:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._launcher = None
            raise ProcessDiedError("the trial's launcher died") from error

    def _end_trial(self) -> None:
        """Kill what is left of the trial; it stands still at a report, so nothing is half-written."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self._pids and self._launcher is not None:
            if isinstance(self._receive(), Exited):
                self._pids = ()
        self._waits = False
