"""Nodes: the living ones of a Ray cluster, and a call on every node."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.planning.capacity import cpus_per_gpu

SECONDS_TO_BE_KNOWN = 10.0
"""How long the scheduler may take to hear of a node that has just joined."""
SECONDS_TO_ANSWER = 300.0
"""A node's first task starts a process and imports, and the doctor's use the GPUs. A lost node is noticed earlier."""


def living_nodes() -> dict[str, dict[str, Any]]:
    """The living nodes as `ray.nodes()` gives them, by address; where several have the same one, with their id."""
    living = [node for node in ray.nodes() if node["Alive"]]
    shared = Counter(node["NodeManagerAddress"] for node in living)

    def name(node: dict[str, Any]) -> str:
        address = str(node["NodeManagerAddress"])
        return address if shared[address] == 1 else f"{address} ({node['NodeID'][:6]})"

    return {name(node): node for node in living}


def threads_per_process(has_gpus: bool) -> int:
    """CPU threads of a trial's process on the node of this actor: its GPU's part of the node's cores, else one.

    Ray was asked for no more than each node has, which may be less than this one has.
    """
    if not has_gpus:
        return 1
    own = ray.get_runtime_context().get_node_id()
    here = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == own)
    return max(1, int(cpus_per_gpu(here["GPU"], here.get("CPU", 0))))


def on_every_node(call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What a function returns on each living node, by the node's address; what it raises there, as the exception.

    It takes no CPU or GPU of the trials there. A node that is lost meanwhile, or doesn't answer, has a RayError.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(call)
    found: dict[str, Any] = {}
    waiting, deadline = living_nodes(), time.monotonic() + SECONDS_TO_BE_KNOWN
    while waiting:
        promised = {}
        for address, node in waiting.items():
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            promised[address] = task.options(scheduling_strategy=there).remote(*arguments)
        unknown = set()
        for address, reference in promised.items():
            try:
                found[address] = ray.get(reference, timeout=SECONDS_TO_ANSWER)
            except ray.exceptions.RayTaskError as error:
                found[address] = error.as_instanceof_cause()
            except ray.exceptions.RayError as error:
                found[address] = error
                if isinstance(error, ray.exceptions.TaskUnschedulableError) and time.monotonic() < deadline:
                    unknown.add(address)
        waiting = {address: node for address, node in living_nodes().items() if address in unknown}
        if waiting:
            time.sleep(0.1)
    return found
