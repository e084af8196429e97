"""Launch checks: whether a cluster file can be launched from here, and safely. Starts nothing that costs money."""

import ipaddress
import logging
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from sweeps.checks.cluster_file_promises import broken, broken_in_kubernetes
from sweeps.checks.cluster_inputs import check_inputs
from sweeps.checks.finding import Finding, fail, ok, skip, warn
from vit_trainer.errors import InputError

SSH_SECONDS = 10
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


def check_launch(path: Path) -> Iterator[Finding]:
    """Whether `ray up` (or `kubectl apply`, or sbatch) would find what it needs for a file.

    Raises:
        InputError: there is no such file, or it isn't YAML.
    """
    try:
        text = path.read_text()
        documents = [document for document in yaml.safe_load_all(text) if document]
    except (OSError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} can't be read ({reason}): give one, as in a checkout's clusters/") from error
    if any(isinstance(document, dict) and document.get("kind") == "RayCluster" for document in documents):
        yield from _promises(broken_in_kubernetes(documents))
        yield from _check_kubernetes()
        return
    if len(documents) != 1 or not isinstance(documents[0], dict) or "provider" not in documents[0]:
        raise InputError(f"{path} is no cluster file: give one such as clusters/a100.yaml or clusters/kuberay.yaml")
    config: dict[str, Any] = documents[0]
    refused = _refused(text)
    yield fail("schema", f"Ray refuses the file ({refused})") if refused else ok("schema", "Ray accepts the file")
    if not refused:
        yield from _promises(broken(config, text))
    yield from _check_tools("rsync", "ssh")
    yield _check_token(Path.home() / ".ray" / "auth_token")
    if not refused:
        checks: dict[str, Callable[[dict[str, Any]], Iterator[Finding]]] = {
            "aws": _check_aws,
            "gcp": _check_google,
            "local": _check_hosts,
        }
        provider, may_look = config["provider"]["type"], True
        if provider in checks:
            for finding in checks[provider](config):
                may_look &= (finding.kind, finding.what) != ("FAIL", "credentials")
                yield finding
        else:
            yield skip("credentials", f"nothing is known here of provider {provider}")
        yield from check_inputs(config, path.parent / "bucket", may_look=may_look)


def _refused(text: str) -> str:
    """Why Ray's own validators refuse a file; empty if they don't."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    try:
        validate_config(prepare_config(yaml.safe_load(text)))
    except Exception as error:  # they raise what they come upon
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def _promises(problems: Iterator[str]) -> Iterator[Finding]:
    found = [fail("promises", problem) for problem in problems]
    kept = "token, loopback, health checks and the others of sweeps/checks/cluster_file_promises.py are kept"
    yield from found or [ok("promises", kept)]


def _check_tools(*names: str) -> Iterator[Finding]:
    missing = [name for name in names if not shutil.which(name)]
    yield fail("tools", f"{' and '.join(missing)} missing: install") if missing else ok("tools", ", ".join(names))


def _check_token(path: Path) -> Finding:
    make = "(umask 077; ray get-auth-token --generate > /dev/null)"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return fail("token", f"no {path}: make it with {make}")
    if mode & 0o077:
        return fail("token", f"{path} has mode {mode:o}, others can read it: chmod 600 {path}")
    return ok("token", f"{path}, mode {mode:o}")


def _check_hosts(config: dict[str, Any]) -> Iterator[Finding]:
    provider, auth = config["provider"], config["auth"]
    hosts = [provider["head_ip"], *provider.get("worker_ips", [])]
    key = auth.get("ssh_private_key")
    if key and not Path(key).expanduser().exists():
        yield fail("SSH key", f"no {key}: make one with ssh-keygen, and ssh-copy-id it to each host")
        return
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}"]
    command += ["-o", "StrictHostKeyChecking=accept-new", *(["-i", str(Path(key).expanduser())] if key else [])]
    wanted = "import sys, venv; assert sys.version_info >= (3, 11), sys.version"

    def ask(host: str) -> Finding:
        remote = f"command -v rsync > /dev/null || {{ echo no rsync >&2; exit 1; }}; python3 -c '{wanted}'"
        try:
            done = subprocess.run(
                [*command, f"{auth['ssh_user']}@{host}", remote],
                check=False,
                capture_output=True,
                text=True,
                timeout=3 * SSH_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return fail(f"host {host}", "SSH connects and then says nothing")
        except OSError:
            return skip(f"host {host}", "needs ssh")
        said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return fail(f"host {host}", said) if done.returncode else ok(f"host {host}", "SSH, rsync, Python and venv")

    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(ask, hosts)


def _check_google(config: dict[str, Any]) -> Iterator[Finding]:
    install = "pip install --constraint constraints.txt google-api-python-client"
    if find_spec("googleapiclient") is None or find_spec("google.auth") is None:
        yield fail("credentials", f"Ray needs google-api-python-client for Google Cloud: {install}")
        return
    import google.auth
    import google.auth.exceptions

    project = config["provider"].get("project_id")
    if project in (None, "PROJECT"):
        yield fail("project", "provider.project_id is still PROJECT: write yours")
    try:
        google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError:
        yield fail("credentials", "none for Google Cloud: gcloud auth application-default login")
        return
    yield ok("credentials", "found; whether they suffice shows when machines are asked for")
    yield warn(
        "quota",
        f"not asked: it must allow {_num_gpus(config)} GPUs of the kind, preemptible ones if on spot, in that region",
    )


def _num_gpus(config: dict[str, Any]) -> int:
    kinds = config["available_node_types"].values()
    return sum(int(kind["resources"].get("GPU", 0)) * int(kind.get("max_workers", 0)) for kind in kinds)


def _check_kubernetes() -> Iterator[Finding]:
    if not shutil.which("kubectl"):
        yield fail("tools", "kubectl missing: install")
        return
    command = ["kubectl", "--request-timeout=10s", "get", "crd", "rayclusters.ray.io"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        yield fail("operator", f"{said}: helm install kuberay-operator kuberay/kuberay-operator (1.5.1 or later)")
    else:
        yield ok("operator", "the cluster knows RayCluster")


def _check_aws(config: dict[str, Any]) -> Iterator[Finding]:
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
