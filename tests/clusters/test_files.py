"""The cluster files against Ray's own schema and validators, and against what this project promises of them."""

import re
import stat
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from sweeps import paper_grid
from sweeps.checks.cluster_file_promises import broken, commands
from sweeps.machines.offers import IMAGES, MACHINES, NEEDED_DRIVER

CLUSTERS = Path(__file__).parents[2] / "clusters"
FILES = sorted(path for path in CLUSTERS.glob("*.yaml") if path.name not in ("kuberay.yaml", "skypilot.yaml"))
"""Those for `ray up`; test_kuberay.py and test_skypilot.py have the others."""
CLOUD = [path for path in FILES if path.name != "local.yaml"]
AWS = [path for path in CLOUD if not path.name.startswith("gcp")]
GROWING = [path for path in CLOUD if path.name != "one-gpu.yaml"]
"""With a head that has no GPU, and workers that come and go."""


def content(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ray_accepts_it(path: Path) -> None:
    validate_config(prepare_config(content(path)))


@pytest.mark.parametrize("lines", [{"external_head_ip": "198.51.100.7"}, {"worker_ips": []}])
def test_ray_accepts_the_lines_for_rented_machines(lines: dict[str, Any]) -> None:
    config = content(CLUSTERS / "local.yaml")
    config["provider"] |= lines
    validate_config(prepare_config(config))


@pytest.mark.parametrize(("machine", "cpus", "gpus"), [("a3-highgpu-8g", 208, 8), ("a2-highgpu-1g", 12, 1)])
def test_google_clouds_other_machines_are_the_lines_that_the_file_names(machine: str, cpus: int, gpus: int) -> None:
    text = (CLUSTERS / "gcp-a100.yaml").read_text()
    (said,) = re.findall(rf"^# .*machineType {machine}, (.*)", text, re.MULTILINE)
    assert f'"CPU": {cpus}' in said
    assert ('"GPU": 1, --gpus 1, max_workers: 1' in said) == (gpus == 1)
    config = content(CLUSTERS / "gcp-a100.yaml")
    worker = config["available_node_types"]["a2"]
    worker["resources"] = {"CPU": cpus, "GPU": gpus}
    worker["node_config"]["machineType"] = machine
    validate_config(prepare_config(config))
    assert MACHINES[machine].num_gpus == gpus


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


@pytest.mark.parametrize("path", GROWING, ids=lambda path: path.name)
def test_in_a_cloud_the_head_is_cheap_and_has_no_data_and_workers_come_and_go(path: Path) -> None:
    config = content(path)
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"]["GPU"] == 0
    assert "inputs.sh cifar10 " in commands(config, "worker_setup_commands")
    assert not re.search("inputs.sh|vit_trainer", commands(config, "setup_commands", "head_setup_commands"))
    for worker in types.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= config["max_workers"]
        assert worker["resources"]["GPU"] == 8


@pytest.mark.parametrize("path", CLOUD, ids=lambda path: path.name)
def test_in_a_cloud_machines_have_as_many_gpus_as_asked_for_and_a_driver_for_the_pinned_pytorch(path: Path) -> None:
    config = content(path)
    assert "watchdog.sh 60" in commands(config, "head_start_ray_commands")
    for kind in config["available_node_types"].values():
        if not (num_gpus := kind["resources"]["GPU"]):
            continue
        node = kind["node_config"]
        assert MACHINES[node.get("InstanceType") or node["machineType"]].num_gpus == num_gpus
        assert f"check-node --gpus {num_gpus}" in commands(config)
        (name,) = (name for name in IMAGES if name in str(node))
        assert int(IMAGES[name].driver.partition(".")[0]) >= NEEDED_DRIVER


def test_the_driver_that_is_needed_is_that_of_the_cuda_that_pytorch_brings() -> None:
    (runtime,) = re.findall(r"^nvidia-cuda-runtime==(\d+)", (CLUSTERS.parent / "constraints.txt").read_text(), re.M)
    assert (runtime, NEEDED_DRIVER) == ("13", 580)  # another CUDA needs another: see where offers.py has it from


@pytest.mark.parametrize("path", CLOUD, ids=lambda path: path.name)
def test_the_bucket_stands_in_one_place(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"(?:s3|gs)://\S+", text) == [f"{'gs' if path.name.startswith('gcp') else 's3'}://my-bucket"]
    assert "BUCKET" not in text
    assert "clusters/bucket" in (CLUSTERS.parent / ".gitignore").read_text().split()


def test_h100_is_a100_on_other_machines() -> None:
    lines = [(CLUSTERS / f"{name}.yaml").read_text() for name in ("a100", "h100")]
    bodies = [text[text.index("cluster_name") :].splitlines() for text in lines]
    differing = [new for old, new in zip(*bodies, strict=True) if old != new]
    words = ("cluster_name: vit-h100", "p5:", 'resources: {"CPU": 192, "GPU": 8}', "InstanceType: p5.48xlarge")
    assert [line.strip().startswith(word) for line, word in zip(differing, words, strict=True)] == [True] * 4


@pytest.mark.parametrize("path", AWS, ids=lambda path: path.name)
def test_on_aws_each_kind_has_its_role_and_workers_are_spot(path: Path) -> None:
    config = content(path)
    for name, node_type in config["available_node_types"].items():
        node, is_head = node_type["node_config"], name == config["head_node_type"]
        starts_others = is_head and config["max_workers"]
        role = "head" if starts_others else "worker"
        assert node["IamInstanceProfile"]["Name"] == f"vit-sweeps-{role}"
        assert ("InstanceMarketOptions" in node) == (not is_head)
        assert node["InstanceInitiatedShutdownBehavior"] == ("stop" if is_head else "terminate")
        (disk,) = node["BlockDeviceMappings"]
        assert starts_others or disk["Ebs"]["Throughput"] > 125  # gp3's own


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


PLANNED = ("a100.yaml", "h100.yaml", "gcp-a100.yaml")


@pytest.mark.parametrize("name", PLANNED)
def test_the_pages_hours_and_dollars_are_the_plans(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = ["--preset", "paper", "--plan", "--cluster", str(CLUSTERS / name), "--storage", str(tmp_path)]
    assert paper_grid.app(plan) == 0
    of_all = capsys.readouterr().out
    assert paper_grid.app([*plan, "--base-lrs", "official"]) == 0
    of_official = capsys.readouterr().out
    assert not ray.is_initialized()  # a laptop's plan of a cluster starts nothing
    expected, whole = re.findall(r"(\S+) GPU-hours \((\S+)\)|\((\S+ to \S+)\) expected", of_all)
    (official,) = re.findall(r"cost: (\S+) GPU-hours \((\S+)\)", of_official)
    (hours,) = re.findall(r"wall time: (\S+ h) ", of_official)
    said = f"{whole[0]} GPU-hours, {whole[1]} | {expected[2]} | {official[0]} GPU-hours, {official[1]} | {hours} |"
    row = re.sub(r"\$([\d,.]+)", lambda dollars: f"${float(dollars[1].replace(',', '')):,.0f}", said)
    assert f"| `{name}` | {row}\n" in (CLUSTERS / "README.md").read_text()
