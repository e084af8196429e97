"""Clusters and sweeps that no test leaves behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.running import Start, Sweep


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sweeps, and leaves none behind."""
    sweeps: list[Sweep] = []

    def start(storage: Path, *arguments: str, address: str = "local") -> Sweep:
        sweeps.append(Sweep(storage, *arguments, address=address))
        return sweeps[-1]

    yield start
    for sweep in sweeps:
        sweep.process.kill()
        sweep.process.communicate()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of several nodes on this machine: a head without slots, and as many workers as a test adds."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()
