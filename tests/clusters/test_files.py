"""The cluster files against Ray's own schema and validators, and against what this project promises of them."""

import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from sweeps.checks.cluster_file_promises import broken, commands

CLUSTERS = Path(__file__).parents[2] / "clusters"
FILES = sorted(path for path in CLUSTERS.glob("*.yaml") if path.name != "kuberay.yaml")
"""Those for `ray up`; test_kuberay.py has the other."""
CLOUD = [path for path in FILES if path.name != "local.yaml"]


def content(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ray_accepts_it(path: Path) -> None:
    validate_config(prepare_config(content(path)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_keeps_all_promises(path: Path) -> None:
    assert list(broken(content(path), path.read_text())) == []
    assert "chmod 600 ~/.ray/auth_token" in (CLUSTERS / "setup.sh").read_text()
    assert "--constraint constraints.txt" in (CLUSTERS / "setup.sh").read_text()
    assert "--host 127.0.0.1" in (CLUSTERS / "mlflow.sh").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_opens_with_the_commands(path: Path) -> None:
    text = path.read_text()
    opening = text[: text.index("cluster_name")]
    for word in ("once", "launch", "tunnel", "submit", "watch", "MLflow", "stop"):
        assert re.search(rf"^#   {word} ", opening, re.MULTILINE), word
    assert f"ray up clusters/{path.name}" in opening


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_command_of_rays_own_brings_other_versions(path: Path) -> None:
    assert content(path)["file_mounts"]["~/vit-sweeps"] == "."
    assert not re.search(r"pip install|ray==", commands(prepare_config(content(path))))


@pytest.mark.parametrize("path", CLOUD, ids=lambda path: path.name)
def test_in_a_cloud_the_head_is_cheap_and_workers_come_and_go(path: Path) -> None:
    config = content(path)
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"]["GPU"] == 0
    assert "watchdog.sh 60" in commands(config)
    assert "vit_trainer fetch" in commands(config, "setup_commands")  # on the head too: a sweep looks there first
    for worker in types.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= config["max_workers"]
        assert worker["resources"]["GPU"] == 8


def test_on_aws_each_kind_has_its_role_and_workers_are_spot() -> None:
    config = content(CLUSTERS / "a100.yaml")
    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        assert node["IamInstanceProfile"]["Name"] == ("vit-sweeps-head" if name == "head" else "vit-sweeps-worker")
        assert ("InstanceMarketOptions" in node) == (name != "head")


def test_on_google_cloud_machines_are_shielded_have_little_to_say_and_workers_are_spot() -> None:
    config = content(CLUSTERS / "gcp-a100.yaml")
    project, zone = config["provider"]["project_id"], config["provider"]["availability_zone"]
    once = (CLUSTERS / "gcp-once.sh").read_text()
    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        assert all(node["shieldedInstanceConfig"].values())
        (account,) = node["serviceAccounts"]
        role = "head" if name == "head" else "worker"
        assert account["email"] == f"vit-sweeps-{role}@{project}.iam.gserviceaccount.com"
        assert all(scope.endswith("/cloud-platform") == (name == "head") for scope in account["scopes"])
        (network,) = node["networkInterfaces"]  # of its own: Ray opens nothing, and the default one is open
        assert network["network"] == f"projects/{project}/global/networks/vit-sweeps"
        assert all(f"/{zone}/" in disk["initializeParams"]["diskType"] for disk in node["disks"])
        assert (node.get("scheduling", {}).get("provisioningModel") == "SPOT") == (name != "head")
    assert re.findall(r"--allow (\S+) --source-ranges (\S+)", once) == [
        ("tcp:22", '"$addresses"'),
        ("all", "10.128.0.0/9"),
    ]


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_stop_at_the_first_error(path: Path) -> None:
    assert "set -euo pipefail" in path.read_text()
    assert not path.stat().st_mode & stat.S_IWOTH
