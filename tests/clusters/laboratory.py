"""What a user does with three hosts of their own; run on the laptop of lab.sh, which has made the hosts.

Argument: a folder for what is left: `job.txt`, what the submitted sweep printed, and `findings.json`.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parent.parent
HOSTS = {1: "10.77.0.11", 2: "10.77.0.12", 3: "10.77.0.13"}
STORAGE = "/shared/vit-sweeps"
TRIALS = ["--preset", "mini", "--datasets", "digits-even", "--base-lrs", "0.003"]
NUM_TRIALS = 10
ADDRESS = "http://localhost:8265"
TOKEN = {"RAY_AUTH_MODE": "token"}


def run(*command: str, check: bool = True, seconds: float = 120, **environment: str) -> str:
    """What a command printed."""
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=seconds
    )
    if check and done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def on(host: int, *command: str, check: bool = True) -> str:
    return run("on", str(host), *command, check=check)


def wait_for(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """What becomes true within the time."""
    start = time.monotonic()
    while time.monotonic() < start + seconds:
        if found := what():
            print(f"{why}: after {time.monotonic() - start:.0f} s", flush=True)
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds:g} s: {why}")


def main(folder: Path) -> None:
    laptop = Path(os.environ["HOME"])
    os.environ["PATH"] = f"{VENV / 'bin'}:{os.environ['PATH']}"
    findings: dict[str, Any] = {}

    # The hosts have the tested versions already: nothing can be downloaded here.
    for host in HOSTS:
        on(host, "cp", str(ROOT / "constraints.txt"), str(VENV / ".constraints"))
        on(host, "ln", "-s", str(VENV), "/home/ubuntu/vit-venv")

    # As clusters/local.yaml says.
    config = yaml.safe_load((ROOT / "clusters" / "local.yaml").read_text())
    config["provider"] |= {"head_ip": HOSTS[1], "worker_ips": [HOSTS[2], HOSTS[3]]}
    config["auth"]["ssh_private_key"] = f"{os.environ['LAB']}/key"
    cluster = str(laptop / "local.yaml")
    Path(cluster).write_text(yaml.safe_dump(config))
    run("bash", "-c", "umask 077; ray get-auth-token --generate > /dev/null")
    token = (laptop / ".ray" / "auth_token").read_text().strip()
    start = time.monotonic()
    said = run("ray", "up", "-y", cluster)
    assert token not in said
    alive = ["ray", "exec", cluster, "ray list nodes --filter state=ALIVE --format json 2> /dev/null"]

    def nodes() -> list[dict[str, Any]]:
        found = re.search(r"\[\{.*\}\]", run(*alive, check=False))
        return list(json.loads(found[0])) if found else []

    wait_for(lambda: len(nodes()) == 3, 120, "three nodes")
    findings["seconds_to_three_nodes"] = time.monotonic() - start
    assert on(1, "stat", "-c", "%a", "/home/ubuntu/.ray/auth_token").strip() == "600"

    # Whoever has no token gets nothing, on any port.
    wrong = laptop / "wrong-token"
    wrong.write_text("0" * len(token))
    with subprocess.Popen(
        ["ray", "dashboard", cluster], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as tunnel:
        wait_for(lambda: "Unauthorized" in run("curl", "-s", f"{ADDRESS}/api/jobs/", check=False), 60, "the tunnel")
        refused = run("ray", "job", "list", "--address", ADDRESS, check=False, RAY_AUTH_TOKEN_PATH=str(wrong), **TOKEN)
        assert "submission_id" not in refused
        assert "invalid" in refused.lower() or "unauthorized" in refused.lower(), refused

        # Submitted, and the laptop may be closed.
        job = ["ray", "job", "submit", "--address", ADDRESS, "--working-dir", ".", "--no-wait", "--submission-id"]
        script = ["python", "sweeps/paper_grid.py", *TRIALS, "--storage", STORAGE]
        said = run(*job, "grid", "--", *script, "--tracking-uri", "http://127.0.0.1:5000", **TOKEN)
        assert token not in said
        tunnel.terminate()
    runs = Path(os.environ["LAB"]) / "shared" / "vit-sweeps" / "runs"

    def results() -> list[Path]:
        return list(runs.glob("*/result.json"))

    def runs_on(host: int) -> list[Path]:
        """Trials that are being trained there."""
        leases = [path for path in runs.glob("*/lease.json") if not (path.parent / "result.json").exists()]
        return [path for path in leases if json.loads(path.read_text())["host"] == f"h{host}"]

    # The watchdog, with 5 seconds for a minute and a `sudo` that only writes down what it was asked for.
    on(1, "sh", "-c", "printf '#!/bin/sh\\necho \"$@\" >> /tmp/asked\\n' > /usr/bin/sudo; chmod 755 /usr/bin/sudo")
    run("ray", "exec", cluster, "WATCHDOG_SECONDS=5 bash vit-sweeps/clusters/watchdog.sh 2")

    def watchdog_asked() -> str:
        return on(1, "cat", "/tmp/asked", check=False)

    # A cable is pulled in mid-run, and plugged in again once the trials of that host run elsewhere.
    def victims() -> list[Path]:
        return [path for path in runs_on(3) if b'"step"' in (path.parent / "journal.jsonl").read_bytes()]

    lost = wait_for(lambda: len(results()) >= 2 and victims(), 240, "a trial on host 3 in the middle")
    start = time.monotonic()
    run("unplug", "3")
    log = "/tmp/ray/session_latest/logs/gcs_server.out"
    wait_for(lambda: "health check failed" in on(1, "cat", log), 60, "host 3 noticed as dead")
    findings["seconds_to_notice"] = time.monotonic() - start
    wait_for(lambda: len(nodes()) == 2, 60, "two nodes")
    names = {path.parent.name for path in lost}
    wait_for(
        lambda: names <= {p.parent.name for p in results()} | {p.parent.name for h in (1, 2) for p in runs_on(h)},
        120,
        "its trials go on",
    )
    assert "shutdown" not in watchdog_asked()
    run("plug", "3")
    wait_for(lambda: len(nodes()) == 3, 90, "host 3 back")
    findings["num_moved"] = len(names)

    wait_for(lambda: len(results()) == NUM_TRIALS, 240, "all results")

    def on_head(command: str) -> str:
        return run("ray", "exec", cluster, command, check=False)

    try:
        ask = "ray job status grid --address http://127.0.0.1:8265"
        wait_for(lambda: "succeeded" in on_head(ask), 120, "the job's end")
    finally:
        output = on_head("ray job logs grid --address http://127.0.0.1:8265")
        (folder / "job.txt").write_text(output)
    assert token not in output
    wait_for(lambda: "shutdown -h now" in watchdog_asked(), 60, "the watchdog")

    # MLflow's server is killed, then its supervisor too, as when the machine boots; the runs are still there.
    ask = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/get-by-name?experiment_name=paper_grid-mini"

    def has_runs() -> bool:
        return '"experiment_id"' in on(1, "curl", "-s", ask, check=False)

    wait_for(has_runs, 30, "MLflow")
    on(1, "pkill", "-KILL", "-f", "uvicorn")
    assert not has_runs()
    wait_for(has_runs, 60, "MLflow after its server was killed")
    on(1, "pkill", "-KILL", "-f", "mlflow")
    assert not has_runs()
    at_boot = on(1, "crontab", "-l", "-u", "ubuntu").replace("@reboot ", "")
    on(1, "su", "ubuntu", "-s", "/bin/sh", "-c", f"cd; HOME=/home/ubuntu; export HOME; {at_boot}")
    wait_for(has_runs, 60, "MLflow after a boot")
    findings["hosts"] = sorted(
        {
            json.loads(line)["host"]
            for path in runs.glob("*/journal.jsonl")
            for line in path.read_text().splitlines()
            if '"attempt"' in line
        }
    )

    # The end, as local.yaml says; nothing is left.
    for host in (2, 3):
        on(host, "su", "-", "ubuntu", "-c", "bash -ic 'ray stop'")
    run("ray", "down", "-y", cluster)
    for host in HOSTS:
        left = on(host, "pgrep", "-fa", "raylet|gcs_server|sweeps.running.launcher", check=False)
        assert "raylet" not in left, left
    (folder / "findings.json").write_text(json.dumps(findings))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
