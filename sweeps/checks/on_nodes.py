"""Node checks: whether the nodes of a running cluster, or this machine alone, can run a sweep's trials."""

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import psutil

from sweeps.checks.finding import Finding, fail, ok, skip, warn
from sweeps.checks.inputs import Inputs, Problems
from sweeps.checks.open_ports import open_ports
from sweeps.cluster.join import cluster_resources, nodes_that_train
from sweeps.cluster.nodes import living_nodes, on_every_node
from sweeps.cluster.versions import differences, refusal, versions
from sweeps.machines.speeds import look_and_measure
from vit_trainer.data.datasets import family_of
from vit_trainer.data.shared_memory import too_small
from vit_trainer.errors import InputError
from vit_trainer.files.folder import open_folder
from vit_trainer.files.location import is_uri

MAX_SKEW_SECONDS = 5.0
"""Between two nodes' clocks: journals of a trial that moves would run backwards."""
MIN_FREE_GB = 20
"""On a node's disk, for checkpoints of its trials that are being copied."""
SLOW_SHARE = 0.8
"""Of the fastest node's all-reduce: a node below that is worth a look."""
NO_CLUSTER = "this machine"


@dataclass(frozen=True)
class Asked:
    """What every node is asked, all at once."""

    storage: str
    """Of the run folders, as all nodes should reach it."""
    inputs: Inputs
    probe: str = field(default_factory=lambda: f".doctor-{uuid.uuid4().hex[:8]}")
    """What the names of the small files begin with that go through the storage."""


def check_nodes(asked: Asked) -> Iterator[Finding]:
    """Check every node of the Ray cluster that this process has joined, or this machine if there is none."""
    import ray

    on_cluster = ray.is_initialized()

    def everywhere(call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        return on_every_node(call, *arguments) if on_cluster else {NO_CLUSTER: _attempt(call, *arguments)}

    answers = everywhere(_look, asked)
    silent = {name: answer for name, answer in answers.items() if isinstance(answer, Exception)}
    found = {name: answer for name, answer in answers.items() if name not in silent}
    yield from _merged((name, fail("no answer", _line(error))) for name, error in silent.items())

    def of(what: str, nodes: Iterable[str] = tuple(found)) -> dict[str, Any]:
        return {name: found[name][what] for name in nodes}

    here = versions()
    different = differences(here, of("versions"))
    if different:
        yield fail("versions", refusal(different))
    else:
        shown = ", ".join(f"{name} {version}" for name, version in here.items())
        yield ok("versions", f"{shown}; the same on {_count(found)}" if on_cluster else shown)
    yield from _check_storage(asked, of("storage"))
    start = time.time()
    clocks, end = everywhere(_clean_up, asked), time.time()
    if on_cluster:
        yield _check_clocks(clocks, start, end)
    counted, trains, to_come = dict[str, int](), set(found), 0
    if on_cluster:
        counted = {name: int(node["Resources"].get("GPU", 0)) for name, node in living_nodes().items()}
        to_come = sum(cluster_resources().gpus_of_nodes) - sum(counted.values())
        trains = nodes_that_train().keys() & found.keys()
    yield from _check_gpus(of("GPUs", trains or found), counted, to_come)
    if trains:
        yield from _gather("checkpoints and data sets", of("inputs", trains))
        if any((caches := of("shards", trains)).values()):
            yield from _gather("shards", caches)
        if any(family_of(dataset).in_files for dataset in asked.inputs.datasets):
            yield from _gather("shared memory", of("shared memory", trains))
    else:
        yield skip("checkpoints and data sets", "no node that trains is up: look again when one is")
    yield from _gather("disk", of("disk"))
    yield from _gather("ports", of("ports"))


def _look(asked: Asked) -> dict[str, Any]:
    """What there is to know of a node, by what was looked at; the exception of what can't be."""
    calls: dict[str, Callable[[], Any]] = {
        "versions": versions,
        "GPUs": look_and_measure,
        "storage": partial(_write, asked.storage, asked.probe),
        "inputs": asked.inputs.problems,
        "shards": asked.inputs.cache,
        "shared memory": _little_shared_memory,
        "disk": _little_disk,
        "ports": open_ports,
    }
    with ThreadPoolExecutor(len(calls)) as pool:
        return dict(zip(calls, pool.map(_attempt, calls.values()), strict=True))


def _attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:
        return OSError(_line(error))  # which any process can read, as not all exceptions


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _count(nodes: Collection[str]) -> str:
    return f"{len(nodes)} nodes" if len(nodes) != 1 else next(iter(nodes))


def _merged(found: Iterable[tuple[str, Finding]], nodes: Collection[str] = ()) -> Iterator[Finding]:
    """A line for all nodes that the same was found on: it names them, unless they are all of `nodes`."""
    where: dict[Finding, list[str]] = {}
    for node, finding in found:
        where.setdefault(finding, []).append(node)
    for finding, names in where.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        place = _count(nodes) if len(names) == len(nodes) else ", ".join(names[:3]) + more
        yield replace(finding, detail=f"{place}: {finding.detail}")


def _gather(what: str, found: Mapping[str, Any]) -> Iterator[Finding]:
    """A line per problem, with the nodes that have it; where there is none, one for all.

    Args:
        found: by node what is wrong there, each of FAIL or warn and its text; an exception says that nothing is known.
    """
    problems = [
        (node, fail(what, _line(each)) if isinstance(each, Exception) else Finding(each[0], what, each[1]))
        for node, answer in found.items()
        for each in ([answer] if isinstance(answer, Exception) else answer)
    ]
    yield from _merged(problems, found) if problems else [ok(what, f"fine on {_count(found)}")]


def _check_clocks(found: Mapping[str, Any], start: float, end: float) -> Finding:
    """Each node's clock, read between these times by this one's."""
    skews = {name: max(start - at, at - end, 0.0) for name, at in found.items() if isinstance(at, float)}
    worst = max(skews, key=lambda name: skews[name], default=None)
    if worst is None or skews[worst] <= MAX_SKEW_SECONDS:
        return ok(
            "clocks", f"within {MAX_SKEW_SECONDS:g} s of this one, as far as {end - start:.1f} s of asking can tell"
        )
    return fail("clocks", f"{worst} is {skews[worst]:.0f} s off: let it keep time (timedatectl set-ntp true)")


def _check_gpus(found: Mapping[str, Any], counted: Mapping[str, int], to_come: int = 0) -> Iterator[Finding]:
    """Args: by node what was seen there, and how many Ray counts on it; how many more may come."""
    lines, speeds, seen = list[tuple[str, Finding]](), dict[str, float](), to_come > 0
    for node, facts in found.items():
        if isinstance(facts, Exception):
            lines.append((node, fail("GPUs", _line(facts))))
            seen = True
            continue
        usable = [gpu for gpu in facts["gpus"] if not gpu["problem"]]
        lines += [
            (node, fail("GPUs", f"{gpu['name']} can't be used ({gpu['problem']})"))
            for gpu in facts["gpus"]
            if gpu["problem"]
        ]
        versions_text = f"driver {facts['driver']}, CUDA {facts['cuda']}"
        who, num_counted = ("Ray", counted[node]) if node in counted else ("the driver", facts["num_of_driver"])
        seen |= bool(facts["gpus"] or facts["num_of_driver"] or num_counted)
        if num_counted > len(usable):
            why = "no NVIDIA driver" if facts["driver"] is None else versions_text
            lines.append((node, fail("GPUs", f"{who} counts {num_counted}, PyTorch can use {len(usable)} ({why})")))
        elif usable:
            kinds = ", ".join(sorted({f"{gpu['name']} {gpu['memory_gib']:g} GiB" for gpu in usable}))
            lines.append((node, ok("GPUs", f"{len(usable)} x {kinds}, {versions_text}")))
        if "all_reduce" in facts:
            speeds[node] = facts["all_reduce"] / 1e9
    yield from _merged(lines, found)
    if speeds:
        slowest, fastest = min(speeds, key=lambda node: speeds[node]), max(speeds.values())
        text = f"{speeds[slowest]:.0f} to {fastest:.0f} GB/s among the GPUs of a node, least on {slowest}"
        yield warn("all-reduce", text) if speeds[slowest] < SLOW_SHARE * fastest else ok("all-reduce", text)
    if not seen:
        yield warn("GPUs", f"none on {_count(found)}: the miniature runs, the paper's grid waits for GPUs")
    elif to_come and not any(counted.values()):
        yield skip("GPUs", f"none is up; {to_come} come when a sweep asks for them")


def _check_storage(asked: Asked, found: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether all nodes write to the storage, and to the same one: this process looks for what they wrote."""
    storage = asked.storage
    try:
        folder = open_folder(storage)
        seen = {folder.read(each) for each in folder.names() if each.startswith(asked.probe)}
    except (OSError, InputError) as error:
        yield fail("storage", f"{storage} can't be read from here ({_line(error)})")
        return
    own = f"writes to a {storage} of its own: give a folder that all nodes share, or a bucket"
    problems = [
        (node, fail("storage", f"can't write to {storage} ({_line(written)})" if is_locked_out else own))
        for node, written in found.items()
        if (is_locked_out := isinstance(written, Exception)) or written.encode() not in seen
    ]
    yield from _merged(problems, found) if problems else [ok("storage", f"{storage} is written from {_count(found)}")]


def _write(storage: str, name: str) -> str:
    content = uuid.uuid4().hex
    open_folder(storage).write(f"{name}-{content}", content.encode())
    return content


def _clean_up(asked: Asked) -> float:
    """Remove what `_look` has written, and tell the time."""
    with suppress(OSError, InputError):  # said already
        folder = open_folder(asked.storage)
        for each in folder.names():
            if each.startswith(asked.probe):
                folder.remove(each)
    return time.time()


def check_bucket(storage: str) -> Iterator[Finding]:
    """Whether this machine can write to a storage that a cluster is to have; of a folder only its nodes know that."""
    if not is_uri(storage):
        yield skip("storage", f"{storage} is a folder: the doctor on the cluster's head looks at it on all nodes")
        return
    asked = Asked(storage, Inputs())
    yield from _check_storage(asked, {NO_CLUSTER: _attempt(_write, storage, asked.probe)})
    _clean_up(asked)


def _little_disk() -> Problems:
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    return [] if free >= MIN_FREE_GB else [("warn", f"{free:.0f} GB free in {tempfile.gettempdir()}: make room")]


def _little_shared_memory() -> Problems:
    problem = too_small(psutil.cpu_count() or 1)
    return [("warn", problem)] if problem else []


def check_tracking(tracking_uri: str) -> Finding:
    """Whether MLflow answers where the sweep would report to."""
    from vit_trainer.tracking.store import require_store

    try:
        require_store(tracking_uri)
    except InputError as error:
        return fail("MLflow", str(error))
    return ok("MLflow", tracking_uri)
