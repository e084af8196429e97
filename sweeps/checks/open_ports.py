"""Open ports: what of Ray and MLflow the world could reach on this machine."""

import ipaddress
import socket
from typing import Any

import psutil

from sweeps.checks.inputs import Problems

PROGRAMS = {
    "ray::": "a Ray worker",
    "gcs_server": "GCS",
    "raylet/raylet": "raylet",
    "ray.util.client.server": "Ray client",
    "ray/dashboard/": "dashboard",
    "ray/_private/": "a helper of Ray",
    "mlflow": "MLflow",
}
"""By what stands in its command line."""


def open_ports() -> Problems:
    """What of Ray and MLflow the world could reach, if nothing in front of this machine keeps it out."""
    is_public = any(ipaddress.ip_address(each.address.partition("%")[0]).is_global for each in _addresses())
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return [("skip", "only root sees the open ports here")]
    ports: dict[tuple[str, str], set[int]] = {}
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and (what := _program(connection.pid)):
            ports.setdefault((what, connection.laddr.ip), set()).add(connection.laddr.port)
    problems: Problems = []
    for (what, where), numbers in sorted(ports.items()):
        address = ipaddress.ip_address(where)
        address = getattr(address, "ipv4_mapped", None) or address
        listens = f"{what} listens on {where}, port {', '.join(map(str, sorted(numbers)))}"
        if address.is_global or (address.is_unspecified and is_public):
            problems.append(("FAIL", f"{listens}, which is public: start it on 127.0.0.1 or the private address"))
        elif address.is_unspecified and what in ("dashboard", "MLflow"):
            problems.append(("warn", f"{listens}: all of the private network reaches it; 127.0.0.1 is enough"))
    return problems


def _program(pid: int | None) -> str:
    """Which of Ray's programs, or MLflow, a process is; empty for others, and for those of other users."""
    try:
        command = " ".join(psutil.Process(pid).cmdline()) if pid else ""
    except psutil.Error:
        return ""
    return next((what for mark, what in PROGRAMS.items() if mark in command), "")


def _addresses() -> list[Any]:
    families = (socket.AF_INET, socket.AF_INET6)
    return [each for all_of in psutil.net_if_addrs().values() for each in all_of if each.family in families]
