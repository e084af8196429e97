"""Trials of two processes on real Ray clusters: on one node, over two, next to trials of one; killed and freed."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.checks.parity_on_nodes import SWITCH
from sweeps.machines.spot_notices import AWS
from sweeps.options import SweepOptions
from sweeps.planning.capacity import Resources
from sweeps.running.session import Session
from sweeps.table.cells import cell_of
from tests.sweeps.metadata_server import MetadataServer
from tests.sweeps.storages import ATTEMPT, write_run
from tests.sweeps.sweep_process import BASE_LRS, Start, has_validated, has_validated_in, is_finished, numbers
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import RunDir


@pytest.fixture(autouse=True)
def _gpus_that_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")  # nothing could be verified on them


def test_a_gang_is_spread_over_as_few_nodes_as_hold_it() -> None:
    eights = Resources(gpus_of_nodes=(0, 8, 8), cpus_of_nodes=(4, 96, 96))
    assert eights.num_slots == 16
    assert eights.processes_of_nodes(1) == (1,)
    assert eights.processes_of_nodes(8) == (8,)
    assert eights.processes_of_nodes(16) == (8, 8)
    assert Resources((1, 1, 1), (8, 8, 8)).processes_of_nodes(3) == (1, 1, 1)
    assert Resources((4, 2, 2), (8, 8, 8)).processes_of_nodes(6) == (2, 2, 2)
    assert Resources((0, 0), (2, 2)).processes_of_nodes(4) == (2, 2)


@pytest.mark.parametrize("num_processes", [3, 32])
def test_a_gang_that_fits_nowhere_is_refused(num_processes: int) -> None:
    with pytest.raises(InputError, match=f"a trial of {num_processes} GPUs does not fit on nodes with 2, 2: give"):
        Resources((2, 2), (8, 8)).processes_of_nodes(num_processes)


def test_a_cluster_without_slots_is_said() -> None:
    with pytest.raises(InputError, match="no node of the Ray cluster has a GPU or CPU core for trials"):
        Resources((0,), (0,)).processes_of_nodes(1)


def assert_same_trajectory(storage: Path, quiet: dict[str, Any]) -> None:
    found = numbers(storage)
    assert len(found) == len(BASE_LRS)
    for trial_id, (rows, status, accuracy, _) in found.items():
        other_rows, other_status, other_accuracy, _ = quiet[trial_id]
        assert (status, accuracy) == (other_status, pytest.approx(other_accuracy, abs=0.012))
        for row, other in zip(rows, other_rows, strict=True):
            assert row == pytest.approx(other, abs=1e-3)


def process_of_rank(run_dir: RunDir, rank: int) -> int:
    """Of a gang on this machine: the first process writes, and the launcher started the others after it."""
    lease = run_dir.lease()
    assert lease is not None
    launcher = psutil.Process(lease["pid"]).ppid()
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return int(children[rank])


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_gang_survives_the_loss_of_any_process_and_a_request_to_end_after_which_it_goes_on_as_one(
    quiet: dict[str, Any], start: Start, tmp_path: Path, cluster: Any
) -> None:
    cluster.add_node(num_cpus=2, num_gpus=2)
    sweep = start(tmp_path, "--gpus-per-trial", "2", address=cluster.address)
    victim = sweep.wait_until(has_validated)
    for rank in (0, 1):
        sweep.wait_until(lambda each, n=rank + 1: each.trial_id == victim.trial_id and has_validated_in(n)(each))
        os.kill(process_of_rank(victim, rank), signal.SIGKILL)
    sweep.wait_until(lambda each: each.trial_id == victim.trial_id and has_validated_in(3)(each))
    sweep.process.terminate()
    code, out, err = sweep.finish()
    assert code == 130, err
    said = f"{victim.trial_id}: its process died (signal SIGKILL); goes on from its last checkpoint"
    assert out.count(said) == 2
    assert {attempt["num_processes"] for run_dir in sweep.run_dirs() for attempt in run_dir.attempts()} == {2}
    assert victim.lease() is None
    rows = victim.rows()
    num_steps_done_again = len(rows) - len(victim.journal())
    again = start(tmp_path, address=cluster.address)
    code, _, err = again.finish()
    assert code == 0, err
    assert [attempt["num_processes"] for attempt in victim.attempts()] == [2, 2, 2, 1]
    assert victim.attempts()[1]["from_step"] > 0
    assert victim.attempts()[3]["from_step"] >= rows[-1]["step"]
    assert len(victim.rows()) - len(victim.journal()) == num_steps_done_again
    assert_same_trajectory(tmp_path, quiet)


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("said", ["its node or actor was lost", "the cloud takes its node back at "])
def test_a_gang_over_two_nodes_moves_when_one_goes(
    said: str, quiet: dict[str, Any], start: Start, tmp_path: Path, cluster: Any
) -> None:
    with MetadataServer() as cloud:
        cluster.add_node(num_cpus=1, num_gpus=1)
        second = cluster.add_node(num_cpus=1, num_gpus=1, env_vars={AWS: f"http://{cloud.address}"})
        sweep = start(tmp_path, "--gpus-per-trial", "2", address=cluster.address)
        victim = sweep.wait_until(has_validated)
        if "lost" in said:
            cluster.remove_node(second, allow_graceful=False)
        else:
            cloud.take_back()
        cluster.add_node(num_cpus=1, num_gpus=1)
        sweep.wait_until(lambda run_dir: run_dir.trial_id == victim.trial_id and is_finished(run_dir))
        code, out, err = sweep.finish()
        cloud.shutdown()
    assert code == 0, err
    assert f"{victim.trial_id}: {said}" in out
    assert len(victim.attempts()) == 2
    assert "cloud" not in said or len(victim.rows()) == len(victim.journal())
    assert_same_trajectory(tmp_path, quiet)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_gangs_of_several_sizes_share_a_cluster_without_waiting_for_ever(
    start: Start, tmp_path: Path, cluster: Any
) -> None:
    for num_gpus in (2, 1):
        cluster.add_node(num_cpus=num_gpus, num_gpus=num_gpus)
    models = ["--models", "ViT-B_32-mini", "ViT-L_32-mini", "--gpus-per-trial", "1", "ViT-L_32-mini=2"]
    sweep = start(tmp_path, *models, address=cluster.address)
    code, _, err = sweep.finish()
    assert code == 0, err
    sizes = {run_dir.trial_id: run_dir.attempts()[0]["num_processes"] for run_dir in sweep.run_dirs()}  # one may grow
    assert sorted(sizes.values()) == [1, 1, 2, 2]
    assert all((size == 2) == trial_id.startswith("ViT-L_32-mini") for trial_id, size in sizes.items())
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    try:
        assert ray.available_resources()["GPU"] == ray.cluster_resources()["GPU"] == 3
    finally:
        ray.shutdown()


def test_a_deterministic_trial_keeps_its_number_of_processes(tmp_path: Path) -> None:
    config = FinetuneConfig.official("ViT-B_32-mini", "digits-even")
    attempt = ATTEMPT | {"num_processes": 2, "deterministic": True}
    write_run(tmp_path, config, [(50, 0.5)], None, attempt=attempt)
    options = SweepOptions(
        models=(config.model,), base_lrs=(f"{config.base_lr}",), storage=str(tmp_path), gpus_per_trial=("4",)
    )
    cells, execution = [cell_of(config.to_dict())], Execution(deterministic=True)
    with pytest.raises(InputError, match="num_processes is 4, but was 2 in an earlier attempt with --deterministic"):
        Session("sweep", cells, options, execution, lambda trial: None)
    Session("sweep", cells, replace(options, gpus_per_trial=("2",)), execution, lambda trial: None)
    Session("sweep", cells, options, Execution(), lambda trial: None)
