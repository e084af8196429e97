"""A head with its autoscaler on this machine, as `ray up` would start it there. Nothing of it meets another Ray."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def own_address() -> str:
    """The one that a Ray started here has, with a free port."""
    node_ip = "from ray.util import get_node_ip_address as ip; print(ip())"
    done = subprocess.run([sys.executable, "-c", node_ip], check=True, capture_output=True, text=True)
    return f"{done.stdout.strip()}:{free_port()}"


def ray(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ray")), *arguments]


@contextmanager
def home_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """HOME, with a token; short, as the names of Ray's sockets must be."""
    home = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o600)
    for name, value in {"HOME": str(home), "RAY_TMPDIR": str(home), "RAY_AUTH_MODE": "token"}.items():
        monkeypatch.setenv(name, value)
    try:
        yield home
    finally:
        shutil.rmtree(home)


@contextmanager
def running_head(home: Path, address: str, node_type: str, instance_id: str, **environment: str) -> Iterator[None]:
    """A head without slots that answers, and the autoscaler with the file in `home`.

    Args:
        node_type: the head's, in that file.
        instance_id: what the file's cloud calls the head.
    """
    as_ray_up_does = {"RAY_enable_autoscaler_v2": "1", "RAY_NODE_TYPE_NAME": node_type}
    as_ray_up_does |= {"RAY_CLOUD_INSTANCE_ID": instance_id}
    command = ray("start", "--head", "--block", "--disable-usage-stats", f"--port={address.rpartition(':')[2]}")
    command += [f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=80000000"]
    command += ["--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"]
    command += [f"--autoscaling-config={home / 'ray_bootstrap_config.yaml'}"]
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with open(home / "head.log", "w") as log:
        head = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            text=True,
            env=inherited | as_ray_up_does | {"AUTOSCALER_UPDATE_INTERVAL_S": "1"} | environment,
        )
    try:
        wait_for(address, head)
        yield
    finally:
        end(head)


def wait_for(address: str, head: subprocess.Popen[str], seconds: float = 60) -> None:
    """Until a head listens there."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and head.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"no head at {address} within {seconds} s")


def end(process: subprocess.Popen[str]) -> None:
    """End a process with all that it started, by their ids."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    process.communicate(timeout=60)
    for member in psutil.wait_procs(family, timeout=10)[1]:
        member.kill()
