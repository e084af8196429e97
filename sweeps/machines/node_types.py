"""Node types: the kinds of nodes of a cluster, and how many may still come, from the file that it was launched with.

Ray's own state knows living nodes only, so without this a cluster whose GPU nodes come on demand would look like one
that has none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vit_trainer.errors import InputError

LAUNCHED_WITH = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's file on the head, with all defaults filled in."""
NODE_TYPE = "ray.io/node-group"
"""Ray's label of a node that was launched as one of a cluster's types, the head among them."""


@dataclass(frozen=True)
class NodeType:
    """One kind of node for trials in a cluster's file."""

    name: str
    num_cpus: int
    num_gpus: int
    max_workers: int
    """How many there can be at once."""
    machine: str = ""
    """What the cloud calls it, such as p4d.24xlarge; empty if the file doesn't say."""
    max_of_all: int | None = None
    """How many workers of all kinds together the cluster may have; None: no limit but each kind's own."""


def node_types(path: Path) -> list[NodeType]:
    """The kinds of nodes for trials that a cluster's file names: workers, and a head with GPUs; none for own hosts.

    Raises:
        InputError: the file can't be read.
    """
    try:
        content = yaml.safe_load(path.read_text())
        if "available_node_types" not in content and content["provider"]["type"] == "local":
            return []
        of_all = int(content.get("max_workers", 0))
        kinds = {
            name: _node_type(name, values, of_all) for name, values in dict(content["available_node_types"]).items()
        }
        if head := kinds.pop(content.get("head_node_type"), None):
            kinds |= {head.name: replace(head, max_workers=1, max_of_all=None)} if head.num_gpus else {}
        return list(kinds.values())
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise InputError(
            f"{path} is no cluster file ({reason}): give one that `ray up` takes, as in a checkout's clusters/"
        ) from error


def types_of_cluster(nodes: Iterable[Mapping[str, Any]], address: str, path: Path = LAUNCHED_WITH) -> list[NodeType]:
    """The kinds of workers that a running cluster was launched with; none if this machine can't know.

    Only the head has the file, and only where Ray was launched with node types does it speak of this cluster: another
    one that is started there by hand, or by a sweep itself, stays as it is.

    Args:
        nodes: as `ray.nodes()` gives them.
        address: of this machine, among them.

    Raises:
        InputError: the file can't be read.
    """
    path = path.expanduser()
    is_launched = any(node["Alive"] and _is_head(node, address) and _type_of(node) for node in nodes)
    return node_types(path) if is_launched and path.exists() else []


def nodes_to_come(kinds: Iterable[NodeType], nodes: Iterable[Mapping[str, Any]]) -> list[NodeType]:
    """A node type for each node that the autoscaler may still start, beside the living ones: most GPUs first.

    Args:
        kinds: the cluster's.
        nodes: as `ray.nodes()` gives them.
    """
    kinds = sorted(kinds, key=lambda kind: -kind.num_gpus)
    living = Counter(_type_of(node) for node in nodes if node["Alive"])
    coming = [kind for kind in kinds for _ in range(kind.max_workers - living[kind.name])]
    limits = [
        kind.max_of_all - sum(living[each.name] for each in kinds if each.max_of_all is not None)
        for kind in kinds
        if kind.max_of_all is not None
    ]
    return coming[: max(0, min([len(coming), *limits]))]


def _type_of(node: Mapping[str, Any]) -> str | None:
    label = node.get("Labels", {}).get(NODE_TYPE)
    return None if label is None else str(label)


def _is_head(node: Mapping[str, Any], address: str) -> bool:
    return "node:__internal_head__" in node["Resources"] and node["NodeManagerAddress"] == address


def _node_type(name: str, values: Mapping[str, Any], of_all: int) -> NodeType:
    resources = values.get("resources") or {}
    node_config = values.get("node_config") or {}
    return NodeType(
        name,
        num_cpus=int(resources.get("CPU", 0)),
        num_gpus=int(resources.get("GPU", 0)),
        max_workers=min(int(values.get("max_workers", of_all)), of_all),
        machine=str(node_config.get("InstanceType") or node_config.get("machineType") or ""),
        max_of_all=of_all,
    )
