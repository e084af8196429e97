"""What this project's cluster files promise beyond Ray's schema, each with how a file may break it."""

import re
from collections.abc import Iterator
from typing import Any

MAX_SECONDS_TO_NOTICE = 30
"""Until a node that is silent counts as dead."""
IDLE_MINUTES = 5
"""After which a worker without a trial goes."""


def commands(config: dict[str, Any], *kinds: str) -> str:
    """The shell commands of a file for `ray up`, a line each; all of them unless some kinds are named."""
    kinds = kinds or (
        "initialization_commands",
        "setup_commands",
        "head_setup_commands",
        "worker_setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
    )
    return "\n".join(command for kind in kinds for command in config.get(kind) or [])


def broken(config: dict[str, Any], text: str) -> Iterator[str]:
    """What a file for `ray up` doesn't keep, a line each.

    Args:
        config: its parsed content.
        text: the file itself.
    """
    yield from _broken_by_starts(config)
    if config.get("file_mounts", {}).get("~/.ray/auth_token") != "~/.ray/auth_token":
        yield "file_mounts lacks ~/.ray/auth_token: nodes can't know the token"
    if "clusters/setup.sh" not in commands(config) or re.search(r"pip install|ray==", commands(config)):
        yield "setup_commands must run clusters/setup.sh, which installs the versions of constraints.txt, and no other"
    if re.search(r"(?i)(secret|password|access_key|token)\S*:\s*[\"']?[A-Za-z0-9/+]{16,}|AKIA[0-9A-Z]{16}", text):
        yield "a secret seems to stand in the file: leave it to the machines' roles or the environment"
    before, start, _ = commands(config, "worker_start_ray_commands").partition("ray start")
    if start and "vit-sweeps check-node" not in before:
        yield "worker_start_ray_commands lacks vit-sweeps check-node before ray start: broken nodes would join"
    if config.get("provider", {}).get("type") != "local":
        yield from _broken_in_a_cloud(config)
    if config.get("provider", {}).get("type") == "aws":
        yield from _broken_on_aws(config)


def _broken_by_starts(config: dict[str, Any]) -> Iterator[str]:
    starts = re.findall(r"[^;&]*ray start [^;&]*", commands(config))
    if not starts or not all("RAY_AUTH_MODE=token" in start for start in starts):
        yield "RAY_AUTH_MODE=token is missing before a ray start: anybody on the network could run code"
    head = next((start for start in starts if "--head" in start), "")
    if "--dashboard-host=127.0.0.1" not in head:
        yield "the head's ray start lacks --dashboard-host=127.0.0.1: the dashboard runs code too"
    if _seconds_to_notice(dict(re.findall(r"RAY_health_check_(\w+)=(\d+)", head))) > MAX_SECONDS_TO_NOTICE:
        yield f"RAY_health_check_… before the head's ray start: a dead node isn't noticed in {MAX_SECONDS_TO_NOTICE} s"


def _seconds_to_notice(settings: dict[str, str]) -> float:
    """Until a silent node counts as dead, at worst; what isn't set is Ray's own."""
    defaults = (("period_ms", 3000), ("timeout_ms", 10_000), ("failure_threshold", 5))
    period, timeout, threshold = (int(settings.get(name, default)) for name, default in defaults)
    return threshold * (period + timeout) / 1000


def _broken_in_a_cloud(config: dict[str, Any]) -> Iterator[str]:
    kinds = dict(config.get("available_node_types") or {})
    head = kinds.pop(config.get("head_node_type"), {})
    is_alone = not config.get("max_workers", 0)
    slots = head.get("resources") or {}
    if not is_alone and (slots.get("GPU", 0) or slots.get("CPU", 1)):
        yield "the head's resources must be CPU: 0 and GPU: 0: trials would run where the driver does"
    if any(kind.get("min_workers", 0) for kind in kinds.values()):
        yield "min_workers above 0: GPUs would cost money without a sweep"
    if not is_alone and not 0 < config.get("idle_timeout_minutes", 0) <= IDLE_MINUTES:
        yield f"idle_timeout_minutes above {IDLE_MINUTES}, or none: workers would outlive the sweep"
    if "clusters/watchdog.sh" not in commands(config, "head_start_ray_commands"):
        yield "head_start_ray_commands lacks clusters/watchdog.sh: a forgotten head would run for ever"


def _broken_on_aws(config: dict[str, Any]) -> Iterator[str]:
    if set(config["provider"].get("security_group") or {}) - {"GroupName"}:
        yield "provider.security_group has rules of its own: Ray's are SSH from outside, and all among the nodes"
    for name, kind in (config.get("available_node_types") or {}).items():
        node = kind.get("node_config") or {}
        if (node.get("MetadataOptions") or {}).get("HttpTokens") != "required":
            yield f"{name} lacks MetadataOptions.HttpTokens: required (IMDSv2): a page could read the machine's keys"
        disks = node.get("BlockDeviceMappings") or []
        if not disks or not all((disk.get("Ebs") or {}).get("Encrypted") for disk in disks):
            yield f"{name} has a disk without Ebs.Encrypted"
        if "IamInstanceProfile" not in node:
            yield f"{name} lacks IamInstanceProfile: Ray would make a role with all rights on EC2 and S3"


def broken_in_kubernetes(documents: list[dict[str, Any]]) -> Iterator[str]:
    """What a file for KubeRay doesn't keep, a line each.

    Args:
        documents: its objects, a RayCluster among them.
    """
    cluster = next(document for document in documents if document.get("kind") == "RayCluster")
    spec = cluster.get("spec") or {}
    head, workers = spec.get("headGroupSpec") or {}, spec.get("workerGroupSpecs") or []
    params = head.get("rayStartParams") or {}
    if (spec.get("authOptions") or {}).get("mode") != "token":
        yield "spec.authOptions.mode isn't token: anybody on the network could run code"
    if params.get("dashboard-host") != "127.0.0.1":
        yield "the head's rayStartParams lack dashboard-host: 127.0.0.1: the dashboard runs code too"
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress", False):
        yield "headGroupSpec opens the head to the outside: serviceType must be ClusterIP, without enableIngress"
    if not any(document.get("kind") == "NetworkPolicy" for document in documents):
        yield "there is no NetworkPolicy: every pod of Kubernetes could reach the nodes"
    if [params.get("num-cpus"), params.get("num-gpus")] != ["0", "0"]:
        yield 'rayStartParams of the head must be num-cpus: "0", num-gpus: "0": trials would run where the driver does'
    containers = ((head.get("template") or {}).get("spec") or {}).get("containers") or [{}]
    env = {
        each["name"].removeprefix("RAY_health_check_"): each.get("value", "") for each in containers[0].get("env", [])
    }
    if _seconds_to_notice(env) > MAX_SECONDS_TO_NOTICE:
        yield f"RAY_health_check_… in the head's env: a dead node isn't noticed in {MAX_SECONDS_TO_NOTICE} s"
    if any(group.get("minReplicas", 0) for group in workers):
        yield "minReplicas above 0: GPUs would cost money without a sweep"
    idle_seconds = (spec.get("autoscalerOptions") or {}).get("idleTimeoutSeconds", 60)  # KubeRay's own
    if not spec.get("enableInTreeAutoscaling", False) or idle_seconds > 60 * IDLE_MINUTES:
        yield f"no autoscaling, or idleTimeoutSeconds above {60 * IDLE_MINUTES}: workers would outlive the sweep"
