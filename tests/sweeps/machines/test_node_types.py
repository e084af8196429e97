"""What a cluster can grow to, from files as `ray up` leaves them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.machines.node_types import NodeType, node_types, nodes_to_come, types_of_cluster
from vit_trainer.errors import InputError

P4D = NodeType("p4d", 96, 8, 4, "p4d.24xlarge")
GCP = NodeType("a2", 96, 8, 2, "a2-highgpu-8g")


@pytest.fixture
def launched_with(tmp_path: Path) -> Path:
    config = {
        "max_workers": 4,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}},
            "p4d": {
                "resources": {"CPU": 96, "GPU": 8},
                "max_workers": 10,
                "node_config": {"InstanceType": "p4d.24xlarge"},
            },
            "a2": {
                "resources": {"CPU": 96, "GPU": 8},
                "max_workers": 2,
                "node_config": {"machineType": "a2-highgpu-8g"},
            },
            "own": {"resources": {}, "node_config": {}},
        },
    }
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(json.dumps(config))  # as `ray up` writes it
    return path


def test_the_workers_of_a_cluster_file(launched_with: Path) -> None:
    kinds = [P4D, GCP, NodeType("own", 0, 0, 4)]
    assert node_types(launched_with) == [replace(kind, max_of_all=4) for kind in kinds]


def test_a_head_with_gpus_is_one_of_them_and_lives_already_where_a_sweep_runs() -> None:
    kinds = node_types(Path(__file__).parents[3] / "clusters" / "one-gpu.yaml")
    assert kinds == [NodeType("gpu", 8, 1, 1, "g5.2xlarge")]
    assert nodes_to_come(kinds, []) == kinds
    assert nodes_to_come(kinds, [HEAD | {"Labels": {"ray.io/node-group": "gpu"}}]) == []


def test_a_file_of_own_hosts_names_no_kinds() -> None:
    assert node_types(Path(__file__).parents[3] / "clusters" / "local.yaml") == []


@pytest.mark.parametrize(
    "text",
    ["{", "- 1", "max_workers: 2", "available_node_types: 3", "{available_node_types: {a: 3}}", "kind: RayCluster"],
)
def test_another_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"is no cluster file .*: give one that `ray up` takes") as raised:
        node_types(path)
    assert "\n" not in str(raised.value)


HEAD = {
    "Alive": True,
    "Resources": {"node:__internal_head__": 1.0},
    "NodeManagerAddress": "10.0.0.1",
    "Labels": {"ray.io/node-group": "head"},
}
WORKER = {"Alive": True, "Resources": {}, "NodeManagerAddress": "10.0.0.2", "Labels": {"ray.io/node-group": "p4d"}}


def test_living_nodes_of_a_type_are_not_counted_twice() -> None:
    nodes = [HEAD, WORKER, WORKER | {"Alive": False}]
    assert nodes_to_come([P4D], nodes) == [P4D] * 3
    assert nodes_to_come([P4D], [*nodes, *[WORKER] * 9]) == []


def test_kinds_together_are_no_more_than_the_cluster_may_have(launched_with: Path) -> None:
    kinds = node_types(launched_with)
    assert [kind.name for kind in nodes_to_come(kinds, [])] == ["p4d"] * 4
    other = HEAD | {"Labels": {"ray.io/node-group": "a2"}, "Resources": {}}
    assert [kind.name for kind in nodes_to_come(kinds, [HEAD, other, WORKER])] == ["p4d"] * 2


def test_the_file_speaks_of_the_cluster_that_was_launched_with_it_alone(launched_with: Path) -> None:
    assert types_of_cluster([HEAD, WORKER], "10.0.0.1", launched_with)[0] == replace(P4D, max_of_all=4)
    assert types_of_cluster([HEAD, WORKER], "10.0.0.2", launched_with) == []
    assert types_of_cluster([HEAD | {"Labels": {}}, WORKER], "10.0.0.1", launched_with) == []
    assert types_of_cluster([HEAD, WORKER], "10.0.0.1", launched_with.with_name("none.yaml")) == []
