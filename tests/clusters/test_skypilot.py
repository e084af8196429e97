"""clusters/skypilot.yaml with SkyPilot's own parser, and what it runs on two hosts as SkyPilot would."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clusters.laboratory import ROOT, SWEEPS, VENV
from tests.clusters.test_local import missing, table
from vit_trainer.files.run_dir import RunDir

FILE, SCRIPT = ROOT / "clusters" / "skypilot.yaml", ROOT / "clusters" / "skypilot.sh"
PARSE = """
import json, sys, yaml, sky
config = yaml.safe_load(open(sys.argv[1]))
task = sky.Task.from_yaml_config(config, [("BUCKET", "s3://mine")], [("RAY_AUTH_TOKEN", "0")])
print(json.dumps({"envs": task.envs, "nodes": task.num_nodes, "run": task.run, "offers": [
    {"accelerators": each.accelerators, "spot": each.use_spot, "cloud": str(each.cloud)} for each in task.resources]}))
"""
TWO_HOSTS = """
set -euo pipefail
export TMPDIR=/tmp
for host in 1 2; do
    on $host cp {root}/constraints.txt {venv}/.constraints
    on $host ln -s {venv} /root/vit-venv
    on $host bash -c 'umask 077; mkdir -p ~/.ray; printf %s {token} > ~/.ray/auth_token'
    on $host env NODE_RC=/root/vit-venv/.rc bash {root}/clusters/setup.sh
done
theirs="env RAY_TMPDIR=/tmp/ray_skypilot RAY_AUTH_MODE=disabled"
on 1 $theirs ray start --head --port=6380 --num-cpus=1 --include-dashboard=false --disable-usage-stats > /dev/null
run() {{
    on "$1" env --chdir={root} SKYPILOT_NODE_RANK=$(($1 - 1)) SKYPILOT_NUM_NODES=2 SKYPILOT_NUM_GPUS_PER_NODE=0 \
        SKYPILOT_NODE_IPS=$'10.77.0.11\\n10.77.0.12' RAY_AUTH_TOKEN={token} bash clusters/skypilot.sh "${{@:2}}"
}}
run 2 false > {folder}/worker.txt 2>&1 & worker=$!
sweep="python sweeps/paper_grid.py {sweep} --storage /shared/vit-sweeps; exit 7"
code=0; run 1 bash -c "$sweep" > {folder}/job.txt 2>&1 || code=$?
wait $worker
cat {folder}/job.txt {folder}/worker.txt
echo "the job ended with $code"
on 1 $theirs ray status --address=10.77.0.11:6380 > {folder}/theirs.txt
! on 2 pgrep -f raylet/raylet
cp -r "$LAB"/shared/vit-sweeps/runs {folder}/runs
"""


def content() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


def test_its_ray_is_apart_from_that_of_skypilot() -> None:
    script = re.sub(r"#.*", "", SCRIPT.read_text())
    assert "ray stop" not in script
    assert "6380" not in script  # SkyPilot's
    assert "port=${VIT_RAY_PORT:-6379}" in script
    config = content()
    assert config["run"].startswith("bash clusters/skypilot.sh python sweeps/paper_grid.py ")
    assert config["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert "inputs.sh cifar10 " in config["setup"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_skypilot_accepts_it(tmp_path: Path) -> None:
    version = re.findall(r"Parsed by SkyPilot (\S+),", FILE.read_text())
    assert f"skypilot[aws]=={version[0]}" in FILE.read_text()
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"skypilot=={version[0]}"]
    done = subprocess.run(install, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no SkyPilot: {done.stderr[-300:]}")
    (tmp_path / "home").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    parsed = subprocess.run(
        [python, "-c", PARSE, str(FILE)], check=False, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert parsed.returncode == 0, parsed.stdout + parsed.stderr
    task = json.loads(parsed.stdout.splitlines()[-1])
    assert (task["envs"], task["nodes"]) == ({"BUCKET": "s3://mine"}, 1)
    assert task["run"] == content()["run"]
    assert {next(iter(offer["accelerators"])) for offer in task["offers"]} == {"A100", "A100-80GB", "H100"}
    assert all(offer["spot"] and offer["cloud"] == "AWS" for offer in task["offers"])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_hosts_become_one_cluster_and_skypilots_ray_stays(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    words = {"root": ROOT, "venv": VENV, "token": "0" * 64, "folder": tmp_path, "sweep": " ".join(SWEEPS["small"])}
    done = subprocess.run(
        [str(ROOT / "tests" / "clusters" / "lab.sh"), "-n", "2", "bash", "-c", TWO_HOSTS.format(**words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"LAB_PATH": str(VENV / "bin"), "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "2 of 2 nodes are there" in done.stdout
    assert len(table(done.stdout)) > 0
    assert "the job ended with 7" in done.stdout
    attempts = [attempt for run in (tmp_path / "runs").iterdir() for attempt in RunDir(run).attempts()]
    assert {attempt["host"] for attempt in attempts} <= {"h1", "h2"}
    assert len(attempts) == 2
    assert "Active:\n 1 node_" in (tmp_path / "theirs.txt").read_text()
