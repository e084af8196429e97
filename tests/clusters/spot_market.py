"""Ray's fake cloud, whose nodes are raylets on this machine, as a market that may have none of a kind."""

import os
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

SOLD_OUT = Path("~/sold_out")
"""Names of the node types of which there are none now."""


class SpotMarket(FakeMultiNodeProvider):  # type: ignore[misc]
    """What Ray's autoscaler asks for nodes."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        kind = tags["ray-user-node-type"]
        if kind in SOLD_OUT.expanduser().read_text().split():
            raise NodeLaunchException("InsufficientInstanceCapacity", f"no {kind} in this zone", None)
        os.environ["RAY_NODE_TYPE_NAME"] = kind  # as on a node of its own; else it has the head's, with this process
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
