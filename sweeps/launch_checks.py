"""Launch checks: whether a cluster file can be launched from here, and safely. Starts nothing that costs money."""

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

from sweeps.findings import Finding, fail, have_failed, ok, skip, warn
from sweeps.promises import broken
from vit_trainer.errors import InputError

SSH_SECONDS = 10
SPOT_QUOTA = {"p4": "L-7212CCBC", "p3": "L-7212CCBC", "p2": "L-7212CCBC", "p5": "L-C4BD4855"}
"""AWS's codes for "All … Spot Instance Requests", in vCPUs, by the family of the machine."""


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
        raise InputError(f"{path} can't be read ({reason}): give a cluster file such as clusters/a100.yaml") from error
    if any(isinstance(document, dict) and document.get("kind") == "RayCluster" for document in documents):
        yield from _check_kubernetes()
        return
    if len(documents) != 1 or not isinstance(documents[0], dict) or "provider" not in documents[0]:
        raise InputError(f"{path} is no cluster file: give one such as clusters/a100.yaml or clusters/kuberay.yaml")
    config: dict[str, Any] = documents[0]
    file_findings = list(_check_file(config, text))
    yield from file_findings
    yield from _check_tools("rsync", "ssh")
    yield _check_token(Path.home() / ".ray" / "auth_token")
    if not have_failed(file_findings):
        checks: dict[str, Callable[[dict[str, Any]], Iterator[Finding]]] = {
            "aws": _check_aws,
            "gcp": _check_google,
            "local": _check_hosts,
        }
        provider = config["provider"]["type"]
        if provider in checks:
            yield from checks[provider](config)
        else:
            yield skip("credentials", f"nothing is known here of provider {provider}")


def _check_file(config: dict[str, Any], text: str) -> Iterator[Finding]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(yaml.safe_load(text)))
    except Exception as error:  # its validators raise what they come upon
        yield fail("schema", f"Ray refuses the file ({(str(error).splitlines() or [type(error).__name__])[0]})")
        return
    yield ok("schema", "Ray accepts the file")
    problems = list(broken(config, text))
    yield from (fail("promises", problem) for problem in problems)
    if not problems:
        yield ok(
            "promises", "token, loopback, health checks, versions" + ("" if _is_local(config) else ", cost guards")
        )


def _is_local(config: dict[str, Any]) -> bool:
    return bool(config["provider"]["type"] == "local")


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
    yield warn("quota", f"not asked: it must allow {_num_gpus(config)} preemptible A100 GPUs in that region")


def _num_gpus(config: dict[str, Any]) -> int:
    kinds = config["available_node_types"].values()
    return sum(int(kind["resources"].get("GPU", 0)) * int(kind.get("max_workers", 0)) for kind in kinds)


def _check_kubernetes() -> Iterator[Finding]:
    yield ok("file", "a RayCluster for Kubernetes; tests/clusters/test_kuberay.py knows its fields")
    if not shutil.which("kubectl"):
        yield fail("tools", "kubectl missing: install")
        return
    done = subprocess.run(["kubectl", "get", "crd", "rayclusters.ray.io"], check=False, capture_output=True, text=True)
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

    session = boto3.Session(region_name=config["provider"]["region"])
    patience = Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 2})

    def client(service: str) -> Any:
        return session.client(service, config=patience)

    kinds = config["available_node_types"]
    try:
        who = client("sts").get_caller_identity()
    except NoCredentialsError:
        yield fail("credentials", "none for AWS: aws configure, or set AWS_PROFILE")
        yield skip("profiles, images, quota, security group", f"need credentials; {_quota_needed(kinds)[0]} are needed")
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

    for name in sorted({kind["node_config"]["IamInstanceProfile"]["Name"] for kind in kinds.values()}):
        yield attempt(f"profile {name}", partial(_profile, client("iam"), name))
    for image in sorted({kind["node_config"]["ImageId"] for kind in kinds.values()}):
        yield attempt("image", partial(_image, client, image))
    yield attempt("quota", partial(_quota, client("service-quotas"), kinds))
    yield attempt("security group", partial(_security_group, client("ec2"), config["provider"]))


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


def _quota_needed(kinds: dict[str, Any]) -> tuple[str, str, int]:
    """In words, AWS's code of it, and the number of vCPUs."""
    workers = [kind for kind in kinds.values() if kind["resources"].get("GPU", 0)]
    number = sum(int(kind["resources"]["CPU"]) * int(kind["max_workers"]) for kind in workers)
    family = workers[0]["node_config"]["InstanceType"][:2] if workers else ""
    return f'{number} vCPUs of "All {family.upper()} … Spot Instance Requests"', SPOT_QUOTA.get(family, ""), number


def _quota(quotas: Any, kinds: dict[str, Any]) -> Finding:
    words, code, number = _quota_needed(kinds)
    if not code:
        return skip("quota", f"its code isn't known here; {words} are needed")
    try:
        value = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
    except quotas.exceptions.NoSuchResourceException:
        return skip("quota", f"AWS knows none of code {code} in this region; {words} are needed")
    if value < number:
        return fail(
            "quota", f"{value:g} vCPUs, {words} are needed: ask for them at Service Quotas, or lower max_workers"
        )
    return ok("quota", f"{value:g} vCPUs; {words} are needed")


def _security_group(ec2: Any, provider: dict[str, Any]) -> Finding:
    name = provider["security_group"]["GroupName"]
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])["SecurityGroups"]
    if not groups:
        return ok("security group", f"{name} isn't there yet: Ray makes it, with SSH alone open to the world")
    for group in groups:
        for rule in group["IpPermissions"]:
            is_open = any(each["CidrIp"] == "0.0.0.0/0" for each in rule.get("IpRanges", [])) or any(
                each["CidrIpv6"] == "::/0" for each in rule.get("Ipv6Ranges", [])
            )
            if is_open and (rule.get("FromPort"), rule.get("ToPort")) != (22, 22):
                ports = f"{rule.get('FromPort', 'all')} to {rule.get('ToPort', 'all')}"
                return fail("security group", f"{group['GroupId']} opens ports {ports} to the world: remove that rule")
    return ok("security group", f"{name} lets in nothing from outside but SSH")
