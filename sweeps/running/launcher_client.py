"""LauncherClient: runs trials in processes of a launcher, which outlives them; one on each node of a gang."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from ray.util import get_node_ip_address

from sweeps.checks.inputs import lacking
from sweeps.checks.parity_on_nodes import ParityCheck
from sweeps.cluster.leaving import wait_until_taken_back
from sweeps.cluster.nodes import threads_per_process
from sweeps.cluster.versions import package_versions
from sweeps.records.parity import NodeParity
from sweeps.running.launcher import Continue, End, Exited, Reported, Start, Started, Stepped
from vit_trainer.config import FinetuneConfig
from vit_trainer.loop.accelerator import for_trials


class LauncherClient:
    """Runs trials one after another, each in clean processes. Imports no torch, so its owner may be any process."""

    def __init__(self, num_threads: int) -> None:
        """num_threads: CPU threads per process."""
        self._num_threads = num_threads
        self._launcher: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._pids: tuple[int, ...] = ()
        self._waits = False

    def start(self, start: Start) -> None:
        """Begin a trial, or this node's part of one."""
        self._waits = False
        for attempt in range(2):  # a launcher that was killed meanwhile costs nothing
            if self._launcher is None or self._launcher.poll() is not None:
                self._launch()
            try:
                self._connection.send(start)
                started = self._connection.recv()
            except (EOFError, OSError) as error:
                self._forget_launcher()
                if attempt:
                    raise ChildProcessError("the launcher died before it could start the trial") from error
            else:
                break
        assert isinstance(started, Started)
        self._pids = started.pids

    def receive(self) -> Stepped | Reported | Exited:
        """Let a trial that waits go on, and wait until it reports or ends."""
        try:
            if self._waits:
                self._waits = False
                self._connection.send(Continue())
            message = self._connection.recv()
        except (EOFError, OSError):
            self._forget_launcher()
            return Exited(-signal.SIGKILL, "the launcher of its processes died")
        assert isinstance(message, Stepped | Reported | Exited)
        self._waits = isinstance(message, Reported)
        if isinstance(message, Exited):
            self._pids = ()
        return message

    def kill(self) -> None:
        """Kill the trial's processes; `receive` then returns its end."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def runs(self) -> bool:
        """Whether the trial has processes."""
        return bool(self._pids)

    def ask_to_end(self) -> None:
        """Have the trial keep its state and end; `receive` then returns its end."""
        for pid in self._pids[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def end(self) -> None:
        """End the trial if one runs, which keeps its state first, and wait for that."""
        while self._pids and self._launcher is not None:
            if self._waits:
                self._waits = False
                with suppress(OSError):
                    self._connection.send(End())
            else:
                self.ask_to_end()
            self.receive()

    def close(self) -> None:
        """End the trial and the launcher."""
        self.end()
        if self._launcher is not None:
            self._connection.close()
            self._launcher.wait()
            self._launcher = None

    def _forget_launcher(self) -> None:
        if self._launcher is not None:
            self._launcher.kill()
            self._launcher.wait()
        self._launcher, self._pids, self._waits = None, (), False

    def _launch(self) -> None:
        mine, theirs = socket.socketpair()
        root = str(Path(__file__).parents[2])
        environment = for_trials(os.environ) | {
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "OMP_NUM_THREADS": str(self._num_threads),
            "TORCHINDUCTOR_COMPILE_THREADS": str(self._num_threads),  # else as many as the node has cores, per trial
            "OPENBLAS_NUM_THREADS": "1",
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is a GPU must not spoil it for forks
        }
        command = [sys.executable, "-c", f"from sweeps.running.launcher import main; main({theirs.fileno()})"]
        # A session of its own: Ray kills an actor's process group, but trials shall keep their state first.
        self._launcher = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
        theirs.close()
        self._connection = Connection(mine.detach())


def lacking_here(config: FinetuneConfig) -> str:
    """What a trial needs and this node, which is named, hasn't; empty if it has all."""
    text = lacking(config)
    return f"node {get_node_ip_address()}: {text}" if text else ""


class Helper:
    """A Ray actor on another node of a gang: runs that node's processes."""

    def __init__(self, has_gpus: bool) -> None:
        self._num_threads = threads_per_process(has_gpus)
        self._launcher = LauncherClient(self._num_threads)
        self._attempt = self._ended_attempt = 0

    def run(self, start: Start, attempt: int) -> Exited:
        self._attempt = attempt
        self._launcher.start(replace(start, num_threads=self._num_threads))
        if self._ended_attempt == attempt:
            self._launcher.kill()
        exited = self._launcher.receive()
        assert isinstance(exited, Exited)
        return exited

    def versions(self) -> dict[str, dict[str, str]]:
        """What is installed on its node, by the node's address."""
        return {get_node_ip_address(): package_versions()}

    def lacking(self, config: FinetuneConfig) -> str:
        """As `lacking_here`, of its node."""
        return lacking_here(config)

    def parity(self, check: ParityCheck) -> tuple[list[NodeParity], bool]:
        """As `ParityCheck.here`, of its node."""
        return check.here()

    def wait_until_taken_back(self) -> str:
        """As the function, of its node."""
        return wait_until_taken_back()

    def kill(self, attempt: int) -> None:
        """End an attempt, also one that is just about to start."""
        self._ended_attempt = attempt
        if self._attempt == attempt:
            self._launcher.kill()
