"""Idle: says why nothing of a sweep runs, when that has lasted for minutes, and which nodes don't come."""

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import ray
from ray._private.state import available_resources_per_node
from ray.autoscaler.v2.sdk import get_cluster_status

from sweeps.cluster.join import cluster_resources, worker_types
from sweeps.machines.node_types import NodeType, nodes_to_come
from sweeps.planning.capacity import Resources, spread
from sweeps.running.session import Session
from vit_trainer.errors import InputError, cause_of, counted, plain
from vit_trainer.files.storage import AWAITED

log = logging.getLogger(__name__)

SECONDS_TO_START = 120.0
"""How long nothing may run before it is said; actors start in seconds."""
SECONDS_TO_SAY_AGAIN = 600.0
PATIENCE = "VIT_SWEEPS_MINUTES_FOR_NODES"
"""Environment variable: after how many minutes without the nodes that were asked for it is said what else could be; 60.
After a sixth of them it is said that they don't come, and no gang is sized for them any more."""
ELSE = (
    "what else could be asked: on demand instead of spot, another zone or region, or another machine, in the cluster's "
    "file; clusters/skypilot.yaml looks in all of them"
)

Amounts = Mapping[str, float]
"""Numbers of `GPU` and `CPU`; what is missing is 0."""


class Idle:
    """Looks again and again; says why, first after minutes and then now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since = time.monotonic()
        self._next_at = self._since + SECONDS_TO_START

    def look(self, is_idle: bool, bundles: Sequence[Amounts]) -> None:
        """
        Args:
            is_idle: whether nothing runs now.
            bundles: what the next trial asks for, on each of its nodes.
        """
        now = time.monotonic()
        if not is_idle:
            self._since, self._next_at = now, now + SECONDS_TO_START
        elif now >= self._next_at:
            self._next_at = now + SECONDS_TO_SAY_AGAIN
            free = available_resources_per_node()
            nodes = [(node["Resources"], free.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"]]
            self._say(f"nothing has run for {_minutes(now - self._since)}: {why(bundles, nodes)}")


class Awaited:
    """Nodes that a sweep has asked for and that haven't come: since when, and what is to be said of that."""

    def __init__(self, session: Session) -> None:
        """Raises InputError if PATIENCE is no number of minutes."""
        given = os.environ.get(PATIENCE, "60")
        try:
            self._patience = 60 * float(given)
        except ValueError:
            self._patience = 0.0
        if not 0 < self._patience < math.inf:
            raise InputError(f"{PATIENCE} {given!r} is no number of minutes above 0: give such as 60")
        self._session = session
        self._since, self._say_at = math.inf, 0.0
        """When the waiting began, and after how many seconds of it something is said again."""
        self._missed_at = self._looked_at = self._kept_at = -math.inf

    @property
    def is_late(self) -> bool:
        """Whether they have been waited for so long that nothing should count on them any more."""
        return time.time() - self._since >= self._patience / 6

    def look(self) -> bool:
        """Say what is to be said, to be called again and again; whether nodes are waited for."""
        now, display = time.time(), self._session.display
        if now - self._looked_at >= min(5.0, self._patience / 60):
            self._looked_at = now
            resources, kinds = cluster_resources(), nodes_to_come(worker_types(), ray.nodes())
            num_there = sum(resources.slots_there)
            display.connected(num_there if self.is_late else resources.num_slots, on_gpus=resources.has_gpus)
            num_missing = num_slots_missing(self._session.num_asked, self._session.unplaced.values(), resources)
            if kinds and num_missing:
                self._since, self._missed_at = min(self._since, now), now
                line = awaited_line(num_missing, now - self._since, launches_since(self._since), kinds, resources)
                self._tell(now, line + f"; {ELSE}" * (now - self._since >= self._patience))
            elif now - self._missed_at > self._patience / 60:  # between two trials nothing is asked for
                self.end()
        return self._since < math.inf

    def _tell(self, now: float, line: str) -> None:
        self._session.display.awaits(line)
        waited = now - self._since
        if waited >= (self._say_at or self._patience / 6):
            self._say_at = self._patience * math.floor(waited / self._patience + 1)
            self._session.display.warned(line)
        if now - self._kept_at >= min(60.0, self._patience / 10):
            self._kept_at = now
            self._keep(line)

    def end(self) -> None:
        """Nothing is waited for any more."""
        self._session.display.awaits("")
        if self._kept_at > -math.inf:
            self._keep("")
        self._since, self._kept_at, self._say_at = math.inf, -math.inf, 0.0

    def _keep(self, line: str) -> None:
        """For those who watch by the storage alone."""
        try:
            self._session.options.opened_storage.sweep(self._session.name).write(AWAITED, line.encode())
        except OSError as error:  # an outage
            log.warning("%s not written: %s", AWAITED, cause_of(error))


def launches_since(since: float) -> tuple[int, int]:
    """Attempts to launch a node that failed since then, in Unix seconds, and machines on which Ray isn't up yet.

    By Ray's autoscaler; none where there is none, or one of before its second version.
    """
    if not ray.is_initialized():  # asking for the context would start a Ray
        return 0, 0
    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=5)
    except Exception:  # of Ray's several kinds: there is no more to say, then
        return 0, 0
    return sum((each.failed_ts_s or 0) >= int(since) for each in status.failed_launches), len(status.pending_nodes)


def num_slots_missing(num_asked: int, unplaced: Iterable[int], resources: Resources) -> int:
    """How many GPUs, or CPU cores, are still to come for what was asked for.

    Args:
        num_asked: for all trials.
        unplaced: for each that has none yet.
    """
    there = resources.slots_there
    no_room = [size for size in unplaced if not spread(size, there)]
    return max([0, min(num_asked, resources.num_slots) - sum(there), *no_room])


def awaited_line(
    num_missing: int, seconds: float, launches: tuple[int, int], kinds: Sequence[NodeType], resources: Resources
) -> str:
    """What was asked for, since when, and what has come.

    Args:
        num_missing: GPUs, or CPU cores.
        launches: see `launches_since`.
        kinds: the node type of each node that may still come.
    """
    asked, left = Counter[str](), num_missing
    for kind in kinds:
        if left > 0:
            asked[kind.machine or kind.name] += 1
            left -= kind.num_gpus if resources.has_gpus else kind.num_cpus
    name = "GPU" if resources.has_gpus else "CPU core"
    what = f"{counted(num_missing, name)} asked for {_minutes(seconds)} ago"
    nodes = " and ".join(f"{number} x {name}" for name, number in asked.items())
    failed = f", {counted(launches[0], 'attempt')} failed" * (launches[0] > 0)
    in_setup = f", {counted(launches[1], 'node')} being set up" * (launches[1] > 0)
    there = sum(resources.slots_there)
    goes_on = f"the sweep goes on with {counted(there, name)}" if there else "none is"
    return f"{what} ({nodes}) and not there yet{failed}{in_setup}; {goes_on}"


def _minutes(seconds: float) -> str:
    return f"{plain(seconds / 60 if seconds < 60 else round(seconds / 60))} min"


def why(bundles: Sequence[Amounts], nodes: Sequence[tuple[Amounts, Amounts]]) -> str:
    """Why a trial isn't placed, with the numbers.

    Args:
        bundles: what it asks for, on each of its nodes.
        nodes: what each living node has, and what of that is free.
    """
    asked = f"a trial asks for {_text(bundles[0])}" + (f" on each of {len(bundles)} nodes" if len(bundles) > 1 else "")
    there, free = [node for node, _ in nodes], [left for _, left in nodes]
    if not _fits(bundles, there):
        largest = max(there, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        return (
            f"{asked}, and the largest of {len(nodes)} living nodes has {_text(largest)}: "
            "nodes were lost, or are still to come"
        )
    if not _fits(bundles, free):
        kinds = [kind for kind in ("GPU", "CPU") if bundles[0].get(kind)]
        left = [f"{_sum(free, kind):g} of {_sum(there, kind):g} {_NAMES[kind]}s" for kind in kinds]
        return f"{asked}, and {' and '.join(left)} are free: other jobs of this cluster hold the rest (`ray status`)"
    return f"{asked}, which is free: Ray is slow to start its process there (see /tmp/ray/session_latest/logs)"


_NAMES = {"GPU": "GPU", "CPU": "CPU core"}


def _fits(bundles: Sequence[Amounts], nodes: Sequence[Amounts]) -> bool:
    able = [node for node in nodes if all(node.get(kind, 0) >= count for kind, count in bundles[0].items())]
    return len(able) >= len(bundles)


def _sum(nodes: Sequence[Amounts], kind: str) -> float:
    return sum(node.get(kind, 0) for node in nodes)


def _text(amounts: Amounts) -> str:
    counts = {kind: amounts.get(kind, 0) for kind in _NAMES}
    parts = [f"{count:g} {_NAMES[kind]}{'s' * (count != 1)}" for kind, count in counts.items() if count]
    return " and ".join(parts) or "no GPU or CPU core"
