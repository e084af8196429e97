"""What a cluster can grow to, from files as `ray up` leaves them."""

from pathlib import Path

import pytest
import yaml

from sweeps.growth import NodeType, node_types, nodes_to_come
from vit_trainer.errors import InputError

P4D = NodeType("p4d", 96, 8, 4)


def test_the_workers_of_a_cluster_file(tmp_path: Path) -> None:
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
    path.write_text(yaml.safe_dump(config))
    assert node_types(path) == [P4D, NodeType("own", 0, 0, 4)]


def test_without_a_file_nothing_comes(tmp_path: Path) -> None:
    assert node_types(tmp_path / "ray_bootstrap_config.yaml") == []


@pytest.mark.parametrize(
    "text", ["{", "- 1", "max_workers: 2", "available_node_types: 3", "{available_node_types: {a: 3}}"]
)
def test_another_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="is no cluster file .*: run `ray up` again, or move it away") as raised:
        node_types(path)
    assert "\n" not in str(raised.value)


def test_living_nodes_of_a_type_are_not_counted_twice() -> None:
    label = {"ray.io/node-group": "p4d"}
    nodes = [
        {"Alive": True, "Labels": {"ray.io/node-group": "head"}},
        {"Alive": True, "Labels": label},
        {"Alive": False, "Labels": label},
    ]
    assert nodes_to_come([P4D], nodes) == [P4D] * 3
    assert nodes_to_come([P4D], [*nodes, *[{"Alive": True, "Labels": label}] * 9]) == []
