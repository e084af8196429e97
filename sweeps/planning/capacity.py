"""Capacity: what a cluster's nodes can hold, which trials fit there, and how long these take. Knows no Ray."""

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sweeps.machines.node_types import NodeType, nodes_to_come
from sweeps.table.cells import Trial
from vit_trainer.errors import InputError

CPUS_PER_GPU = 8
"""CPU cores that a trial gets with each GPU, if its node has that many."""


@dataclass(frozen=True)
class Resources:
    """What trials can be placed on: nodes with GPUs if there are any, else all."""

    gpus_of_nodes: tuple[int, ...]
    """GPUs of each node."""
    cpus_of_nodes: tuple[int, ...]
    """CPU cores of each node, in the same order."""
    num_there: int | None = None
    """How many of the nodes, the first ones, are there; the others are those that may still come. None: all are."""

    def __post_init__(self) -> None:
        assert len(self.gpus_of_nodes) == len(self.cpus_of_nodes)

    @classmethod
    def of_types(cls, kinds: Iterable[NodeType]) -> "Resources":
        """What a cluster that isn't there yet will have at its largest."""
        nodes = nodes_to_come(kinds, [])
        return cls(tuple(node.num_gpus for node in nodes), tuple(node.num_cpus for node in nodes))

    @property
    def has_gpus(self) -> bool:
        """Whether trials take GPUs, or CPU cores."""
        return any(self.gpus_of_nodes)

    @property
    def slots_of_nodes(self) -> tuple[int, ...]:
        """GPUs, or CPU cores, of each node that has some for trials."""
        return tuple(filter(None, self.gpus_of_nodes if self.has_gpus else self.cpus_of_nodes))

    @property
    def slots_there(self) -> tuple[int, ...]:
        """The same of the nodes that are there."""
        return tuple(filter(None, (self.gpus_of_nodes if self.has_gpus else self.cpus_of_nodes)[: self.num_there]))

    @property
    def certain_slots(self) -> tuple[int, ...]:
        """The same where others don't come for long: of those that are there, else of the smallest that may come."""
        return self.slots_there or tuple(sorted(self.slots_of_nodes)[:1])

    @property
    def num_slots(self) -> int:
        """Trials of one process that run at once."""
        return sum(self.slots_of_nodes)

    @property
    def cpus_per_process(self) -> float:
        """CPU cores that each of a trial's processes asks Ray for: as many as leave none of the GPUs idle, else one.

        Less than one where a node has more GPUs than cores.

        >>> Resources((0, 8, 8), (64, 32, 32)).cpus_per_process, Resources((0, 4, 3), (16, 4, 1)).cpus_per_process
        (4, 0.3333)
        """
        if not self.has_gpus:
            return 1
        nodes = zip(self.gpus_of_nodes, self.cpus_of_nodes, strict=True)
        share = min(cpus_per_gpu(num_gpus, num_cpus) for num_gpus, num_cpus in nodes if num_gpus)
        return int(share) if share >= 1 else math.floor(share * 10_000) / 10_000  # Ray counts in such parts

    def processes_of_nodes(self, num_processes: int) -> tuple[int, ...]:
        """How a gang is spread over nodes: one if one holds it, else as few full ones as do.

        Raises:
            InputError: no such nodes.
        """
        if not (per_node := sorted(self.slots_of_nodes, reverse=True)):
            raise InputError("no node of the Ray cluster has a GPU or CPU core for trials: add one")
        if parts := spread(num_processes, per_node):
            return parts
        kind = "GPUs" if self.has_gpus else "CPU cores"
        raise InputError(
            f"a trial of {num_processes} {kind} does not fit on nodes with {', '.join(map(str, per_node))}: "
            "give a number of GPUs per trial that fits on one node or fills several"
        )


def spread(num_processes: int, slots_of_nodes: Iterable[int]) -> tuple[int, ...]:
    """A gang's processes on each of its nodes, see `Resources.processes_of_nodes`; empty: they don't hold it."""
    per_node = sorted(slots_of_nodes, reverse=True)
    if per_node and num_processes <= per_node[0]:
        return (num_processes,)
    for share in sorted(set(per_node), reverse=True):
        count = num_processes // share
        if num_processes % share == 0 and sum(size >= share for size in per_node) >= count:
            return (share,) * count
    return ()


def cpus_per_gpu(num_gpus: float, num_cpus: float) -> float:
    """CPU cores for each GPU of a node."""
    return min(CPUS_PER_GPU, num_cpus / num_gpus)


def require_fit(trials: Iterable[Trial], gpus_of: Callable[[str], int], resources: Resources) -> None:
    """Refuse trials that could wait for ever, or whose batch can't be divided.

    Args:
        gpus_of: GPUs of a trial by its model's name.
        resources: the cluster's.

    Raises:
        InputError: names the first model that doesn't fit, what it needs and what there is.
    """
    for trial in trials:
        batch, gpus_per_trial = trial.config.global_batch_size, gpus_of(trial.cell.model)
        if batch % gpus_per_trial:
            raise InputError(
                f"{trial.cell.model}: its global batch of {batch} images can't be divided among {gpus_per_trial} GPUs: "
                "give another number of GPUs per trial, such as "
                f"{max(n for n in range(1, gpus_per_trial) if batch % n == 0)}"
            )
        try:
            resources.processes_of_nodes(gpus_per_trial)
        except InputError as error:
            raise InputError(f"{trial.cell.model}: {error}") from error


def wall_hours(jobs: Sequence[tuple[float, tuple[int, ...]]], slots_of_nodes: Sequence[int]) -> float:
    """When the last of some jobs ends, if each starts as soon as it fits, the first in the order before the others.

    Args:
        jobs: (hours, slots on each of its nodes); a gang's parts may share a node.
        slots_of_nodes: GPUs of each node, or CPU cores.

    >>> wall_hours([(3, (1,)), (2, (1,)), (2, (1,))], [2])
    4.0
    """
    free = list(slots_of_nodes)
    waiting, now, number = list(jobs), 0.0, 0
    running: list[tuple[float, int, dict[int, int]]] = []
    while waiting:
        left = []
        for hours, parts in waiting:
            taken = _place(parts, free) if any(free) else None
            if taken is None:
                left.append((hours, parts))
            else:
                heapq.heappush(running, (now + hours, number, taken))
                number += 1
        assert len(left) < len(waiting) or running, "a job fits on no node: see require_fit"
        waiting = left
        if waiting:
            now, _, taken = heapq.heappop(running)
            for node, count in taken.items():
                free[node] += count
    return float(max((end for end, _, _ in running), default=now))


def _place(parts: tuple[int, ...], free: list[int]) -> dict[int, int] | None:
    """Take slots for every part, each on the fullest node that holds it: slots by node, or None and nothing taken."""
    taken: dict[int, int] = {}
    for part in parts:
        node = min((n for n, count in enumerate(free) if count >= part), key=lambda n: free[n], default=None)
        if node is None:
            for other, count in taken.items():
                free[other] += count
            return None
        free[node] -= part
        taken[node] = taken.get(node, 0) + part
    return taken
