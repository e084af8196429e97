"""clusters/kuberay.yaml against the fields that KubeRay knows, and against what this project promises of it."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sweeps.checks.cluster_file_promises import broken_in_kubernetes
from sweeps.machines.node_types import node_types

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "clusters" / "kuberay.yaml").read_text()
OBJECTS: dict[str, Any] = {found["kind"]: found for found in yaml.safe_load_all(TEXT)}
SPEC = OBJECTS["RayCluster"]["spec"]
HEAD = SPEC["headGroupSpec"]["template"]["spec"]
(GROUP,) = SPEC["workerGroupSpecs"]
WORKER = GROUP["template"]["spec"]
SCHEMA = json.loads((Path(__file__).parent / "raycluster_schema.json").read_text())


def ray_container(pod: dict[str, Any]) -> dict[str, Any]:
    """The one that KubeRay takes for Ray's: the first."""
    return dict(pod["containers"][0])


def test_kuberay_knows_every_field() -> None:
    jsonschema.validate(OBJECTS["RayCluster"], SCHEMA)


@pytest.mark.parametrize("where", [("spec",), ("spec", "headGroupSpec"), ("spec", "autoscalerOptions")])
def test_a_misspelt_field_is_noticed(where: tuple[str, ...]) -> None:
    cluster = json.loads(json.dumps(OBJECTS["RayCluster"]))
    part = cluster
    for key in where:
        part = part[key]
    part["maxWorkers"] = 4
    with pytest.raises(jsonschema.ValidationError, match="'maxWorkers' was unexpected"):
        jsonschema.validate(cluster, SCHEMA)


def test_it_opens_with_the_commands_and_holds_no_secret() -> None:
    opening = TEXT[: TEXT.index("apiVersion")]
    for word in ("once", "launch", "tunnel", "submit", "watch", "MLflow", "stop"):
        assert re.search(rf"^#   {word} ", opening, re.MULTILINE), word
    assert "Secret" not in OBJECTS


def test_it_keeps_what_the_project_promises() -> None:
    assert list(broken_in_kubernetes(list(OBJECTS.values()))) == []


def test_mlflow_and_the_pods_are_closed_to_the_outside() -> None:
    mlflow = next(container for container in HEAD["containers"] if container["name"] == "mlflow")
    assert mlflow["command"][mlflow["command"].index("--host") + 1] == "127.0.0.1"
    policy = OBJECTS["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/cluster": OBJECTS["RayCluster"]["metadata"]["name"]}}
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": policy["podSelector"]}]}]


@pytest.mark.parametrize("pod", [HEAD, WORKER], ids=["head", "worker"])
def test_no_container_is_or_becomes_root(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    contexts = [container["securityContext"] for container in pod.get("initContainers", []) + pod["containers"]]
    for context in [*contexts, SPEC["autoscalerOptions"]["securityContext"]]:
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("pod", [HEAD, WORKER], ids=["head", "worker"])
def test_every_volume_and_object_that_is_mounted_exists(pod: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = [mount for part in pod.get("initContainers", []) + pod["containers"] for mount in part["volumeMounts"]]
    assert {mount["name"] for mount in mounted} == set(volumes)
    for volume in volumes.values():
        for kind, name in (
            ("ConfigMap", ("configMap", "name")),
            ("PersistentVolumeClaim", ("persistentVolumeClaim", "claimName")),
        ):
            if name[0] in volume:
                assert volume[name[0]][name[1]] == OBJECTS[kind]["metadata"]["name"]


def test_a_worker_is_a_node_with_eight_gpus() -> None:
    assert GROUP["maxReplicas"] == 4
    assert ray_container(WORKER)["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_a_sweep_on_the_head_counts_the_workers_that_may_come(tmp_path: Path) -> None:
    (path,) = (mount for mount in ray_container(HEAD)["volumeMounts"] if mount["name"] == "growth")
    assert path["mountPath"] == f"/home/ray/{path['subPath']}"
    file = tmp_path / path["subPath"]
    file.write_text(OBJECTS["ConfigMap"]["data"][path["subPath"]])
    limits = ray_container(WORKER)["resources"]["limits"]
    (found,) = node_types(file)
    assert (found.name, found.num_cpus, found.num_gpus, found.max_workers) == (
        GROUP["groupName"],
        int(limits["cpu"]),
        int(limits["nvidia.com/gpu"]),
        GROUP["maxReplicas"],
    )


def test_the_image_has_the_projects_ray_and_everything_that_is_copied_exists() -> None:
    dockerfile = (ROOT / "clusters" / "Dockerfile").read_text()
    (version,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert SPEC["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-py311\n" in dockerfile
    assert "--constraint constraints.txt" in dockerfile
    sources = [
        name for line in re.findall(r"^COPY --\S+ (.+)$", dockerfile, re.MULTILINE) for name in line.split()[:-1]
    ]
    assert all((ROOT / name).exists() for name in sources)
