"""The doctor as a user calls it: on cluster files, on this machine, on real clusters with something wrong."""

import copy
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from sweeps.launch_checks import check_launch
from sweeps.node_checks import _open_ports
from sweeps.promises import broken
from vit_trainer.hardware import measure_all_reduce

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"


def doctor(*arguments: str, address: str = "local", **environment: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "doctor.py"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        | {"RAY_ADDRESS": address, "AWS_EC2_METADATA_DISABLED": "true"}
        | environment,
        timeout=200,
    )
    return done.returncode, (done.stdout + (done.stderr if done.returncode == 2 else "")).splitlines()


def line(lines: list[str], what: str) -> str:
    (found,) = (each for each in lines if each[6:].startswith(f"{what}:"))
    return found


# --- a cluster file


def test_without_credentials_it_says_exactly_what_is_missing(tmp_path: Path) -> None:
    code, lines = doctor("--cluster", str(CLUSTERS / "a100.yaml"), HOME=str(tmp_path))
    make = "make it with (umask 077; ray get-auth-token --generate > /dev/null)"
    assert code == 1
    assert [each for each in lines if each.startswith("FAIL")] == [
        f"FAIL  token: no {tmp_path}/.ray/auth_token: {make}",
        "FAIL  credentials: none for AWS: aws configure, or set AWS_PROFILE",
    ]
    assert line(lines, "schema") == "ok    schema: Ray accepts the file"
    assert "384 vCPUs" in line(lines, "profiles, images, quota, security group")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read"),
        ("a: 1", "is no cluster file"),
        (None, "can't be read ([Errno 2]"),
    ],
)
def test_what_is_no_cluster_file_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    code, lines = doctor("--cluster", str(path))
    assert code == 2
    assert len(lines) == 1
    assert message in lines[0]


def test_a_file_that_ray_refuses_fails(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text((CLUSTERS / "a100.yaml").read_text() + "\nmax_wokers: 3\n")
    found = {finding.what: finding for finding in check_launch(path)}
    assert found["schema"].kind == "FAIL"
    assert "'max_wokers' was unexpected" in found["schema"].detail


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        del config[keys[-1]]

    return change


def put(value: Any, *keys: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


def in_starts(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        commands = config["head_start_ray_commands"]
        assert any(old in command for command in commands)
        config["head_start_ray_commands"] = [command.replace(old, new) for command in commands]

    return change


P4D = ("available_node_types", "p4d")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_starts("RAY_AUTH_MODE=token", ""), "anybody on the network could run code"),
        (in_starts("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "lacks --dashboard-host=127.0.0.1"),
        (in_starts("RAY_health_check_timeout_ms=2000", "RAY_health_check_timeout_ms=20000"), "isn't noticed in 30 s"),
        (in_starts("RAY_health_check_period_ms=1000", ""), "isn't noticed in 30 s"),
        (in_starts("clusters/watchdog.sh", "true"), "a forgotten head would run for ever"),
        (drop("file_mounts", "~/.ray/auth_token"), "nodes can't know the token"),
        (put(["pip install ray"], "setup_commands"), "which installs the versions of constraints.txt"),
        (put(60, "idle_timeout_minutes"), "workers would outlive the sweep"),
        (
            put({"CPU": 4, "GPU": 0}, "available_node_types", "head", "resources"),
            "trials would run where the driver does",
        ),
        (put(1, *P4D, "min_workers"), "GPUs would cost money without a sweep"),
        (put([{"FromPort": 8265}], "provider", "security_group", "IpPermissions"), "has rules of its own"),
        (drop(*P4D, "node_config", "MetadataOptions"), "p4d lacks MetadataOptions.HttpTokens"),
        (put([{"Ebs": {}}], *P4D, "node_config", "BlockDeviceMappings"), "p4d has a disk without Ebs.Encrypted"),
        (drop(*P4D, "node_config", "IamInstanceProfile"), "would make a role with all rights"),
    ],
)
def test_each_broken_promise_is_named(change: Callable[[dict[str, Any]], None], said: str) -> None:
    text = (CLUSTERS / "a100.yaml").read_text()
    config = yaml.safe_load(text)
    assert not list(broken(config, text))
    changed = copy.deepcopy(config)
    change(changed)
    (problem,) = broken(changed, text)
    assert said in problem


def test_a_secret_in_the_file_is_noticed() -> None:
    text = (CLUSTERS / "a100.yaml").read_text()
    (problem,) = broken(yaml.safe_load(text), text + "\n# AKIAABCDEFGHIJKLMNOP\n")
    assert "a secret seems to stand in the file" in problem


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An AWS account with the roles of aws-iam.template and the file's images, and a token at home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    (tmp_path / ".ray" / "auth_token").chmod(0o600)
    with mock_aws():
        boto3.client("cloudformation", region_name="us-east-1").create_stack(
            StackName="vit-sweeps",
            TemplateBody=(CLUSTERS / "aws-iam.template").read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "my-bucket"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield boto3


def test_an_account_that_has_all(account: Any) -> None:
    found = {finding.what: finding for finding in check_launch(CLUSTERS / "a100.yaml")}
    assert found["token"].kind == found["credentials"].kind == "ok"
    assert found["profile vit-sweeps-head"].detail == "with role vit-sweeps-head"
    assert found["security group"].detail.startswith("vit-sweeps isn't there yet")
    assert '384 vCPUs of "All P4 … Spot Instance Requests" are needed' in found["quota"].detail


def test_an_account_with_a_port_open_and_a_role_missing(account: Any) -> None:
    iam = account.client("iam")
    iam.remove_role_from_instance_profile(InstanceProfileName="vit-sweeps-head", RoleName="vit-sweeps-head")
    iam.delete_instance_profile(InstanceProfileName="vit-sweeps-head")
    ec2 = account.client("ec2", region_name="us-east-1")
    group = ec2.create_security_group(GroupName="vit-sweeps", Description="nodes")["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    found = {finding.what: finding for finding in check_launch(CLUSTERS / "a100.yaml")}
    assert found["security group"].kind == "ok"
    assert found["profile vit-sweeps-head"].kind == "FAIL"
    assert "aws-iam.template" in found["profile vit-sweeps-head"].detail
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule | {"FromPort": 8265, "ToPort": 8265}])
    found = {finding.what: finding for finding in check_launch(CLUSTERS / "a100.yaml")}
    assert found["security group"].kind == "FAIL"
    assert "opens ports 8265 to 8265 to the world" in found["security group"].detail


def test_a_token_that_others_can_read_fails(account: Any, tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.chmod(0o644)
    found = {finding.what: finding for finding in check_launch(CLUSTERS / "a100.yaml")}
    assert found["token"].detail == f"{token} has mode 644, others can read it: chmod 600 {token}"
    assert stat.S_IMODE(token.stat().st_mode) == 0o644


def test_hosts_that_do_not_answer_are_named(tmp_path: Path) -> None:
    if not shutil.which("ssh"):
        pytest.skip("needs ssh: apt-get install openssh-client")
    config = yaml.safe_load((CLUSTERS / "local.yaml").read_text())
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"] = {"ssh_user": "nobody", "ssh_private_key": str(tmp_path / "key")}
    path = tmp_path / "local.yaml"
    path.write_text(yaml.safe_dump(config))
    found = {finding.what: finding for finding in check_launch(path)}
    assert found["SSH key"].kind == "FAIL"
    (tmp_path / "key").write_text("")
    found = {finding.what: finding for finding in check_launch(path)}
    assert found["host 127.0.0.1"].kind == "FAIL"


# --- this machine, and clusters


def test_this_machine_is_ready_for_the_miniature(tmp_path: Path) -> None:
    code, lines = doctor("--preset", "mini", "--storage", str(tmp_path / "results"))
    assert code == 0, lines
    assert line(lines, "storage") == f"ok    storage: {tmp_path / 'results'} is written from this machine"
    assert line(lines, "checkpoints and data sets").startswith("ok")
    assert not list((tmp_path / "results").iterdir())


def test_what_the_papers_grid_lacks_here(tmp_path: Path) -> None:
    empty = {"VIT_CHECKPOINTS": str(tmp_path), "VIT_DATA": str(tmp_path)}
    arguments = ["--preset", "paper", "--models", "ViT-B_16", "--datasets", "cifar10", "--storage", str(tmp_path / "a")]
    code, lines = doctor(*arguments, "--tracking-uri", "http://127.0.0.1:1", **empty)
    assert code == 1
    assert any(
        "no imagenet21k checkpoint of ViT-B_16: run python -m vit_trainer fetch ViT-B_16" in each for each in lines
    )
    assert any(each.startswith("warn") and "no cifar-10-batches-py" in each for each in lines)
    assert line(lines, "MLflow").startswith("FAIL  MLflow: MLflow at http://127.0.0.1:1 can't be used")


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_nodes_with_a_storage_of_their_own_and_gpus_that_are_none(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1, num_gpus=2)
    code, lines = doctor("--preset", "mini", "--storage", str(tmp_path / "results"), address=cluster.address)
    assert line(lines, "storage").endswith("is written from 3 nodes")
    assert line(lines, "versions").endswith("the same on 3 nodes")
    assert line(lines, "clocks").startswith("ok")
    assert "Ray counts 2, PyTorch can use 0 (no NVIDIA driver)" in line(lines, "GPUs")
    assert code == 1
    code, lines = doctor("--preset", "mini", "--storage", "/proc/nowhere", address=cluster.address)
    assert sum("can't write to /proc/nowhere" in each for each in lines) == 3
    assert code == 1


def test_a_port_that_all_of_the_network_reaches_is_noticed() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("0.0.0.0", 8265))
        except OSError:
            pytest.skip("port 8265 is taken")
        listener.listen()
        assert any("dashboard listens on 0.0.0.0:8265" in problem for _, problem in _open_ports())
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 8265))
        listener.listen()
        assert not any("127.0.0.1:8265" in problem for _, problem in _open_ports())


@pytest.mark.slow
def test_an_all_reduce_has_a_bandwidth() -> None:
    assert measure_all_reduce(2, dict(os.environ)) > 1e6
