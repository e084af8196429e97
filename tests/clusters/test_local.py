"""clusters/local.yaml with a real `ray up` over real SSH, on hosts that lab.sh makes of namespaces."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.laboratory import NUM_HOSTS, SWEEPS
from tests.sweeps.test_chaos import table

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "sweeps" / "paper_grid.py"


def missing() -> str | None:
    """Why there can be no laboratory here."""
    if os.geteuid() != 0:
        return "needs root for namespaces"
    if Path("/tmp") in HERE.parents:
        return "needs the project elsewhere than in /tmp, of which each host has one of its own"
    programs = [
        name
        for name in ("ip", "nsenter", "rsync", "ssh", "curl", "crontab", "/usr/sbin/sshd")
        if not shutil.which(name)
    ]
    if programs:
        return f"needs {', '.join(programs)}: apt-get install iproute2 openssh-server rsync curl cron"
    flags = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork"]
    if subprocess.run(["unshare", *flags, "true"], check=False, capture_output=True).returncode:
        return "namespaces aren't allowed here"
    return None


def findings_of(folder: Path, name: str) -> dict[str, Any]:
    """What a sweep in the laboratory found out; what it printed is in job.txt."""
    if reason := missing():
        pytest.skip(reason)
    environment = os.environ | {"LAB_PATH": str(Path(sys.executable).parent)}
    inside = [sys.executable, str(HERE / "laboratory.py"), str(folder), name]
    done = subprocess.run(
        [str(HERE / "lab.sh"), "-n", str(NUM_HOSTS[name]), *inside],
        check=False,
        capture_output=True,
        text=True,
        timeout=800,
        env=environment,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    findings: dict[str, Any] = json.loads((folder / "findings.json").read_text())
    print(findings)
    return findings


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_submitted_sweep_runs_on_two_hosts_of_ones_own(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, "small")
    accuracies = [float(each) for each in table((tmp_path / "job.txt").read_text()) if not each.startswith("lr")]
    assert len(accuracies) == 2
    assert min(accuracies) > 95
    assert findings["hosts"] == ["h1", "h2"]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_cable_is_pulled_in_mid_run_and_the_table_is_that_of_a_quiet_run(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, "whole")
    command = [sys.executable, str(SCRIPT), *SWEEPS["whole"], "--storage", str(tmp_path / "quiet")]
    quiet = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=400, env=os.environ | {"RAY_ADDRESS": "local"}
    )
    assert table((tmp_path / "job.txt").read_text()) == table(quiet.stdout) != []
    assert findings["seconds_to_notice"] < 30
    assert findings["num_moved"] >= 1
    assert findings["hosts"] == ["h1", "h2", "h3"]
