"""A cluster that gets GPU nodes when a sweep asks for some: Ray's own autoscaler, whose nodes are raylets here."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sweeps.checks.parity_on_nodes import SWITCH
from tests.clusters.heads import end, home_of_its_own, own_address, running_head
from tests.sweeps.sweep_process import SCRIPT, Sweep, is_finished

MAX_WORKERS = 2
HEAD_ID = "f" * 51 + "00000"
"""The one that Ray's fake provider expects of its head."""
WATCH = """
import ray, time
ray.init(log_to_driver=False)
before = None
while True:
    now = sum(node["Alive"] and "GPU" in node["Resources"] for node in ray.nodes())
    if now != before:
        print("GPU nodes:", now, flush=True)
    before = now
    time.sleep(0.1)
"""


@dataclass(frozen=True)
class Growing:
    """The cluster as a driver on its head sees it."""

    address: str
    num_gpu_nodes: Iterator[str]
    """How many live, from the beginning, and again whenever their number changes."""


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Growing]:
    """A head without GPUs, its autoscaler, and in HOME what `ray up` leaves there."""
    address = own_address()
    config = {
        "cluster_name": "growing",
        "max_workers": MAX_WORKERS,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "external",  # Ray's packages lack a file that `type: fake_multinode` reads
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "disable_node_updaters": True,
            "head_node_id": HEAD_ID,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 80_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": MAX_WORKERS,
            },
        },
        **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
        **{name: [] for name in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts": {},
        "docker": {},
        "auth": {},
    }
    fake = {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
    with home_of_its_own(monkeypatch) as home:
        (home / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
        monkeypatch.setenv("RAY_ADDRESS", address)
        with running_head(home, address, "ray.head.default", HEAD_ID, **fake):
            watch = subprocess.Popen(
                [sys.executable, "-c", WATCH], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            try:
                assert watch.stdout is not None
                # Ray prints warnings of its own between ours
                yield Growing(address, (line.split()[-1] for line in watch.stdout if line.startswith("GPU nodes: ")))
            finally:
                end(watch)


@pytest.fixture(autouse=True)
def _gpus_that_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")  # nothing could be verified on them


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nodes_count_before_they_have_come_and_come_with_a_sweep_and_go_after_it(
    growing: Growing, tmp_path: Path
) -> None:
    assert next(growing.num_gpu_nodes) == "0"

    def plan(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(SCRIPT), "--plan", "--storage", str(tmp_path), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    whole, too_large = plan(), plan("--gpus-per-trial", "4")
    out, err = whole.communicate(timeout=60)
    assert whole.returncode == 0, err
    assert "2 GPUs in the Ray cluster: running the paper's grid." in out
    _, err = too_large.communicate(timeout=60)
    assert too_large.returncode == 2
    assert "a trial of 4 GPUs does not fit on nodes with 1, 1" in err

    sweep = Sweep(tmp_path, address=growing.address)
    try:
        code, out, err = sweep.finish(120)
    finally:
        end(sweep.process)
    assert code == 0, out + err
    assert len(sweep.run_dirs()) == 2
    assert all(is_finished(run_dir) for run_dir in sweep.run_dirs())
    numbers = []
    for number in growing.num_gpu_nodes:
        numbers.append(int(number))
        if number == "0":
            break
    assert max(numbers) == MAX_WORKERS
    assert numbers[-1] == 0
