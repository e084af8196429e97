"""A cluster that gets GPU nodes when a sweep asks for some: Ray's own autoscaler, whose nodes are raylets here."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from benchmarks.formulas import FormulaActor, formula_cells
from sweeps.checks.parity_on_nodes import SWITCH
from sweeps.display.from_folders import FolderWatch
from sweeps.options import SweepOptions
from sweeps.running import growth
from sweeps.running.idle import ELSE, PATIENCE
from sweeps.running.session import Session
from sweeps.running.tuner import run_trials, start_ray
from tests.clusters.heads import end, home_of_its_own, own_address, running_head
from tests.clusters.spot_market import SOLD_OUT
from tests.sweeps.sweep_process import SCRIPT, Sweep, is_finished
from vit_trainer.config import Execution

ROOT = Path(__file__).parents[2]
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


Grow = Callable[..., Any]


@pytest.fixture
def grow(monkeypatch: pytest.MonkeyPatch) -> Grow:
    """Starts a head without GPUs and its autoscaler, with what `ray up` leaves in HOME, while a context lasts.

    Takes of each kind of node its GPUs and how many there may be, and names of those that are sold out. With tokens,
    this process itself, which has none, can't join it.
    """

    @contextmanager
    def started(sold_out: str = "", auth_mode: str = "disabled", **kinds: tuple[int, int]) -> Iterator[Growing]:
        address, num_workers = own_address(), sum(most for _, most in kinds.values())
        config = {
            "cluster_name": "growing",
            "max_workers": num_workers,
            "upscaling_speed": num_workers,
            "idle_timeout_minutes": 0.05,
            "provider": {
                "type": "external",  # Ray's packages lack a file that `type: fake_multinode` reads
                "module": "tests.clusters.spot_market.SpotMarket",
                "launch_multiple": True,
                "disable_node_updaters": True,
                "head_node_id": HEAD_ID,
                "gcs_address": address,
            },
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                **{
                    name: {
                        "resources": {"CPU": num_gpus, "GPU": num_gpus, "object_store_memory": 80_000_000},
                        "node_config": {},
                        "min_workers": 0,
                        "max_workers": most,
                    }
                    for name, (num_gpus, most) in kinds.items()
                },
            },
            **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
            **{
                name: [] for name in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands")
            },
            **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
            "file_mounts": {},
            "docker": {},
            "auth": {},
        }
        fake = {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "PYTHONPATH": str(ROOT)}
        with home_of_its_own(monkeypatch) as home:
            (home / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
            SOLD_OUT.expanduser().write_text(sold_out)
            monkeypatch.setenv("RAY_ADDRESS", address)
            monkeypatch.setenv("RAY_AUTH_MODE", auth_mode)
            with running_head(home, address, "ray.head.default", HEAD_ID, **fake):
                watch = subprocess.Popen(
                    [sys.executable, "-c", WATCH], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
                try:
                    assert watch.stdout is not None
                    # Ray prints warnings of its own between ours
                    lines = (line.split()[-1] for line in watch.stdout if line.startswith("GPU nodes: "))
                    yield Growing(address, lines)
                finally:
                    ray.shutdown()
                    end(watch)

    return started


@pytest.fixture(autouse=True)
def _gpus_that_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")  # nothing could be verified on them


@ray.remote(num_cpus=0)
class Gate:
    """Holds whoever comes until it is opened."""

    def __init__(self) -> None:
        import asyncio

        self._is_open = asyncio.Event()

    async def open(self) -> None:
        self._is_open.set()

    async def come(self) -> None:
        await self._is_open.wait()


def held_at_gate(*seeds: int) -> type[FormulaActor]:
    """Trials of which those of some seeds wait at the gate before their first step."""

    class Held(FormulaActor):  # in here, so that it travels by value: Ray's workers can't import a test
        def step(self) -> dict[str, Any]:
            if self._config.seed in seeds:
                ray.get(ray.get_actor("gate").come.remote())
            return super().step() | {"node": ""}

    return Held


def formulas(storage: Path, num_trials: int, **options: Any) -> Session:
    given = {"storage": str(storage), "base_lrs": ("0.01",), "early_stopping": None, "quiet": True} | options
    cells, seeds = formula_cells(1, 2), tuple(range(num_trials))
    return Session("formulas", cells, SweepOptions(seeds=seeds, **given), Execution(), lambda trial: None)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_nodes_count_before_they_have_come_and_come_with_a_sweep_and_go_after_it_however_it_ends(
    grow: Grow, tmp_path: Path
) -> None:
    with grow(auth_mode="token", gpu=(1, MAX_WORKERS)) as growing:
        assert next(growing.num_gpu_nodes) == "0"

        command = [sys.executable, str(SCRIPT), "--plan", "--storage", str(tmp_path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert "2 GPUs in the Ray cluster: running the paper's grid." in done.stdout
        assert "on 2 GPUs, 2 of them on nodes that are still to come" in done.stdout
        sweep = Sweep(tmp_path / "large", "--gpus-per-trial", "4", address=growing.address)
        code, _, err = sweep.finish(60)
        assert code == 2
        assert err.splitlines()[-1].endswith(
            "ViT-B_32-mini: a trial of 4 GPUs does not fit on nodes with 1, 1: "
            "give a number of GPUs per trial that fits on one node or fills several"
        )
        assert not (sweep.storage / "sweeps").exists()

        def until_none() -> int:
            most = 0
            for number in growing.num_gpu_nodes:
                most = max(most, int(number))
                if number == "0":
                    break
            return most

        sweep = Sweep(tmp_path, address=growing.address)
        try:
            code, out, err = sweep.finish(120)
        finally:
            end(sweep.process)
        assert code == 0, out + err
        assert len(sweep.run_dirs()) == 2
        assert all(is_finished(run_dir) for run_dir in sweep.run_dirs())
        assert until_none() == MAX_WORKERS
        killed = Sweep(tmp_path / "killed", address=growing.address)
        assert next(growing.num_gpu_nodes) == "1"
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.finish()
        until_none()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_as_many_nodes_come_as_the_trials_fill_and_one_that_nothing_is_left_for_goes(
    grow: Grow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "SECONDS_TO_KEEP", 0.5)
    with grow(gpu=(3, 4)) as growing:
        start_ray()
        gate = Gate.options(name="gate").remote()  # type: ignore[attr-defined]
        numbers: list[str] = []

        def open_when_one_is_left() -> None:
            for number in growing.num_gpu_nodes:
                numbers.append(number)
                if number == "1" and "2" in numbers:
                    break
            ray.get(gate.open.remote())

        opener = threading.Thread(target=open_when_one_is_left, daemon=True)
        opener.start()
        session = formulas(tmp_path, 5, grow_gangs=False)
        assert run_trials(session, held_at_gate(0)) is None
        opener.join(10)
        assert session.counts() == {"finished": 5}
        assert max(map(int, numbers)) == 2  # of four that there may be
        assert numbers[-1] == "1"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_where_nodes_do_not_come_that_is_said_and_what_else_there_is_goes_on(
    grow: Grow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gangs are sized for the larger kind of node, of which there is none: they begin with less, one on the other."""
    monkeypatch.setenv(PATIENCE, "0.15")
    with grow(large=(4, 1), small=(1, 1), sold_out="large"):
        start_ray()
        gate = Gate.options(name="gate").remote()  # type: ignore[attr-defined]
        session = formulas(tmp_path, 2, grow_gangs=True)
        warned, seen = session.display.warned, []

        def warn(line: str) -> None:
            warned(line)
            if ELSE in line and session.holding and not seen:
                seen.append(FolderWatch(str(tmp_path)).read().awaits)
                assert session.display.standing().awaits == line
                SOLD_OUT.expanduser().write_text("")
                ray.get(gate.open.remote())

        monkeypatch.setattr(session.display, "warned", warn)
        assert run_trials(session, held_at_gate(0, 1)) is None
        assert session.counts() == {"finished": 2}
        said = capsys.readouterr().err
        assert "not there yet" in said
        assert "attempts failed; the sweep goes on with 1 GPU; what else could be asked: on demand" in said
        assert seen
        assert "ago (1 x large) and not there yet" in seen[0]
        assert session.display.standing().awaits == FolderWatch(str(tmp_path)).read().awaits == ""
        assert {event.text for event in session.display.standing().events if "for want of larger nodes" in event.text}
