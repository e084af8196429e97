"""The files for AWS with `ray up` and Ray's autoscaler against an AWS of our own: what they ask EC2 for."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from sweeps.checks.cluster_inputs import _paths
from tests.clusters.heads import end, home_of_its_own, own_address, ray, running_head
from tests.sweeps.terminal import Terminal

ROOT = Path(__file__).parents[2]
SSH = """#!/bin/sh
echo "$*" >> ~/ssh.log
"""
RSYNC = """#!/bin/sh
echo "$*" >> ~/rsync.log
for argument; do case $argument in
    */ray-bootstrap-*) cp "$argument" ~/ray_bootstrap_config.yaml;;
    */.ssh/*.pem) cp "$argument" ~/ray_bootstrap_key.pem;;
esac; done
"""
"""Hosts that do whatever they are told, and keep what the head is launched with: moto's instances can't be entered."""
ASK = """
import ray, sys
ray.init(log_to_driver=False)
ray.util.placement_group([{"CPU": 8, "GPU": 8}])
sys.stdin.read()
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """HOME of a user with an account at AWS: moto's server, which the environment names."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST"))
    with home_of_its_own(monkeypatch) as home:
        for name, content in {"ssh": SSH, "rsync": RSYNC}.items():
            program = home / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(content)
            program.chmod(0o755)
        account = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_EC2_METADATA_DISABLED": "true"}
        account |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        account |= {"BUCKET": f"s3://vit/sweeps?endpoint_override={host}%3A{port}&scheme=http&region=us-east-1"}
        for name, value in {**account, "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(home)}.items():
            monkeypatch.setenv(name, value)
        yield home
    server.stop()


def ec2() -> Any:
    import boto3

    return boto3.client("ec2")


def instances(node_type: str) -> list[dict[str, Any]]:
    filters = [{"Name": "tag:ray-user-node-type", "Values": [node_type]}]
    found = ec2().describe_instances(Filters=filters)["Reservations"]
    return [instance for reservation in found for instance in reservation["Instances"]]


def assert_guarded(instance: dict[str, Any], profile: str, gigabytes: int) -> None:
    assert instance["IamInstanceProfile"]["Arn"].endswith(f"/{profile}")
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["vit-sweeps"]
    volumes = [mapping["Ebs"]["VolumeId"] for mapping in instance["BlockDeviceMappings"]]
    (volume,) = ec2().describe_volumes(VolumeIds=volumes)["Volumes"]
    assert (volume["Encrypted"], volume["Size"], volume["VolumeType"]) == (True, gigabytes, "gp3")


def publish_images() -> None:
    """What AWS and Canonical publish, and moto doesn't."""
    from moto.core import DEFAULT_ACCOUNT_ID as account
    from moto.ssm.models import Parameter, ssm_backends

    known = ssm_backends[account]["us-east-1"]._parameters
    for name in re.findall(r"ImageId: resolve:ssm:(\S+)", (ROOT / "clusters" / "a100.yaml").read_text()):
        known[name].append(Parameter(account, name, "ami-0", "String", None, None, None, datetime.now(), 1, "text"))


def answered_no(command: list[str], standing: str) -> bool:
    """Whether a command asks with hours and dollars, and says how things stand to who doesn't agree."""
    terminal = Terminal(command, 250, 100)
    try:
        text = terminal.wait_for(lambda text: "[y/N]" in text or "error" in text)
        terminal.type("\n")
        code, text = terminal.end()
        assert "731 GPU-hours ($2,007.57)" in text, text
        return code == 1 and standing in text
    finally:
        terminal.close()


def account_with_roles() -> None:
    """Once per account, as the files say."""
    import boto3

    for name in ("head", "worker"):
        boto3.client("iam").create_instance_profile(InstanceProfileName=f"vit-sweeps-{name}")


def project_with_bucket(home: Path) -> Path:
    """A checkout, whose clusters/bucket names one."""
    project = home / "project"
    shutil.copytree(ROOT / "clusters", project / "clusters")
    (project / "clusters" / "bucket").write_text("s3://vit\n")
    for name in ("sweeps", "vit_trainer", "constraints.txt", "pyproject.toml"):
        (project / name).symlink_to(ROOT / name)
    return project


def assert_only_ssh_is_open() -> None:
    (group,) = ec2().describe_security_groups(GroupNames=["vit-sweeps"])["SecurityGroups"]
    for rule in group["IpPermissions"]:
        if rule["IpRanges"]:
            assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22)
        else:
            assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]


def assert_in_order(home: Path, *steps: str) -> None:
    """What the head was told to do, and that it knows the token from the file alone."""
    said = (home / "ssh.log").read_text()
    assert sorted(steps, key=said.index) == list(steps)
    assert "0" * 64 not in said
    key = next(home.glob(".ssh/*.pem"))
    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ray_up_makes_a_small_head_and_a_demand_for_gpus_a_spot_p4d(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    account_with_roles()
    boto3.client("s3").create_bucket(Bucket="vit")
    publish_images()
    project = project_with_bucket(home)
    (names,) = re.findall(
        r"^ +- bash \S+/inputs.sh (.*)", (project / "clusters" / "a100.yaml").read_text(), re.MULTILINE
    )
    for path in (path for name in names.split() for path in _paths(name, "imagenet21k")):
        boto3.client("s3").put_object(Bucket="vit", Key=f"inputs/{path}")
    monkeypatch.chdir(project)
    script = [sys.executable, "sweeps/launch.py", "clusters/a100.yaml"]
    sweep = ["--", "paper_grid.py", "--storage", os.environ["BUCKET"]]
    assert answered_no([*script, *sweep], "nothing was started")
    assert instances("head") == []

    done = subprocess.run([*script, "--yes", *sweep], check=False, capture_output=True, text=True, timeout=200)
    costs = f"a head costs money until `ray down {project}/clusters/a100.yaml`"
    assert done.returncode == 1, done.stdout + done.stderr
    assert (
        f"the tunnel to its dashboard has ended, or nothing answers there; `ray up` has ended; {costs}" in done.stderr
    )
    assert answered_no([*script, *sweep], f"a head is there whose dashboard doesn't answer; {costs}")

    (head,) = instances("head")
    assert (head["InstanceType"], head.get("InstanceLifecycle")) == ("m7i.xlarge", None)
    assert head["ImageId"].startswith("resolve:ssm:")  # passed on: EC2 itself looks it up, which moto doesn't
    assert_guarded(head, "vit-sweeps-head", gigabytes=100)
    assert instances("p4d") == []
    assert_only_ssh_is_open()
    assert_in_order(home, "setup.sh boto3", "ray start --head", "mlflow.sh", "watchdog.sh 60")
    assert "inputs.sh" not in (home / "ssh.log").read_text()  # the head has no data
    assert "0" * 64 not in done.stdout + done.stderr

    address = own_address()
    monkeypatch.setenv("RAY_ADDRESS", address)
    with running_head(home, address, "head", head["InstanceId"]):
        driver = subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            plan = [sys.executable, "sweeps/paper_grid.py", "--plan", "--storage", str(home / "results")]
            planned = subprocess.run(plan, check=False, capture_output=True, text=True, timeout=100, cwd=ROOT)
            assert "32 GPUs in the Ray cluster: running the paper's grid." in planned.stdout, planned.stderr
            while not (workers := instances("p4d")):
                assert driver.poll() is None, driver.communicate()
                time.sleep(0.5)
        finally:
            end(driver)
    (worker,) = workers
    assert (worker["InstanceType"], worker["InstanceLifecycle"]) == ("p4d.24xlarge", "spot")
    assert_guarded(worker, "vit-sweeps-worker", gigabytes=200)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("name", "kind", "machine", "role", "gigabytes", "steps"),
    [
        ("h100", "head", "m7i.xlarge", "head", 100, ("setup.sh boto3", "ray start --head", "watchdog.sh 60")),
        (
            "one-gpu", "gpu", "g5.2xlarge", "worker", 200,
            ("setup.sh boto3", "inputs.sh cifar10 ", "disk.sh", "check-node --gpus 1", "ray start --head", "watchdog"),
        ),
    ],
)  # fmt: skip
def test_ray_up_makes_the_head_of_the_other_files(
    home: Path, name: str, kind: str, machine: str, role: str, gigabytes: int, steps: tuple[str, ...]
) -> None:
    account_with_roles()
    command = ray("up", "--yes", "--no-config-cache", f"clusters/{name}.yaml")
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=150, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = instances(kind)
    assert (made["InstanceType"], made.get("InstanceLifecycle")) == (machine, None)
    assert_guarded(made, f"vit-sweeps-{role}", gigabytes)
    assert_only_ssh_is_open()
    assert_in_order(home, *steps)
