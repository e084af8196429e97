"""Growth: the nodes that an autoscaling cluster may still get, from the file that its head was launched with.

Ray's own state knows living nodes only, so without this a cluster whose GPU nodes come on demand would look like one
that has none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vit_trainer.errors import InputError

LAUNCHED_WITH = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's file on the head, with all defaults filled in."""
NODE_TYPE = "ray.io/node-group"
"""Ray's label of a node that an autoscaler started."""


@dataclass(frozen=True)
class NodeType:
    """One kind of worker in a cluster's file."""

    name: str
    num_cpus: int
    num_gpus: int
    max_workers: int
    """How many there can be at once."""


def node_types(path: Path = LAUNCHED_WITH) -> list[NodeType]:
    """The kinds of workers that the cluster of this head may have; none if it wasn't launched by `ray up`.

    Raises:
        InputError: the file can't be read.
    """
    path = path.expanduser()
    if not path.exists():
        return []
    try:
        content = yaml.safe_load(path.read_text())
        of_all = int(content.get("max_workers", 0))
        kinds = dict(content["available_node_types"])
        kinds.pop(content.get("head_node_type"), None)
        return [_node_type(name, values, of_all) for name, values in kinds.items()]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is no cluster file ({type(error).__name__}: {reason}): run `ray up` again, or move it away"
        ) from error


def nodes_to_come(types: Iterable[NodeType], nodes: Iterable[Mapping[str, Any]]) -> list[NodeType]:
    """A node type for each node that may still come, beside the living ones.

    Args:
        nodes: as `ray.nodes()` gives them.
    """
    living = [node.get("Labels", {}).get(NODE_TYPE) for node in nodes if node["Alive"]]
    return [
        node_type for node_type in types for _ in range(max(0, node_type.max_workers - living.count(node_type.name)))
    ]


def _node_type(name: str, values: Mapping[str, Any], of_all: int) -> NodeType:
    resources = values.get("resources") or {}
    max_workers = min(int(values.get("max_workers", of_all)), of_all)
    return NodeType(name, int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), max_workers)
