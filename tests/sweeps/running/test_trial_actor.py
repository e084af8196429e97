"""The actor that Tune schedules, in a real Ray."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sweeps.cluster.versions import package_versions
from sweeps.running.assignment import Assignment
from sweeps.running.trial_actor import TrialActor
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import RunDir

CONFIG = FinetuneConfig.official("ViT-B_32-mini", "digits-even", total_steps=2, warmup_steps=0, global_batch_size=16)


ActorClass = Callable[..., Any]
"""Makes one over so many bundles."""


@pytest.fixture(scope="module")
def actor_of() -> Iterator[ActorClass]:
    """A TrialActor in a placement group, as Tune starts it."""

    class Watched(TrialActor):  # in here, since Ray's processes can't import this file
        def first_report(self) -> object:
            """What a process of a trial says first, or None if none runs."""
            return self._launcher.receive() if self._launcher is not None and self._launcher._pids else None

    def actor_of(num_bundles: int) -> Any:
        group = placement_group([{"CPU": 1}] * num_bundles)
        strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
        return ray.remote(Watched).options(num_cpus=1, scheduling_strategy=strategy)

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield actor_of
    ray.shutdown()


@pytest.fixture(scope="module")
def actor_class(actor_of: ActorClass) -> Any:
    return actor_of(1)


def _command(process: psutil.Process) -> str:
    """Empty once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.slow
def test_a_gang_over_two_nodes_that_hangs_ends_as_one_and_goes_on(actor_of: ActorClass, tmp_path: Path) -> None:
    """Its parts have launchers of their own, as on two nodes."""
    config = replace(CONFIG, total_steps=100)
    execution = Execution(num_evaluations=1, log_every_steps=5, hang_minutes=0.05, checkpoint_every_minutes=1e-3)
    assignment = Assignment(config, str(tmp_path), execution, processes_of_nodes=(1, 1))
    actor = actor_of(2).remote(config={"assignment": assignment})
    first = actor.train.remote()
    while not (rows := RunDir(tmp_path).rows()) or rows[-1]["step"] < 10:
        if ray.wait([first], timeout=0.005)[0]:
            assert ray.get(first)["stepped"]
            first = actor.train.remote()
    launchers = [each for each in psutil.Process().children(recursive=True) if "launcher" in _command(each)]
    trained = [each for each in launchers if each.ppid() in {launcher.pid for launcher in launchers}]
    (other,) = [each for each in trained if each.pid != (RunDir(tmp_path).lease() or {})["pid"]]
    os.kill(other.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    note = ray.get(first)["note"]
    assert time.monotonic() - stopped < 60
    assert note.startswith("it hung (rank ")
    assert "rank 1 took no step for too long: rank 1 in " in note
    assert note.endswith("; goes on from its last checkpoint (retry 1 of 3)")
    while not ray.get(actor.train.remote()).get("done"):
        pass
    run_dir = RunDir(tmp_path)
    assert (run_dir.result() or {})["status"] == "finished"
    assert note in [line.get("note") for line in run_dir.lines()]
    assert [attempt["from_step"] > 0 for attempt in run_dir.attempts()] == [False, True]
    ray.get(actor.stop.remote())
    ray.kill(actor)


def test_an_actor_that_starts_too_late_leaves_a_trial_that_ran_elsewhere_alone(
    actor_class: type, tmp_path: Path
) -> None:
    """While it starts, Tune gives its trial to an actor that has become free, and stops it when it is there."""
    result = {"status": "finished", "step": 2, "test/accuracy": 1.0, "val/accuracy": 1.0}
    elsewhere = RunDir(tmp_path)
    elsewhere.open_for_writing(CONFIG.to_dict())
    elsewhere.write_result(result)
    elsewhere.close()
    actor = actor_class.remote(config={"assignment": Assignment(CONFIG, str(tmp_path), Execution())})
    assert ray.get(actor.first_report.remote()) is None
    ray.get(actor.stop.remote())
    assert RunDir(tmp_path).result() == result
    assert RunDir(tmp_path).attempts() == []
    ray.kill(actor)


def test_it_runs_a_trial_and_then_another(actor_class: type, tmp_path: Path) -> None:
    assignment = Assignment(CONFIG, str(tmp_path / "one"), Execution(), versions=package_versions())
    actor = actor_class.remote(config={"assignment": assignment})
    for name in ("one", "two"):
        if name == "two":
            assert ray.get(actor.reset.remote({"assignment": Assignment(CONFIG, str(tmp_path / name), Execution())}))
        while not ray.get(actor.train.remote()).get("done"):
            pass
        result = RunDir(tmp_path / name).result()
        assert result is not None
        assert result["status"] == "finished"
    ray.get(actor.stop.remote())
    ray.kill(actor)


def test_where_versions_differ_from_the_drivers_or_inputs_are_missing_nothing_is_run(
    actor_class: type, tmp_path: Path
) -> None:
    """The actor's node may have joined the cluster after all others were asked."""
    here, other = package_versions(), FinetuneConfig.official("ViT-B_16", "cifar10")
    assignment = Assignment(CONFIG, str(tmp_path), Execution(), versions=here | {"timm": "0.0.1"})
    actor = actor_class.remote(config={"assignment": assignment})
    result = ray.get(actor.train.remote())
    assert result["done"]
    assert f"has timm {here['timm']}, this process 0.0.1: give all nodes" in result["refused"]
    ray.get(actor.reset.remote({"assignment": Assignment(other, str(tmp_path), Execution(), versions=here)}))
    refused = ray.get(actor.train.remote())["refused"]
    assert re.match(r"node [\d.]+: no imagenet21k checkpoint of ViT-B_16: run python -m vit_trainer fetch", refused)
    assert RunDir(tmp_path).attempts() == []
    ray.get(actor.stop.remote())
    ray.kill(actor)
