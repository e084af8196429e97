"""AWS account: whether one's own lets a cluster file be launched: credentials, roles, images, quota, ports."""

import ipaddress
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

from sweeps.checks.finding import Finding, fail, ok, skip

SPOT_QUOTAS = dict.fromkeys(("p2", "p3", "p4"), ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"))
SPOT_QUOTAS |= {
    "p5": ("L-C4BD4855", "All P5 Spot Instance Requests"),
    **dict.fromkeys(("g4", "g5", "g6"), ("L-3819A6DF", "All G and VT Spot Instance Requests")),
}
"""Code and name of AWS's quota, in vCPUs, by the family of the machine."""
ON_DEMAND_QUOTAS = {
    **dict.fromkeys(("p2", "p3", "p4", "p5"), ("L-417A185B", "Running On-Demand P instances")),
    **dict.fromkeys(("g4", "g5", "g6"), ("L-DB2E81BA", "Running On-Demand G and VT instances")),
}
PRIVATE = [ipaddress.ip_network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]


def check_aws(config: dict[str, Any]) -> Iterator[Finding]:
    """What AWS says of the machines of a file for `ray up`, or would refuse."""
    if find_spec("boto3") is None:
        yield fail("credentials", "Ray needs boto3 for AWS: pip install --constraint constraints.txt boto3")
        return
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        session = boto3.Session(region_name=config["provider"]["region"])
    except BotoCoreError as error:  # AWS_PROFILE names none
        yield fail("credentials", _said(error))
        return
    patience = Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 2})

    def client(service: str) -> Any:
        return session.client(service, config=patience)

    kinds = config["available_node_types"]
    nodes = [kind["node_config"] for kind in kinds.values()]
    try:
        who = client("sts").get_caller_identity()
    except NoCredentialsError:
        yield fail("credentials", "none for AWS: aws configure, or set AWS_PROFILE")
        yield skip("profiles, images, quota, security group", f"need credentials; {_quota_needed(config)[0]}")
        return
    except (BotoCoreError, ClientError) as error:
        yield fail("credentials", _said(error))
        return
    yield ok("credentials", f"{who['Arn']} in {session.region_name}")

    def attempt(what: str, call: Callable[[], Finding]) -> Finding:
        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            denied = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            return (
                skip(what, _said(error)) if "Denied" in denied or "Unauthorized" in denied else fail(what, _said(error))
            )

    profiles = [node["IamInstanceProfile"] for node in nodes if "IamInstanceProfile" in node]
    for name in sorted({profile.get("Name") or profile["Arn"].rpartition("/")[2] for profile in profiles}):
        yield attempt(f"profile {name}", partial(_profile, client("iam"), name))
    for image in sorted({node["ImageId"] for node in nodes if "ImageId" in node}):
        yield attempt("image", partial(_image, client, image))
    yield attempt("quota", partial(_quota, client("service-quotas"), config))
    if name := config["provider"].get("security_group", {}).get("GroupName"):
        yield attempt("security group", partial(_security_group, client("ec2"), name))


def _said(error: Exception) -> str:
    return str(error).splitlines()[0]


def _profile(iam: Any, name: str) -> Finding:
    try:
        roles = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
    except iam.exceptions.NoSuchEntityException:
        return fail(f"profile {name}", "isn't there: run the commands at the top of clusters/aws-iam.template")
    return ok(f"profile {name}", f"with role {', '.join(role['RoleName'] for role in roles)}")


def _image(client: Callable[[str], Any], image: str) -> Finding:
    if image.startswith("resolve:ssm:"):
        name = image.removeprefix("resolve:ssm:")
        return ok("image", f"{client('ssm').get_parameter(Name=name)['Parameter']['Value']} is {name}")
    (found,) = client("ec2").describe_images(ImageIds=[image])["Images"]
    return ok("image", f"{image} is {found.get('Name')}")


def _quota_needed(config: dict[str, Any]) -> tuple[str, str, int]:
    """In words, AWS's code of it, and the number of vCPUs."""
    kinds = {
        name: kind for name, kind in config["available_node_types"].items() if kind.get("resources", {}).get("GPU", 0)
    }
    if not kinds:
        return "no quota for GPUs is needed", "", 0
    of_all = int(config.get("max_workers", 0))
    number = sum(
        int(kind["resources"].get("CPU", 0))
        * (1 if name == config["head_node_type"] else min(int(kind.get("max_workers", of_all)), of_all))
        for name, kind in kinds.items()
    )
    node = next(iter(kinds.values()))["node_config"]
    quotas = SPOT_QUOTAS if "InstanceMarketOptions" in node else ON_DEMAND_QUOTAS
    code, name = quotas.get(node["InstanceType"][:2], ("", f"of {node['InstanceType']}"))
    return f'{number} vCPUs of quota "{name}" are needed', code, number


def _quota(quotas: Any, config: dict[str, Any]) -> Finding:
    words, code, number = _quota_needed(config)
    if not code:
        return skip("quota", f"not asked: {words}")
    try:
        value = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
    except quotas.exceptions.NoSuchResourceException:
        return skip("quota", f"AWS knows none of code {code} in this region; {words}")
    if value < number:
        return fail("quota", f"{value:g}, and {words}: ask for them at Service Quotas, or lower max_workers")
    return ok("quota", f"{value:g}; {words}")


def _security_group(ec2: Any, name: str) -> Finding:
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])["SecurityGroups"]
    if not groups:
        return ok("security group", f"{name} isn't there yet: Ray makes it, with SSH alone open to the world")
    for group in groups:
        for rule in group["IpPermissions"]:
            sources = [each["CidrIp"] for each in rule.get("IpRanges", [])]
            sources += [each["CidrIpv6"] for each in rule.get("Ipv6Ranges", [])]
            outside = [source for source in sources if not _is_private(source)]
            if outside and (rule.get("FromPort"), rule.get("ToPort")) != (22, 22):
                ports = f"ports {rule['FromPort']} to {rule['ToPort']}" if "FromPort" in rule else "all ports"
                return fail("security group", f"{group['GroupId']} opens {ports} to {outside[0]}: remove that rule")
    return ok("security group", f"{name} lets in nothing from outside but SSH")


def _is_private(source: str) -> bool:
    network = ipaddress.ip_network(source)
    # Not `is_private`, which 0.0.0.0/1 is: it begins and ends with addresses of special use.
    return any(network[0] in each and network[-1] in each for each in PRIVATE)
