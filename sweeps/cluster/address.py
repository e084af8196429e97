"""Address: which Ray cluster is meant, by RAY_ADDRESS or by what `ray start` has announced on this machine."""

import os
import re
import socket
import sys
from functools import cache
from pathlib import Path

from vit_trainer.errors import InputError, reason_of

SECONDS_TO_ANSWER = 5.0
ELSE_OWN = "or set RAY_ADDRESS=local for a Ray of the sweep's own"


def meant_cluster() -> str | None:
    """The host:port of the Ray cluster to join, which answers; None: none is named, and none announced that does.

    A Ray that another program has started for itself is never meant, though Ray's own `auto` finds it.

    Raises:
        InputError: RAY_ADDRESS is no such address, or nothing answers there. Without that, its grid would run here.
    """
    given = named_address()
    if given == "local":
        return None
    if not given:
        return _announced(folder_of_ray() / "ray_current_cluster")
    host, port = _host_and_port(given)
    if silence := _silence(host, port):
        raise InputError(f"nothing answers at RAY_ADDRESS {given} ({silence}): start the cluster, {ELSE_OWN}")
    return given


def named_address() -> str:
    """What RAY_ADDRESS names; empty if nothing."""
    given = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if given == "auto" else given


def folder_of_ray() -> Path:
    """Where Ray keeps sockets, logs and its announcement, as the environment has it."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp").absolute() / "ray"


def _host_and_port(given: str) -> tuple[str, int]:
    """
    Raises:
        InputError: it isn't one.
    """
    if given.startswith("ray://"):
        raise InputError(
            f"RAY_ADDRESS {given} is for Ray's client, on which no sweep runs: `ray job submit` it there, {ELSE_OWN}"
        )
    if "://" in given:
        raise InputError(f"RAY_ADDRESS {given} is for `ray job submit`: give the cluster's host:port, {ELSE_OWN}")
    host, _, port = given.rpartition(":")
    is_host = re.fullmatch(r"[\w.-]+|\[[\da-fA-F:.]+\]", host, re.ASCII)
    if not is_host or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise InputError(
            f"RAY_ADDRESS {given!r} is no host:port: give such as 127.0.0.1:6379 or [::1]:6379, {ELSE_OWN}"
        )
    return host.strip("[]"), int(port)


@cache
def _announced(path: Path) -> str | None:
    """What `ray start` has written, unless it is another user's or nothing answers there; either is said once."""
    try:
        address, owner = path.read_text().strip(), path.stat().st_uid
    except OSError:
        return None
    try:
        why = _silence(*_host_and_port(address))
    except InputError:
        why = "no host:port"
    if not why and owner != os.getuid():
        why = f"it is another user's; RAY_ADDRESS={address} joins it"
    if not why:
        return address
    print(f"Not joined: the Ray cluster {address!r} that {path} announces ({why})", file=sys.stderr)
    return None


def _silence(host: str, port: int) -> str:
    """Why no Ray answers there, within seconds; empty if one does. Ray itself would try for minutes."""
    try:
        socket.create_connection((host, port), SECONDS_TO_ANSWER).close()
    except OSError as error:
        return reason_of(error)
    import grpc  # type: ignore[import-untyped]
    from ray._private.gcs_utils import create_gcs_channel

    with create_gcs_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(SECONDS_TO_ANSWER)
        except grpc.FutureTimeoutError:
            return "what listens there is no Ray"
    return ""
