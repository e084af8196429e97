"""clusters/aws-iam.template in moto's CloudFormation and IAM: what the machines may do, and nothing beyond."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

TEMPLATE = Path(__file__).parents[2] / "clusters" / "aws-iam.template"
CLUSTERS = ["vit-a100", "vit-h100", "vit-one-gpu"]
NOT_LIMITED = {  # looking, and making what is not there yet, can't be limited to this cluster's own
    "ec2:Describe*", "ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeImages",
    "ec2:RunInstances", "ec2:CreateTags", "ec2:CreateKeyPair", "ec2:CreateSecurityGroup",
    "ec2:AuthorizeSecurityGroupIngress", "ssm:GetParameter", "ssm:GetParameters", "servicequotas:GetServiceQuota",
}  # fmt: skip


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.fixture(scope="module")
def iam() -> Iterator[Any]:
    with mock_aws():
        boto3.client("cloudformation", region_name="us-east-1").create_stack(
            StackName="vit-sweeps",
            TemplateBody=TEMPLATE.read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "my-bucket"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield boto3.client("iam", region_name="us-east-1")


def statements(iam: Any, role: str) -> list[dict[str, Any]]:
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    assert not iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    policies = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
    return [statement for policy in policies for statement in policy["Statement"]]


def test_it_speaks_of_all_clusters_on_aws() -> None:
    files = [yaml.safe_load(path.read_text()) for path in TEMPLATE.parent.glob("*.yaml") if path.name != "kuberay.yaml"]
    assert sorted(each["cluster_name"] for each in files if each.get("provider", {}).get("type") == "aws") == CLUSTERS


def test_the_profiles_of_the_cluster_file_are_there_each_with_its_role(iam: Any) -> None:
    for name in ("vit-sweeps-head", "vit-sweeps-worker"):
        (role,) = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
        assert role["RoleName"] == name


def test_a_worker_may_use_the_bucket_and_nothing_else(iam: Any) -> None:
    of_worker = statements(iam, "vit-sweeps-worker")
    assert {action for each in of_worker for action in listed(each["Action"])} == {
        "s3:GetBucketLocation", "s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject",
        "s3:AbortMultipartUpload",
    }  # fmt: skip
    assert {each["Resource"] for each in of_worker} == {"arn:aws:s3:::my-bucket", "arn:aws:s3:::my-bucket/*"}


def test_only_machines_of_this_cluster_can_be_stopped_and_no_role_but_the_workers_passed_on(iam: Any) -> None:
    (launch,) = iam.list_policies(Scope="Local")["Policies"]
    version = iam.get_policy_version(PolicyArn=launch["Arn"], VersionId=launch["DefaultVersionId"])["PolicyVersion"]
    assert launch["PolicyName"] == "vit-sweeps-launch"
    of_head = statements(iam, "vit-sweeps-head")
    for statement in of_head + version["Document"]["Statement"]:
        actions = set(listed(statement["Action"]))
        assert not any(action.endswith(":*") or action == "*" for action in actions)
        if "ec2:TerminateInstances" in actions:
            assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": CLUSTERS}}
        elif statement["Resource"] == "*":
            assert actions <= NOT_LIMITED
    (passed,) = (each for each in of_head if "iam:PassRole" in listed(each["Action"]))
    assert passed["Resource"].endswith(":role/vit-sweeps-worker")
