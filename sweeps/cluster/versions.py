"""Versions: what must be alike on all nodes of a cluster."""

import hashlib
from pathlib import Path
from typing import Any

import ray

from sweeps.cluster.nodes import on_every_node
from vit_trainer import provenance
from vit_trainer.errors import InputError


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
    """Lines that say where a node's versions aren't those of this process, both named.

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
