"""Nodes: a call on every node of the Ray cluster, and what must be alike on all of them."""

import hashlib
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vit_trainer import provenance
from vit_trainer.errors import InputError

SECONDS_TO_CONNECT = 5.0
SECONDS_TO_ANSWER = 300.0
"""A node's first task starts a process and imports, and the doctor's use the GPUs. A lost node is noticed earlier."""


def require_answer(address: str) -> None:
    """Check that something listens where a Ray cluster should be; Ray itself would try for minutes.

    Args:
        address: RAY_ADDRESS; of other forms than host:port nothing is asked.

    Raises:
        InputError: nothing does.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:  # a port above 65535
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"nothing answers at RAY_ADDRESS {address} ({reason}): start the cluster, or unset it"
        ) from error


def living_nodes() -> dict[str, dict[str, Any]]:
    """As `ray.nodes()` gives them, by address; where several have the same one, with their id."""
    living = [node for node in ray.nodes() if node["Alive"]]
    shared = Counter(node["NodeManagerAddress"] for node in living)

    def name(node: dict[str, Any]) -> str:
        address = str(node["NodeManagerAddress"])
        return address if shared[address] == 1 else f"{address} ({node['NodeID'][:6]})"

    return {name(node): node for node in living}


def on_every_node(call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What a function returns on each living node, by the node's address; what it raises there, as the exception.

    It takes no CPU or GPU of the trials there. A node that is lost meanwhile, or doesn't answer, has a RayError.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(call)
    promised = {
        name: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        )
        for name, node in living_nodes().items()
    }
    found: dict[str, Any] = {}
    for address, reference in promised.items():
        try:
            found[address] = ray.get(reference, timeout=SECONDS_TO_ANSWER)
        except ray.exceptions.RayTaskError as error:
            found[address] = error.as_instanceof_cause()
        except ray.exceptions.RayError as error:
            found[address] = error
    return found


def versions() -> dict[str, str]:
    """What must be alike on all nodes when a sweep starts: the packages, and this project's code by its hash."""
    return package_versions() | {"code": _code_hash()}


def package_versions() -> dict[str, str]:
    """What must be alike on nodes that join later too: Python, Ray, and the trainer's packages.

    Not the code: a checkout that all nodes share may be edited while a sweep runs, whose processes have theirs.
    """
    found = provenance.versions() | {"ray": ray.__version__}
    return found | {"python": ".".join(found["python"].split(".")[:2])}


def _code_hash() -> str:
    root = Path(__file__).resolve().parents[2]
    files = sorted(path for package in ("vit_trainer", "sweeps") for path in (root / package).rglob("*.py"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def differences(here: dict[str, str], found: dict[str, Any]) -> list[str]:
    """Where a node's versions aren't those of this process, both named.

    Args:
        here: as `versions` gives them.
        found: the same of each node by its address; a node that was lost has nothing to compare.
    """
    return [
        f"{address} has {name} {theirs.get(name, 'missing')}, this process {mine}"
        for address, theirs in found.items()
        if isinstance(theirs, dict)
        for name, mine in here.items()
        if theirs.get(name) != mine
    ]


def require_same_versions() -> None:
    """Check that all nodes of the cluster have what this process has; of a single node nothing is asked.

    Raises:
        InputError: one hasn't.
    """
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return
    found = on_every_node(versions)
    for address, error in found.items():
        if isinstance(error, Exception) and not isinstance(error, ray.exceptions.RayError):
            raise InputError(
                f"node {address} can't run this project's code ({_last_line(error)}): `ray up` installs it"
            )
    if different := differences(versions(), found):
        raise InputError(refusal(different))


def refusal(different: list[str]) -> str:
    """Why a sweep doesn't run on these nodes, and what to do.

    Args:
        different: as `differences` gives them; at least one.
    """
    more = f", and {len(different) - 1} more" if len(different) > 1 else ""
    advice = "give all nodes the versions of constraints.txt and the same code (`ray up` does)"
    return f"node {different[0]}{more}: {advice}"


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
