"""What a cluster can grow to, from files as `ray up` leaves them."""

import json
from pathlib import Path

import pytest

from sweeps.growth import NodeType, node_types, nodes_to_come
from vit_trainer.errors import InputError

P4D = NodeType("p4d", 96, 8, 4)


@pytest.fixture
def launched_with(tmp_path: Path) -> Path:
    config = {
        "max_workers": 4,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}},
            "p4d": {"resources": {"CPU": 96, "GPU": 8}, "max_workers": 10, "node_config": {}},
            "own": {"resources": {}, "node_config": {}},
        },
    }
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(json.dumps(config))  # as `ray up` writes it
    return path


def test_the_workers_of_a_cluster_file(launched_with: Path) -> None:
    assert node_types(launched_with) == [P4D, NodeType("own", 0, 0, 4)]


def test_without_a_file_nothing_comes(tmp_path: Path) -> None:
    assert node_types(tmp_path / "ray_bootstrap_config.yaml") == []


@pytest.mark.parametrize(
    "text", ["{", "- 1", "max_workers: 2", "available_node_types: 3", "{available_node_types: {a: 3}}"]
)
def test_another_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"is no cluster file .*: run `ray up` again, or move it away") as raised:
        node_types(path)
    assert "\n" not in str(raised.value)


HEAD = {
    "Alive": True,
    "Resources": {"node:__internal_head__": 1.0},
    "NodeManagerAddress": "10.0.0.1",
    "Labels": {"ray.io/node-group": "head"},
}
WORKER = {"Alive": True, "Resources": {}, "NodeManagerAddress": "10.0.0.2", "Labels": {"ray.io/node-group": "p4d"}}


def test_living_nodes_of_a_type_are_not_counted_twice(launched_with: Path) -> None:
    nodes = [HEAD, WORKER, WORKER | {"Alive": False}]
    assert nodes_to_come(nodes, "10.0.0.1", launched_with).count(P4D) == 3
    assert nodes_to_come([*nodes, *[WORKER] * 9], "10.0.0.1", launched_with).count(P4D) == 0


def test_the_file_speaks_of_the_cluster_that_was_launched_with_it_alone(launched_with: Path) -> None:
    by_hand = HEAD | {"Labels": {}}
    assert nodes_to_come([by_hand, WORKER], "10.0.0.1", launched_with) == []
    assert nodes_to_come([HEAD, WORKER], "10.0.0.2", launched_with) == []
