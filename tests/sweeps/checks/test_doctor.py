"""The doctor as a user calls it: on cluster files, on this machine, on real clusters with something wrong."""

import copy
import functools
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.loaders import JSONFileLoader
from moto import mock_aws

from sweeps.checks.before_launch import check_launch
from sweeps.checks.cluster_file_promises import broken, broken_in_kubernetes
from sweeps.checks.cluster_inputs import check_inputs
from sweeps.checks.inputs import Inputs
from sweeps.checks.on_nodes import (
    Asked,
    _check_gpus,
    _check_storage,
    _clean_up,
    _write,
    check_bucket,
)
from sweeps.checks.open_ports import open_ports
from tests.stores import free_port
from vit_trainer.files.folder import open_folder

ROOT = Path(__file__).parents[3]
CLUSTERS = ROOT / "clusters"


def called(*arguments: str, address: str = "local", **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sweeps" / "doctor.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        | {"RAY_ADDRESS": address, "AWS_EC2_METADATA_DISABLED": "true"}
        | environment,
    )


def answer(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """Exit code and lines of a doctor that was called."""
    out, err = process.communicate(timeout=200)
    return process.returncode, (out + (err if process.returncode == 2 else "")).splitlines()


def doctor(*arguments: str, address: str = "local", **environment: str) -> tuple[int, list[str]]:
    return answer(called(*arguments, address=address, **environment))


def line(lines: list[str], what: str) -> str:
    (found,) = (each for each in lines if each[6:].startswith(f"{what}:"))
    return found


# --- a cluster file


def test_without_credentials_it_says_exactly_what_is_missing(tmp_path: Path) -> None:
    path = shutil.copy(CLUSTERS / "a100.yaml", tmp_path)
    code, lines = doctor("--cluster", path, HOME=str(tmp_path))
    make = "make it with (umask 077; ray get-auth-token --generate > /dev/null)"
    assert code == 1
    assert [each for each in lines if each.startswith("FAIL")] == [
        f"FAIL  token: no {tmp_path}/.ray/auth_token: {make}",
        "FAIL  credentials: none for AWS: aws configure, or set AWS_PROFILE",
        f"FAIL  bucket: {tmp_path}/bucket holds no bucket's name, for clusters/inputs.sh: "
        f"echo s3://my-bucket > {tmp_path}/bucket",
    ]
    assert line(lines, "schema") == "ok    schema: Ray accepts the file"
    assert line(lines, "promises").startswith("ok")
    assert [each[:4].strip() for each in lines] == [*3 * ["FAIL"], "skip", *4 * ["ok"]]
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
        (in_starts("RAY_health_check_timeout_ms=2000", ""), "isn't noticed in 30 s"),
        (in_starts("clusters/watchdog.sh", "true"), "a forgotten head would run for ever"),
        (drop("file_mounts", "~/.ray/auth_token"), "nodes can't know the token"),
        (put(["pip install ray"], "setup_commands"), "which installs the versions of constraints.txt"),
        (
            put(["ray start --address=x", "vit-sweeps check-node"], "worker_start_ray_commands"),
            "broken nodes would join",
        ),
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


HEAD = ("spec", "headGroupSpec")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("spec", "authOptions"), "anybody on the network could run code"),
        (drop(*HEAD, "rayStartParams", "dashboard-host"), "lack dashboard-host: 127.0.0.1"),
        (put("LoadBalancer", *HEAD, "serviceType"), "opens the head to the outside"),
        (put({"num-gpus": "0", "dashboard-host": "127.0.0.1"}, *HEAD, "rayStartParams"), "where the driver does"),
        (put([{"env": []}], *HEAD, "template", "spec", "containers"), "isn't noticed in 30 s"),
        (put([{"minReplicas": 1}], "spec", "workerGroupSpecs"), "GPUs would cost money without a sweep"),
        (put(3600, "spec", "autoscalerOptions", "idleTimeoutSeconds"), "workers would outlive the sweep"),
        (put(False, "spec", "enableInTreeAutoscaling"), "workers would outlive the sweep"),
    ],
)
def test_each_promise_that_a_file_for_kubernetes_breaks_is_named(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    documents = [copy.deepcopy(each) for each in yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())]
    assert not list(broken_in_kubernetes(documents))
    change(next(each for each in documents if each["kind"] == "RayCluster"))
    (problem,) = broken_in_kubernetes(documents)
    assert said in problem
    policies = [each for each in documents if each["kind"] == "NetworkPolicy"]
    assert len(list(broken_in_kubernetes([each for each in documents if each not in policies]))) == 2


def test_a_secret_in_the_file_is_noticed() -> None:
    text = (CLUSTERS / "a100.yaml").read_text()
    (problem,) = broken(yaml.safe_load(text), text + "\n# AKIAABCDEFGHIJKLMNOP\n")
    assert "a secret seems to stand in the file" in problem


@pytest.fixture(scope="module")
def cloud() -> Iterator[Any]:
    """An AWS of our own whose account has the roles of aws-iam.template and the file's images.

    What botocore knows of AWS, megabytes of JSON, is read once instead of by each client.
    """
    read = JSONFileLoader.load_file
    read_once = functools.cache(lambda path: read(JSONFileLoader(), path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda self, path: read_once(path))
        cloud = mock_aws()
        cloud.start()
        boto3.client("cloudformation", region_name="us-east-1").create_stack(
            StackName="vit-sweeps",
            TemplateBody=(CLUSTERS / "aws-iam.template").read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "my-bucket"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        cloud.stop(remove_data=False)
        yield cloud
        cloud.start()
        cloud.stop()


@pytest.fixture
def account(cloud: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """That account, of which every test takes back what it changes, and a token at home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    (tmp_path / ".ray" / "auth_token").chmod(0o600)
    cloud.start(reset=False)
    yield boto3
    cloud.stop(remove_data=False)


@pytest.fixture
def security_group(account: Any) -> Iterator[str]:
    """The id of the file's security group, which lets nobody in."""
    ec2 = account.client("ec2", region_name="us-east-1")
    group: str = ec2.create_security_group(GroupName="vit-sweeps", Description="nodes")["GroupId"]
    yield group
    ec2.delete_security_group(GroupId=group)


@pytest.mark.parametrize(
    ("name", "quota"),
    [
        ("a100", '384 vCPUs of quota "All P4, P3 and P2 Spot Instance Requests"'),
        ("h100", '768 vCPUs of quota "All P5 Spot Instance Requests"'),
        ("one-gpu", '8 vCPUs of quota "Running On-Demand G and VT instances"'),
    ],
)
def test_an_account_that_has_all(account: Any, tmp_path: Path, name: str, quota: str) -> None:
    path = shutil.copy(CLUSTERS / f"{name}.yaml", tmp_path)
    found = {finding.what: finding for finding in check_launch(Path(path))}
    assert found["promises"].kind == "ok"
    assert "echo s3://my-bucket > " in found["bucket"].detail
    assert found["disk"].kind == "ok"
    assert found["token"].kind == found["credentials"].kind == "ok"
    assert found["profile vit-sweeps-worker"].detail == "with role vit-sweeps-worker"
    assert found["security group"].detail.startswith("vit-sweeps isn't there yet")
    assert f"{quota} are needed" in found["quota"].detail


@pytest.mark.parametrize(("source", "is_fine"), [("10.0.0.0/16", True), ("0.0.0.0/1", False), ("::/0", False)])
def test_a_port_may_be_open_to_private_addresses_only(
    account: Any, security_group: str, source: str, is_fine: bool
) -> None:
    ec2 = account.client("ec2", region_name="us-east-1")
    ranges = {"Ipv6Ranges": [{"CidrIpv6": source}]} if ":" in source else {"IpRanges": [{"CidrIp": source}]}
    rule = {"IpProtocol": "tcp", "FromPort": 6379, "ToPort": 6379, **ranges}
    ec2.authorize_security_group_ingress(GroupId=security_group, IpPermissions=[rule])
    found = {finding.what: finding for finding in check_launch(CLUSTERS / "a100.yaml")}
    assert (found["security group"].kind == "ok") == is_fine
    assert is_fine or f"opens ports 6379 to 6379 to {source}" in found["security group"].detail


def test_a_file_of_ones_own_that_breaks_a_promise_is_looked_at_all_the_same(account: Any, tmp_path: Path) -> None:
    """On demand, with a profile's address and Ray's own image; machines of another quota."""
    config = yaml.safe_load((CLUSTERS / "a100.yaml").read_text())
    node = config["available_node_types"]["p4d"]["node_config"]
    node["IamInstanceProfile"] = {"Arn": "arn:aws:iam::123456789012:instance-profile/vit-sweeps-worker"}
    del node["InstanceMarketOptions"], node["ImageId"], config["available_node_types"]["p4d"]["max_workers"]
    config["idle_timeout_minutes"] = 60
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(config))
    found = {finding.what: finding for finding in check_launch(path)}
    assert found["promises"].kind == "FAIL"
    assert found["profile vit-sweeps-worker"].kind == "ok"
    assert '384 vCPUs of quota "Running On-Demand P instances" are needed' in found["quota"].detail


def test_a_profile_of_ones_own_that_is_not_there_is_a_line(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    found = {finding.what: finding for finding in check_launch(CLUSTERS / "a100.yaml")}
    assert found["credentials"].detail == "The config profile (mine) could not be found"


@pytest.fixture
def without_the_heads_profile(account: Any) -> Iterator[None]:
    iam, profile = account.client("iam"), "vit-sweeps-head"
    iam.remove_role_from_instance_profile(InstanceProfileName=profile, RoleName=profile)
    iam.delete_instance_profile(InstanceProfileName=profile)
    yield
    iam.create_instance_profile(InstanceProfileName=profile)
    iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=profile)


@pytest.mark.usefixtures("without_the_heads_profile")
def test_an_account_with_a_port_open_and_a_role_missing(account: Any, security_group: str) -> None:
    ec2 = account.client("ec2", region_name="us-east-1")
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=security_group, IpPermissions=[rule])
    found = {finding.what: finding for finding in check_launch(CLUSTERS / "a100.yaml")}
    assert found["security group"].kind == "ok"
    assert found["profile vit-sweeps-head"].kind == "FAIL"
    assert "aws-iam.template" in found["profile vit-sweeps-head"].detail
    ec2.authorize_security_group_ingress(
        GroupId=security_group, IpPermissions=[rule | {"FromPort": 8265, "ToPort": 8265}]
    )
    found = {finding.what: finding for finding in check_launch(CLUSTERS / "a100.yaml")}
    assert found["security group"].kind == "FAIL"
    assert "opens ports 8265 to 8265 to 0.0.0.0/0" in found["security group"].detail


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


def test_a_bucket_is_tried_from_here_and_a_folder_is_not(bucket: str, tmp_path: Path) -> None:
    for storage, kind, said in (
        (bucket, "ok", "is written from this machine"),
        (bucket.replace("s3://sweeps", "s3://other").replace("&allow_bucket_creation=true", ""), "FAIL", "can't write"),
        ("what://is/this", "FAIL", "can't be read from here"),
        (str(tmp_path / "shared"), "skip", "looks at it on all nodes"),
    ):
        (found,) = check_bucket(storage)
        assert (found.kind, said in found.detail) == (kind, True), found
    assert not (tmp_path / "shared").exists()


def test_what_a_files_machines_fetch_is_looked_for_in_the_bucket_and_fits_their_disks(
    bucket: str, tmp_path: Path
) -> None:
    config, name = yaml.safe_load((CLUSTERS / "a100.yaml").read_text()), bucket.replace("/results", "/mine")
    mirror, place = open_folder(name).child("inputs"), f"{name.partition('?')[0]}/inputs"
    fetched = ["bash ~/vit-sweeps/clusters/inputs.sh cifar10 ViT-B_16 ViT-L_16  # and so on"]
    both = [*fetched, "bash ~/vit-sweeps/clusters/inputs.sh imagenet2012"]

    def found(commands: list[str] = fetched, **changed: Any) -> list[str]:
        changed = config | {"worker_setup_commands": commands} | changed
        findings = check_inputs(changed, tmp_path / "bucket", may_look=True)
        return [f"{finding.kind} {finding.what}: {finding.detail}" for finding in findings]

    fine = "ok disk: holds what is copied: head 0 of 100 GB, p4d 2 of 200 GB"
    assert found()[0].startswith("FAIL bucket: ")
    (tmp_path / "bucket").write_text(f"{name}\n")
    mirror.write("imagenet21k/ViT-B_16.npz", b"")
    todo = f"python -m vit_trainer fetch cifar10 ViT-L_16 --to {place}"
    assert found() == [f"FAIL inputs: {place} lacks cifar10, ViT-L_16: {todo}", fine]
    for each in ("imagenet21k/ViT-L_16.npz", "cifar-10-python.tar.gz"):
        mirror.write(each, b"")
    assert found() == [f"ok inputs: {place} has cifar10, ViT-B_16, ViT-L_16", fine]
    todo = f"python -m vit_trainer pack imagenet2012 --output {place}/imagenet2012"
    assert found(both) == [f"FAIL inputs: {place} lacks imagenet2012: {todo}", fine]
    mirror.write("imagenet2012/shards.json", b"")
    assert found(both) == [f"ok inputs: {place} has cifar10, ViT-B_16, ViT-L_16, imagenet2012", fine]
    mirror.write("imagenet2012/train/n01440764/1.JPEG", b"")
    assert found(both)[1].startswith(
        "FAIL disk: p4d has 200 GB, and 157 GB are copied to it beside some 60 GB of system and packages: give it"
    )
    copied = found(setup_commands=["aws s3 sync s3://b/imagenet2012 ~/.cache/vit_trainer/data/imagenet2012"])
    assert [each[:19] for each in copied if each.startswith("FAIL")] == ["FAIL disk: head has", "FAIL disk: p4d has "]


# --- this machine, and clusters


@pytest.mark.slow
def test_this_machine_is_ready_for_the_miniature_but_for_mlflow(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    arguments = ["--preset", "mini", "--storage", str(tmp_path / "results")]
    code, lines = doctor(*arguments, "--tracking-uri", address)
    assert code == 1
    assert [each for each in lines if each.startswith("FAIL")] == [line(lines, "MLflow")]
    assert f"MLflow at {address} can't be used (Connection refused)" in line(lines, "MLflow")
    assert line(lines, "storage") == f"ok    storage: {tmp_path / 'results'} is written from this machine"
    assert line(lines, "checkpoints and data sets").startswith("ok")
    assert not list((tmp_path / "results").iterdir())


def test_what_the_papers_grid_lacks_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIT_CHECKPOINTS", str(tmp_path))
    monkeypatch.setenv("VIT_DATA", str(tmp_path))
    both = tuple((model, "imagenet21k") for model in ("ViT-B_16", "ViT-L_16"))
    others = (("ViT-B_32", "imagenet21k+imagenet2012"), ("ViT-H_14", "imagenet21k+imagenet2012"))
    fetch = "missing: python -m vit_trainer fetch"
    assert Inputs((*both, *others), ("cifar10", "digits-even", "imagenet2012")).problems() == [
        ("FAIL", "no imagenet21k+imagenet2012 checkpoint of ViT-H_14: none was released; put a file in the official "
         f"format at {tmp_path}/imagenet21k+imagenet2012/ViT-H_14.npz"),
        ("FAIL", f"{fetch} ViT-B_16 ViT-L_16 cifar10 imagenet2012 --source s3://bucket/inputs"),
        ("FAIL", f"{fetch} ViT-B_32 --upstream imagenet21k+imagenet2012"),
    ]  # fmt: skip
    assert Inputs((), ("cifar10", "cifar100")).problems() == [
        ("warn", f"{fetch} cifar10 cifar100, else with the first trial")
    ]
    (tmp_path / "imagenet2012").mkdir()
    ((kind, said),) = Inputs((), ("imagenet2012",)).problems()
    assert (kind, f"no train/ in {tmp_path}/imagenet2012" in said) == ("FAIL", True)


def test_a_cluster_that_is_away_is_not_taken_for_this_machine() -> None:
    address = f"127.0.0.1:{free_port()}"
    code, lines = doctor("--preset", "mini", address=address)
    assert code == 1
    assert lines == [
        f"FAIL  Ray: nothing answers at RAY_ADDRESS {address} (Connection refused): start the cluster, "
        "or set RAY_ADDRESS=local for a Ray of the sweep's own"
    ]


def test_gpus_that_pytorch_can_not_use_are_told_from_none() -> None:
    a100 = {"name": "A100", "memory_gib": 40.0, "problem": ""}
    broken_one = {"name": "GPU 1", "memory_gib": 0.0, "problem": "CUDA error: uncorrectable ECC error"}
    seen = {"cuda": "13.2", "driver": "580.65", "num_of_driver": 2}
    for gpus, counted, expected in (
        ([a100, a100], {}, ["ok"]),
        ([a100, broken_one], {}, ["FAIL", "FAIL"]),
        ([], {}, ["FAIL"]),
        ([a100, a100], {"node": 1}, ["ok"]),
        ([a100], {"node": 2}, ["FAIL"]),
    ):
        found = list(_check_gpus({"node": seen | {"gpus": gpus}}, counted))
        assert [finding.kind for finding in found] == expected, found
    without = seen | {"num_of_driver": 0, "driver": None, "gpus": []}
    (none,) = _check_gpus({"node": without}, {})
    assert none.kind == "warn"
    (later,) = _check_gpus({"head": without}, {"head": 0}, 16)
    assert (later.kind, later.detail) == ("skip", "none is up; 16 come when a sweep asks for them")


def test_nodes_of_which_the_same_is_found_share_a_line() -> None:
    two = {"cuda": "13.2", "driver": "580.65", "num_of_driver": 2}
    two["gpus"] = [{"name": "A100", "memory_gib": 40.0, "problem": ""}] * 2  # type: ignore[assignment]
    found: dict[str, Any] = {f"10.0.0.{i}": two | {"all_reduce": 230e9 + i * 1e9} for i in range(6)}
    assert [finding.detail for finding in _check_gpus(found, dict.fromkeys(found, 2))] == [
        "6 nodes: 2 x A100 40 GiB, driver 580.65, CUDA 13.2",
        "230 to 235 GB/s among the GPUs of a node, least on 10.0.0.0",
    ]
    found["10.0.0.3"] = two | {"all_reduce": 60e9, "driver": "570.12"}
    found["10.0.0.4"] = OSError("no answer from PyTorch within 120 s")
    assert [(finding.kind, finding.detail) for finding in _check_gpus(found, dict.fromkeys(found, 2))] == [
        ("ok", "10.0.0.0, 10.0.0.1, 10.0.0.2 and 1 more: 2 x A100 40 GiB, driver 580.65, CUDA 13.2"),
        ("ok", "10.0.0.3: 2 x A100 40 GiB, driver 570.12, CUDA 13.2"),
        ("FAIL", "10.0.0.4: no answer from PyTorch within 120 s"),
        ("warn", "60 to 235 GB/s among the GPUs of a node, least on 10.0.0.3"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_nodes_with_a_storage_of_their_own_and_gpus_that_are_none(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1, num_gpus=2)
    storages = (str(tmp_path / "results"), "/proc/nowhere")
    fine, lost = (called("--preset", "mini", "--storage", each, address=cluster.address) for each in storages)
    code, lines = answer(fine)
    assert line(lines, "storage").endswith("is written from 3 nodes")
    assert line(lines, "versions").endswith("the same on 3 nodes")
    assert line(lines, "clocks").startswith("ok")
    assert "Ray counts 2, PyTorch can use 0 (no NVIDIA driver)" in line(lines, "GPUs")
    assert re.fullmatch(r"ok    checkpoints .*: fine on [\d.]+ \(\w{6}\)", line(lines, "checkpoints and data sets"))
    assert code == 1
    code, lines = answer(lost)
    assert "3 nodes: can't write to /proc/nowhere" in line(lines, "storage")
    assert code == 1


def test_each_node_that_does_not_reach_the_storage_of_all_is_named(tmp_path: Path) -> None:
    shared, own = str(tmp_path / "shared"), str(tmp_path / "own")

    asked = Asked(shared, Inputs())
    nodes: dict[str, Any] = {"fine": _write(shared, asked.probe), "apart": _write(own, asked.probe)}
    nodes |= dict.fromkeys(("locked", "out"), OSError(30, "Read-only file system"))
    assert [f"{finding.kind} {finding.detail}" for finding in _check_storage(asked, nodes)] == [
        f"FAIL apart: writes to a {shared} of its own: give a folder that all nodes share, or a bucket",
        f"FAIL locked, out: can't write to {shared} ([Errno 30] Read-only file system)",
    ]
    _clean_up(asked)
    assert not list(Path(shared).iterdir())


@pytest.mark.parametrize(("address", "is_noticed"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_port_that_all_of_the_network_reaches_is_noticed(address: str, is_noticed: bool) -> None:
    serve = (
        "import socket, sys; s = socket.create_server((sys.argv[1], 0)); print(s.getsockname()[1], flush=True); input()"
    )
    command = [sys.executable, "-c", serve, address, "mlflow"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        said = [problem for _, problem in open_ports() if port in problem]
        server.communicate("")
    assert [kind_of.startswith("MLflow listens on 0.0.0.0, port ") for kind_of in said] == [True] * is_noticed
