"""Launched: the cluster that `ray up` makes of a file, from another machine: its dashboard and jobs."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import yaml

from vit_trainer.errors import InputError, VitTrainerError, reason_of

ROOT = Path(__file__).parents[2]
TOKEN = Path("~/.ray/auth_token")
"""Who has it may use the cluster; `ray up` copies it there."""
DASHBOARD = "http://127.0.0.1:8265"
"""Where a head has it, behind loopback."""
STEP = re.compile(r"\s*(<\d+/\d+>|\[\d+/\d+\]|\(\d+/\d+\)) ")
"""How the lines of `ray up` begin that say where it stands."""
LINES_OF_FAILURE = 40
ESCAPES = re.compile(r"\x1b\[[0-9;]*m|\r")
_SILENCE_SECONDS = 5.0
"""For how long a host may answer and its dashboard not, until no Ray is there."""


@dataclass(frozen=True)
class Launched:
    """A cluster by its file, whether it is up or not."""

    path: Path
    config: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> "Launched":
        """The one of a file; raises InputError if it is no file for `ray up`."""
        try:
            (config,) = yaml.safe_load_all(path.read_text())
            _ = config["cluster_name"], config["auth"]["ssh_user"], config["provider"]["type"]
        except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path} is no file for `ray up` ({reason_of(error)}): give one such as clusters/a100.yaml; those of "
                "Kubernetes, Slurm and SkyPilot open with commands of their own"
            ) from error
        return cls(path if Path.cwd() == ROOT else path.resolve(), config)  # commands run in the project's folder

    @property
    def name(self) -> str:
        """What the file calls it."""
        return str(self.config["cluster_name"])

    @property
    def has_own_hosts(self) -> bool:
        """Whether its machines are there already, and nobody is paid by the hour."""
        return bool(self.config["provider"]["type"] == "local")

    @property
    def head(self) -> str:
        """USER@HOST of the head among one's own hosts."""
        return f"{self.config['auth']['ssh_user']}@{self.config['provider']['head_ip']}"

    def has_head(self) -> bool:
        """Whether the cloud has one that runs; one's own host always does.

        Raises:
            InputError: the cloud doesn't say.
        """
        if self.has_own_hosts:
            return True
        done = quietly("ray", "get-head-ip", str(self.path))
        said = done.stdout + done.stderr
        if done.returncode and "not found!" not in said:
            reason = (said.strip().splitlines() or ["it says nothing"])[-1]
            raise InputError(f"{self.path}: the cloud doesn't say whether a head runs ({reason}): try again")
        return done.returncode == 0

    def on_head(self, command: str) -> "subprocess.CompletedProcess[str]":
        """A command of the project's folder, run on the head among one's own hosts."""
        inside = f"bash -ic {shlex.quote(f'cd ~/vit-sweeps && {command}')}"
        return quietly(*self._ssh, self.head, inside)

    def up(self) -> None:
        """`ray up`: prints its steps, and where it fails the end of all that it says; VitTrainerError then."""
        command = ["ray", "up", "--yes", "--log-style", "pretty", "--log-color", "false", str(self.path)]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        last: deque[str] = deque(maxlen=LINES_OF_FAILURE)
        with subprocess.Popen(command, text=True, errors="replace", cwd=ROOT, env=_environment(), **pipes) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    last.append(ESCAPES.sub("", line).rstrip())
                    if STEP.match(last[-1]):
                        print(last[-1], flush=True)
            except KeyboardInterrupt:
                process.terminate()
                raise
        if process.returncode:
            print("\n".join(line for line in last if line))
            raise VitTrainerError("`ray up` has failed, as it says above")

    @contextmanager
    def tunnel(self) -> Iterator["Tunnel"]:
        """A way to its dashboard for as long as the context lasts."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        there = f"127.0.0.1:{port}:{DASHBOARD.removeprefix('http://')}"
        own = [*self._ssh, "-N", "-o", "ExitOnForwardFailure=yes", "-L", there]
        command = [*own, self.head] if self.has_own_hosts else ["ray", "dashboard", str(self.path), "-p", str(port)]
        quiet: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        with subprocess.Popen(command, cwd=ROOT, env=_environment(), start_new_session=True, **quiet) as process:
            try:
                yield Tunnel(f"http://127.0.0.1:{port}", process)
            finally:
                with suppress(ProcessLookupError):  # it has ended by itself
                    os.killpg(process.pid, signal.SIGTERM)  # with the ssh that `ray dashboard` started

    @property
    def _ssh(self) -> list[str]:
        key = self.config["auth"].get("ssh_private_key")
        command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=accept-new"]
        return [*command, *(["-i", str(Path(key).expanduser())] if key else [])]


@dataclass(frozen=True)
class Tunnel:
    """A way to a cluster's dashboard."""

    address: str
    process: "subprocess.Popen[bytes]"

    def jobs(self, seconds: float, *, is_up: bool) -> list[dict[str, Any]] | None:
        """The cluster's jobs, as soon as its dashboard answers; None if it doesn't within the time.

        Args:
            is_up: whether Ray has been started there, so that a port that nobody listens at is one to wait for.

        Raises:
            InputError: it has another token.
        """
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                return list(self._ask("jobs/"))
            except HTTPError as error:
                if error.code in (401, 403):
                    raise InputError(
                        f"the cluster that runs there was launched with another token than {TOKEN}: copy that one here"
                    ) from error
            except (ConnectionResetError, HTTPException):  # the host answers, and nobody listens there
                deadline = min(deadline, time.monotonic() + (seconds if is_up else _SILENCE_SECONDS))
            except (OSError, ValueError):
                pass  # the tunnel isn't there yet
            time.sleep(0.5)
        return None

    def said(self, job: str) -> str:
        """What a job has printed; nothing where that can't be had."""
        with suppress(OSError, HTTPException, ValueError):
            return str(self._ask(f"jobs/{job}/logs")["logs"])
        return ""

    def _ask(self, what: str) -> Any:
        token = TOKEN.expanduser().read_text().strip()
        request = Request(f"{self.address}/api/{what}", headers={"authorization": f"Bearer {token}"})
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:  # whatever the environment's proxy is
            return json.load(answer)


def quietly(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command and keep what it says."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace"}
    return subprocess.run(command, check=False, cwd=ROOT, env=_environment(), **pipes)


def _environment() -> dict[str, str]:
    """This project's Ray first, with the token of `TOKEN`, and no other cluster's address."""
    other = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in other}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return kept | {"PATH": path, "RAY_AUTH_MODE": "token", "no_proxy": "127.0.0.1,localhost"}
