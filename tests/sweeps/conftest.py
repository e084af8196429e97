"""Clusters that many tests share, and sweeps that no test leaves behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.sweep_process import QUIET_LRS, Start, Sweep, numbers


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


@pytest.fixture(scope="session")
def two_slots() -> Iterator[str]:
    """The address of a Ray cluster with two CPU cores, as a sweep of its own would start it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="session")
def _head() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(_head: Any) -> Iterator[Any]:
    """A Ray cluster of several nodes on this machine: a head without slots, and as many workers as a test adds."""
    yield _head
    for node in list(_head.worker_nodes):
        _head.remove_node(node, allow_graceful=False)
    _head.wait_for_nodes(60)  # until the head has noticed


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory, two_slots: str) -> dict[str, Any]:
    """The numbers of a sweep that nothing happens to, of trials of one process."""
    storage = tmp_path_factory.mktemp("quiet")
    code, _, err = Sweep(storage, "--base-lrs", *QUIET_LRS, address=two_slots).finish()
    assert code == 0, err
    return numbers(storage)
