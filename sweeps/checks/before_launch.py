"""Launch checks: whether a cluster file can be launched from here, and safely. Starts nothing that costs money."""

import logging
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from sweeps.checks.aws_account import check_aws
from sweeps.checks.cluster_file_promises import broken, broken_in_kubernetes
from sweeps.checks.cluster_inputs import check_inputs
from sweeps.checks.finding import Finding, fail, ok, skip, warn
from vit_trainer.errors import InputError

SSH_SECONDS = 10


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
            "aws": check_aws,
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
