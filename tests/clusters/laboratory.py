"""What a user does with hosts of their own; run on the laptop of lab.sh, which has made the hosts.

Arguments: a folder for what is left: `job.txt`, what the submitted sweep printed, and `findings.json`; and the name of
one of `SWEEPS`. The small one is brought to two hosts by launch.py, and nothing happens to it; on three a cable is
pulled in the middle of the whole one, a watchdog looks on, and MLflow's server is killed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parent.parent
STORAGE = "/shared/vit-sweeps"
TRIALS = ("--preset", "mini", "--datasets", "digits-even", "--base-lrs", "0.003")
SWEEPS = {"small": (*TRIALS, "--models", "ViT-B_32-mini", "--total-steps", "1500"), "whole": TRIALS}
NUM_TRIALS = {"small": 2, "whole": 10}
NUM_HOSTS = {"small": 2, "whole": 3}
ADDRESS = "http://localhost:8265"
TOKEN = {"RAY_AUTH_MODE": "token"}


def line_of_readme(part: str) -> str:
    """The first command of clusters/README.md with this in it."""
    text = (ROOT / "clusters" / "README.md").read_text()
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    return next(line for line in blocks.splitlines() if part in line)


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


class Laboratory:
    """A cluster on the hosts, and a sweep on that."""

    def __init__(self, name: str) -> None:
        self.name, self.num_hosts = name, NUM_HOSTS[name]
        self.findings: dict[str, Any] = {}
        self.cluster = f"{os.environ['HOME']}/local.yaml"
        self.storage = Storage(Path(os.environ["LAB"]) / "shared" / "vit-sweeps")
        self.token, self.job = "", "grid"

    def prepare(self) -> None:
        """Hosts as a user has them, and a file that names them."""
        for host in range(1, self.num_hosts + 1):  # with the tested versions: nothing can be downloaded here
            on(host, "cp", str(ROOT / "constraints.txt"), str(VENV / ".constraints"))
            on(host, "ln", "-s", str(VENV), "/home/ubuntu/vit-venv")
        head, *workers = [f"10.77.0.{10 + host}" for host in range(1, self.num_hosts + 1)]
        config = yaml.safe_load((ROOT / "clusters" / "local.yaml").read_text())
        config["provider"] |= {"head_ip": head, "worker_ips": workers}
        config["auth"]["ssh_private_key"] = f"{os.environ['LAB']}/key"
        Path(self.cluster).write_text(yaml.safe_dump(config))

    def line(self, part: str, instead: dict[str, str] | None = None, storage: str = "") -> str:
        """A command as clusters/README.md has it, with this laboratory's words in place of the page's.

        Args:
            storage: unless given, where the laptop has it.
        """
        words = {
            "clusters/a100.yaml": self.cluster,
            "$(cat clusters/bucket)/vit-sweeps": storage or str(self.storage.location),
            "paper_grid.py --preset paper": f"paper_grid.py {' '.join(SWEEPS[self.name])}",
            "paper_grid-1": self.job,
            "ViT-B_16-cifar10-d0.1-lr0.03-s0-4916bc": next(iter(self.storage.trial_ids()), ""),
            "--output ": f"--output {os.environ['HOME']}/",
            "' mlflow": f"' {os.environ['HOME']}/mlflow",
            "sqlite:///mlflow": f"sqlite:///{os.environ['HOME']}/mlflow",
        }
        line = line_of_readme(part)
        for word, other in {**words, **(instead or {})}.items():
            line = line.replace(word, other)
        return line

    def type(self, part: str, instead: dict[str, str] | None = None, *, check: bool = True, storage: str = "") -> str:
        """What that command printed."""
        return run("bash", "-c", self.line(part, instead, storage), check=check, seconds=300)

    def launch(self, instead: str = "") -> str:
        """The whole way with one command."""
        return self.type(
            "launch.py", {" -- ": " --yes -- ", STORAGE: f"{STORAGE}{instead}"}, storage=STORAGE, check=False
        )

    def launch_stop_and_go_on(self) -> None:
        """As steps 3 and 5 say; a sweep that runs isn't sent twice."""
        start = time.monotonic()
        said = self.launch()
        self.findings["seconds_to_launch"] = time.monotonic() - start
        print(said)
        assert "2 cells, 2 trials" in said
        assert "paper_grid-1 is sent to vit-sweeps (paper_grid-mini: 2 trials, 0 of them done" in said
        self.job, self.token = "paper_grid-1", (Path(os.environ["HOME"]) / ".ray" / "auth_token").read_text().strip()
        assert self.token not in said
        wait_for(lambda: any(run_dir.rows() for run_dir in self.run_dirs()), 240, "a trial that trains")
        assert "states are kept, its command goes on with them" in self.type("stop.py")
        self.wait_for_end("failed")
        assert "Interrupted; all states are kept" in self.type("ray job logs")
        said = self.launch()
        assert "is up and used as it is" in said, said
        assert "paper_grid-2 is sent to vit-sweeps" in said, said
        assert "paper_grid-2 runs already; nothing was sent" in self.launch()
        assert "error: paper_grid-2 runs there with other flags" in self.launch(" --seeds 1")
        self.job = "paper_grid-2"
        print(self.type("watch.py", {"vit-sweeps": "vit-sweeps --once"}))

    def bring_home(self) -> None:
        """As steps 4 and 6 say, once the sweep has ended."""
        home = Path(os.environ["HOME"])
        assert "step" in self.type("--log ViT-B_16-cifar10")
        self.type("report.py")
        assert "ViT-B_32-mini" in (home / "report" / "report.html").read_text()
        self.type("evidence.py")
        assert (home / "evidence.zip").stat().st_size > 10_000
        assert "succeeded" in self.type("ray job stop")
        self.type("ray rsync-down")
        for server, port in (("ray attach", "5000"), ("mlflow ui", "5001")):
            command = self.line(server, {"mlflow ui": f"mlflow ui --port {port}"})
            nowhere: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            with subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=home, stdin=subprocess.PIPE, start_new_session=True, **nowhere
            ) as process:
                wait_for(partial(self.is_mlflow_at, port), 120, f"MLflow by {server}")
                os.killpg(process.pid, signal.SIGTERM)

    def is_mlflow_at(self, port: str) -> bool:
        """Whether the laptop finds the sweep's experiment there."""
        ask = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=paper_grid-mini"
        return '"experiment_id"' in run("curl", "-s", ask, check=False)

    def begin(self) -> None:
        """`ray up`, as the page has it for those who go by hand."""
        self.type("(umask")
        self.token = (Path(os.environ["HOME"]) / ".ray" / "auth_token").read_text().strip()
        assert "FAIL" not in self.type("doctor.py")
        start = time.monotonic()
        said = self.type("ray up", {"ray up": "ray up -y"})
        assert self.token not in said
        wait_for(lambda: self.num_nodes() == self.num_hosts, 120, "all nodes")
        self.findings["seconds_to_all_nodes"] = time.monotonic() - start
        assert on(1, "stat", "-c", "%a", "/home/ubuntu/.ray/auth_token").strip() == "600"

    def num_nodes(self) -> int:
        """Those that live."""
        alive = "ray list nodes --filter state=ALIVE --format json 2> /dev/null"
        found = re.search(r"\[\{.*\}\]", self.on_head(alive))
        return len(json.loads(found[0])) if found else 0

    def on_head(self, command: str) -> str:
        return run("ray", "exec", self.cluster, command, check=False)

    def submit(self) -> None:
        """The sweep as a job, after which the laptop may be closed; whoever has no token gets nothing, on any port."""
        wrong = Path(os.environ["HOME"]) / "wrong-token"
        wrong.write_text("0" * len(self.token))
        tunnel_command = ["bash", "-c", f"exec {self.line('ray dashboard')}"]
        with subprocess.Popen(tunnel_command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tunnel:
            wait_for(lambda: "Unauthorized" in run("curl", "-s", f"{ADDRESS}/api/jobs/", check=False), 60, "the tunnel")
            jobs = ["ray", "job", "list", "--address", ADDRESS]
            refused = run(*jobs, check=False, RAY_AUTH_TOKEN_PATH=str(wrong), **TOKEN)
            assert "submission_id" not in refused
            assert "invalid" in refused.lower() or "unauthorized" in refused.lower(), refused
            said = self.type("ray job submit", {"--no-wait": f"--no-wait --submission-id {self.job}"}, storage=STORAGE)
            assert self.token not in said
            tunnel.terminate()

    def run_dirs(self) -> list[RunDir]:
        return [self.storage.run_dir(trial_id) for trial_id in self.storage.trial_ids()]

    def results(self) -> set[str]:
        """Trials that have one."""
        return {run_dir.trial_id for run_dir in self.run_dirs() if run_dir.result()}

    def running_on(self, *hosts: int) -> list[RunDir]:
        """Trials that are being trained there."""
        leases = [(each, each.lease() or {}) for each in self.run_dirs() if not each.result()]
        return [each for each, lease in leases if lease.get("host") in [f"h{host}" for host in hosts]]

    def begin_watchdog(self) -> None:
        """With 5 seconds for a minute, and a `sudo` that only writes down what it was asked for."""
        on(1, "sh", "-c", "printf '#!/bin/sh\\necho \"$@\" >> /tmp/asked\\n' > /usr/bin/sudo; chmod 755 /usr/bin/sudo")
        run("ray", "exec", self.cluster, "WATCHDOG_SECONDS=5 bash vit-sweeps/clusters/watchdog.sh 2")

    def watchdog_asked(self) -> str:
        return on(1, "cat", "/tmp/asked", check=False)

    def pull_a_cable(self) -> None:
        """In mid-run, and plug it in again once the trials of that host run elsewhere."""

        def victims() -> set[str]:
            return {run_dir.trial_id for run_dir in self.running_on(3) if run_dir.rows()}

        lost = wait_for(lambda: len(self.results()) >= 2 and victims(), 240, "a trial on host 3 in the middle")
        start = time.monotonic()
        run("unplug", "3")
        log = "/tmp/ray/session_latest/logs/gcs_server.out"
        wait_for(lambda: "health check failed" in on(1, "cat", log), 60, "host 3 noticed as dead")
        self.findings["seconds_to_notice"] = time.monotonic() - start
        wait_for(lambda: self.num_nodes() == 2, 60, "two nodes")
        wait_for(
            lambda: lost <= self.results() | {run_dir.trial_id for run_dir in self.running_on(1, 2)},
            120,
            "its trials go on",
        )
        assert "shutdown" not in self.watchdog_asked()
        run("plug", "3")
        wait_for(lambda: self.num_nodes() == 3, 90, "host 3 back")
        self.findings["num_moved"] = len(lost)

    def wait_for_job(self, folder: Path) -> None:
        wait_for(lambda: len(self.results()) == NUM_TRIALS[self.name], 480, "all results")
        try:
            self.wait_for_end("succeeded")
        finally:
            output = self.on_head(f"ray job logs {self.job} --address http://127.0.0.1:8265")
            (folder / "job.txt").write_text(output)
        assert self.token not in output
        wait_for(self.mlflow_has_runs, 30, "MLflow")
        self.findings["hosts"] = sorted(
            {attempt["host"] for run_dir in self.run_dirs() for attempt in run_dir.attempts()}
        )

    def wait_for_end(self, how: str) -> None:
        ask = f"ray job status {self.job} --address http://127.0.0.1:8265"
        wait_for(lambda: f"'{self.job}' {how}" in self.on_head(ask), 120, f"the job {how}")

    def mlflow_has_runs(self) -> bool:
        ask = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/get-by-name?experiment_name=paper_grid-mini"
        return '"experiment_id"' in on(1, "curl", "-s", ask, check=False)

    def kill_mlflow(self) -> None:
        """The server, then its supervisor too, as when the machine boots; the runs are still there."""
        on(1, "pkill", "-KILL", "-f", "uvicorn")
        assert not self.mlflow_has_runs()
        wait_for(self.mlflow_has_runs, 60, "MLflow after its server was killed")
        on(1, "pkill", "-KILL", "-f", "mlflow")
        assert not self.mlflow_has_runs()
        at_boot = on(1, "crontab", "-l", "-u", "ubuntu").replace("@reboot ", "")
        on(1, "su", "ubuntu", "-s", "/bin/sh", "-c", f"cd; HOME=/home/ubuntu; export HOME; {at_boot}")
        wait_for(self.mlflow_has_runs, 60, "MLflow after a boot")

    def end(self) -> None:
        """As local.yaml says; nothing is left."""
        for host in range(2, self.num_hosts + 1):
            on(host, "su", "-", "ubuntu", "-c", "bash -ic 'ray stop'")
        self.type("ray down", {"ray down": "ray down -y"})
        for host in range(1, self.num_hosts + 1):
            left = on(host, "pgrep", "-fa", "raylet|gcs_server|sweeps.running.launcher", check=False)
            assert "raylet" not in left, left


def main(folder: Path, name: str) -> None:
    os.environ["PATH"] = f"{VENV / 'bin'}:{os.environ['PATH']}"
    laboratory = Laboratory(name)
    laboratory.prepare()
    if name == "small":
        laboratory.launch_stop_and_go_on()
    else:
        laboratory.begin()
        laboratory.submit()
        laboratory.begin_watchdog()
        laboratory.pull_a_cable()
    laboratory.wait_for_job(folder)
    if name == "whole":
        wait_for(lambda: "shutdown -h now" in laboratory.watchdog_asked(), 60, "the watchdog")
        laboratory.kill_mlflow()
    else:
        laboratory.bring_home()
    laboratory.end()
    (folder / "findings.json").write_text(json.dumps(laboratory.findings))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
