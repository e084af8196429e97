"""Node checks: whether the nodes of a running cluster, or this machine alone, can run a sweep's trials."""

import ipaddress
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import psutil

from sweeps.checks.finding import Finding, fail, ok, skip, warn
from sweeps.cluster.nodes import living_nodes, on_every_node
from sweeps.cluster.versions import differences, versions
from vit_trainer import machine as hardware
from vit_trainer.data.datasets import family_of
from vit_trainer.data.load import require_dataset
from vit_trainer.data.shared_memory import too_small
from vit_trainer.errors import InputError
from vit_trainer.files.folder import open_folder
from vit_trainer.files.location import is_uri
from vit_trainer.weights.fetch import doubt_of
from vit_trainer.weights.npz_files import require_checkpoint

MAX_SKEW_SECONDS = 5.0
"""Between two nodes' clocks: journals of a trial that moves would run backwards."""
MIN_FREE_GB = 20
"""On a node's disk, for checkpoints of its trials that are being copied."""
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
NO_CLUSTER = "this machine"


def check_nodes(storage: str, inputs: Iterable[tuple[str, str]], datasets: Iterable[str]) -> Iterator[Finding]:
    """Check every node of the Ray cluster that this process has joined, or this machine if there is none.

    Args:
        storage: of the run folders, as all nodes should reach it.
        inputs: (model, upstream) of the checkpoints that the trials need.
        datasets: their names.
    """
    import ray

    on_cluster, datasets = ray.is_initialized(), tuple(datasets)

    def everywhere(call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        return on_every_node(call, *arguments) if on_cluster else {NO_CLUSTER: _attempt(call, *arguments)}

    found = everywhere(versions)
    nodes = {name: answer for name, answer in found.items() if not isinstance(answer, Exception)}
    yield from (fail(f"node {name}", f"does not answer ({_line(found[name])})") for name in found.keys() - nodes.keys())
    here = versions()
    different = differences(here, nodes)
    yield from (fail("versions", f"{each}: `ray up` gives all nodes the same") for each in different)
    if not different:
        shown = ", ".join(f"{name} {version}" for name, version in here.items())
        yield ok("versions", f"{shown}; the same on {_count(nodes)}" if on_cluster else shown)
    if on_cluster:
        yield _check_clocks()
    counted = (
        {name: int(node["Resources"].get("GPU", 0)) for name, node in living_nodes().items()} if on_cluster else {}
    )
    yield from _check_gpus(everywhere(hardware.look_from_outside), counted)
    yield from _check_storage(storage, everywhere)
    yield from _gather("checkpoints and data sets", everywhere(_missing_inputs, tuple(inputs), datasets))
    yield from _gather("disk", everywhere(_little_disk))
    if any(family_of(dataset).in_files for dataset in datasets):
        yield from _gather("shared memory", everywhere(_little_shared_memory))
    yield from _gather("ports", everywhere(_open_ports))


def _attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:
        return error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _count(nodes: Mapping[str, Any]) -> str:
    return f"{len(nodes)} nodes" if len(nodes) > 1 else "the one node" if NO_CLUSTER not in nodes else NO_CLUSTER


def _gather(what: str, found: dict[str, Any]) -> Iterator[Finding]:
    """A line per node with problems; where there is none, one for all.

    Args:
        found: by node what is wrong there, each of FAIL or warn and its text; an exception says that nothing is known.
    """
    is_fine = True
    for node, problems in found.items():
        if isinstance(problems, Exception):
            yield fail(what, f"{node}: {_line(problems)}")
            is_fine = False
            continue
        for kind, problem in problems:
            yield Finding(kind, what, f"{node}: {problem}")
            is_fine = False
    if is_fine:
        yield ok(what, f"fine on {_count(found)}")


def _check_clocks() -> Finding:
    """Each node's clock against this one's, which a task's way there and back makes uncertain."""
    start = time.time()
    found = {name: at for name, at in on_every_node(_now).items() if isinstance(at, float)}
    end = time.time()
    skews = {name: max(start - at, at - end, 0.0) for name, at in found.items()}
    worst = max(skews, key=lambda name: skews[name], default=None)
    if worst is None or skews[worst] <= MAX_SKEW_SECONDS:
        return ok(
            "clocks", f"within {MAX_SKEW_SECONDS:g} s of this one, as far as {end - start:.1f} s of asking can tell"
        )
    return fail("clocks", f"{worst} is {skews[worst]:.0f} s off: let it keep time (timedatectl set-ntp true)")


def _now() -> float:
    return time.time()  # Ray takes no builtin


def _check_gpus(found: dict[str, Any], counted: dict[str, int]) -> Iterator[Finding]:
    """Args: by node what was seen there, and how many Ray counts on it."""
    for node, facts in found.items():
        if isinstance(facts, Exception):
            yield fail("GPUs", f"{node}: {_line(facts)}")
            continue
        usable = [gpu for gpu in facts["gpus"] if not gpu["problem"]]
        yield from (
            fail("GPUs", f"{node}: {gpu['name']} can't be used ({gpu['problem']})")
            for gpu in facts["gpus"]
            if gpu["problem"]
        )
        versions_text = f"driver {facts['driver']}, CUDA {facts['cuda']}"
        who, num_counted = ("Ray", counted[node]) if node in counted else ("the driver", facts["num_of_driver"])
        if num_counted > len(usable):
            why = "no NVIDIA driver" if facts["driver"] is None else versions_text
            yield fail("GPUs", f"{node}: {who} counts {num_counted}, PyTorch can use {len(usable)} ({why})")
        elif usable:
            speed = f", all-reduce {facts['all_reduce'] / 1e9:.0f} GB/s" if "all_reduce" in facts else ""
            kinds = ", ".join(sorted({f"{gpu['name']} {gpu['memory_gib']:g} GiB" for gpu in usable}))
            yield ok("GPUs", f"{node}: {len(usable)} x {kinds}, {versions_text}{speed}")
    seen = [isinstance(facts, Exception) or facts["gpus"] or facts["num_of_driver"] for facts in found.values()]
    if not any(seen) and not any(counted.values()):
        yield warn("GPUs", f"none on {_count(found)}: the miniature runs, the paper's grid waits for GPUs")


def _check_storage(storage: str, everywhere: Callable[..., dict[str, Any]]) -> Iterator[Finding]:
    """Whether all nodes write to the storage, and to the same one: this process looks for what they wrote."""
    name = f".doctor-{uuid.uuid4().hex[:8]}"
    found = everywhere(_write, storage, name)
    try:
        folder = open_folder(storage)
        seen = {folder.read(each) for each in folder.names() if each.startswith(name)}
    except (OSError, InputError) as error:
        yield fail("storage", f"{storage} can't be read from here ({_line(error)})")
        return
    finally:
        everywhere(_remove, storage, name)
    is_fine = True
    for node, written in found.items():
        if isinstance(written, Exception):
            yield fail("storage", f"{node} can't write to {storage} ({_line(written)})")
            is_fine = False
        elif written.encode() not in seen:
            yield fail(
                "storage", f"{node} writes to a {storage} of its own: give a folder that all nodes share, or a bucket"
            )
            is_fine = False
    if is_fine:
        yield ok("storage", f"{storage} is written from {_count(found)}")


def _write(storage: str, name: str) -> str:
    content = uuid.uuid4().hex
    open_folder(storage).write(f"{name}-{content}", content.encode())
    return content


def _remove(storage: str, name: str) -> None:
    folder = open_folder(storage)
    for each in folder.names():
        if each.startswith(name):
            folder.remove(each)


def check_bucket(storage: str) -> Iterator[Finding]:
    """Whether this machine can write to a storage that a cluster is to have; of a folder only its nodes know that."""
    if not is_uri(storage):
        yield skip("storage", f"{storage} is a folder: the doctor on the cluster's head looks at it on all nodes")
        return
    yield from _check_storage(storage, lambda call, *arguments: {NO_CLUSTER: _attempt(call, *arguments)})


Problems = list[tuple[Literal["FAIL", "warn", "skip"], str]]


def _missing_inputs(inputs: tuple[tuple[str, str], ...], datasets: tuple[str, ...]) -> Problems:
    problems: Problems = []
    for model, upstream in inputs:
        try:
            require_checkpoint(model, upstream)
            if doubt := doubt_of(model, upstream):
                problems.append(("warn", doubt))
        except InputError as error:
            problems.append(("FAIL", str(error)))
    for dataset in datasets:
        try:
            require_dataset(dataset, may_download=False)
        except InputError as error:
            problems.append(("warn" if family_of(dataset).is_downloaded else "FAIL", str(error)))
    return problems


def _little_disk() -> Problems:
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    return [] if free >= MIN_FREE_GB else [("warn", f"{free:.0f} GB free in {tempfile.gettempdir()}: make room")]


def _little_shared_memory() -> Problems:
    problem = too_small(psutil.cpu_count() or 1)
    return [("warn", problem)] if problem else []


def _open_ports() -> Problems:
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


def check_tracking(tracking_uri: str) -> Finding:
    """Whether MLflow answers where the sweep would report to."""
    from vit_trainer.tracking.store import require_store

    try:
        require_store(tracking_uri)
    except InputError as error:
        return fail("MLflow", str(error))
    return ok("MLflow", tracking_uri)
