"""Join: the Ray cluster that a sweep runs on, and what it has."""

import os
import sys
import time

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.services import find_node_ids

from sweeps.cluster.address import ELSE_OWN, meant_cluster, named_address
from sweeps.cluster.nodes import living_nodes
from sweeps.cluster.own_ray import init, start_ray
from sweeps.machines.node_types import NodeType, nodes_to_come, types_of_cluster
from sweeps.planning.capacity import Resources
from vit_trainer.errors import InputError, reason_of

SECONDS_FOR_NODE = 10.0
"""How long a cluster's node on this machine may take to come, after its head has."""


def join() -> bool:
    """Join the Ray cluster that `meant_cluster` gives, and say so; False if there is none.

    Raises:
        InputError: there is one, and it can't be joined.
    """
    if ray.is_initialized():
        return True
    address = meant_cluster()
    if address is None:
        return False
    deadline = time.monotonic() + SECONDS_FOR_NODE
    while not find_node_ids():  # Ray itself would look for a minute
        if time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        raise InputError(f"no node of the Ray cluster at {address} is on this machine: `ray job submit` it, {ELSE_OWN}")
    if not named_address():  # this machine's own, whose token it is
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        init(address=address)
    except Exception as error:
        cause = reason_of(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        why = f"the Ray cluster at {address} doesn't let this process in ({cause})"
        raise InputError(f"{why}: give it the cluster's token and versions, {ELSE_OWN}") from error
    print(f"Joined the Ray cluster at {address}", file=sys.stderr)
    return True


def join_or_start() -> None:
    """Join the cluster that is meant, or start a Ray of this process's own.

    Raises:
        InputError: neither can be done.
    """
    if not join():
        start_ray()


def count_gpus() -> int:
    """GPUs that the running Ray cluster has or may get, or those of this machine if there is none; starts nothing."""
    if join():
        return sum(cluster_resources().gpus_of_nodes)
    import torch

    return torch.cuda.device_count()


def worker_types() -> list[NodeType]:
    """The kinds of workers of the running Ray cluster, where its autoscaler starts them and this is its head."""
    return types_of_cluster(ray.nodes(), ray.util.get_node_ip_address()) if join() else []


def cluster_resources() -> Resources:
    """What trials can be placed on: the joined cluster's nodes, those included that its autoscaler may start."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    to_come = nodes_to_come(worker_types(), ray.nodes())
    gpus = [int(node.get("GPU", 0)) for node in nodes] + [node.num_gpus for node in to_come]
    cpus = [int(node.get("CPU", 0)) for node in nodes] + [node.num_cpus for node in to_come]
    return Resources(tuple(gpus), tuple(cpus), num_there=len(nodes))


def nodes_that_train() -> dict[str, bool]:
    """The living nodes of the joined cluster that trials run on, by name, and whether they are on this machine."""
    kind, own = "GPU" if cluster_resources().has_gpus else "CPU", ray.util.get_node_ip_address()
    nodes = living_nodes().items()
    return {name: node["NodeManagerAddress"] == own for name, node in nodes if node["Resources"].get(kind)}


def resources_here() -> Resources:
    """What trials can be placed on: the running cluster, else this machine."""
    num_gpus = count_gpus()  # joins the cluster if there is one
    if ray.is_initialized():
        return cluster_resources()
    return Resources((num_gpus,), (os.cpu_count() or 1,))
