"""Join: the Ray cluster that a sweep runs on, and what it has."""

import logging
import os
from typing import Any

import ray

from sweeps.cluster.nodes import require_answer
from sweeps.machines.node_types import NodeType, nodes_to_come, types_of_cluster
from sweeps.planning.capacity import Resources
from vit_trainer.errors import InputError

RAY_LOGS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""What a trial prints is in Ray's log folder; why it failed is in its result.json."""


def join() -> bool:
    """Join the Ray cluster that RAY_ADDRESS names or this machine runs; False if none is named and none runs.

    Raises:
        InputError: the one that is named doesn't answer. Without that, its grid would run on this machine.
    """
    if ray.is_initialized():
        return True
    address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "local":
        return False
    if address != "auto":
        require_answer(address)
    try:
        ray.init(address=address, **RAY_LOGS)
    except ConnectionError as error:
        if address == "auto":
            return False
        raise InputError(
            f"what listens at RAY_ADDRESS {address} doesn't let this process in: correct or unset it"
        ) from error
    return True


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
    return Resources(tuple(gpus), tuple(cpus))


def resources_here() -> Resources:
    """What trials can be placed on: the running cluster, else this machine."""
    num_gpus = count_gpus()  # joins the cluster if there is one
    if ray.is_initialized():
        return cluster_resources()
    return Resources((num_gpus,), (os.cpu_count() or 1,))
