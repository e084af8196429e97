"""Checkpoints that no sweep works at: found, named by plan and command, and given back when asked."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.records.commands import record_command
from sweeps.records.left_states import left_behind, left_states
from sweeps.table.cells import Trial, official_cell
from tests.sweeps.storages import write_run
from vit_trainer.files.run_dir import CHECKPOINT, RunDir
from vit_trainer.files.storage import COMMANDS, TRACKING, Storage
from vit_trainer.tracking.catalogue import Catalogue, Membership

CELLS = [official_cell("ViT-B_16-mini", name) for name in ("digits-even", "digits-odd")]
DAYS = 86400.0


def paused(storage: Path, trial: Trial, *, days: float = 0.0) -> str:
    """A trial that waits at its rung; days: since anything was written there."""
    run_dir = write_run(storage, trial.config, [(2, 0.5)], None)
    run_dir.folder.write(CHECKPOINT, bytes(1000))
    for path in (storage / "runs" / run_dir.trial_id).rglob("*"):
        os.utime(path, (time.time() - days * DAYS,) * 2)
    return run_dir.trial_id


def sweep_of(storage: Path, name: str, trial_ids: list[str]) -> None:
    Catalogue(Storage(storage), name).add({trial_id: Membership() for trial_id in trial_ids})


def test_a_sweep_that_was_left_is_found_and_one_that_runs_keeps_what_is_paused(tmp_path: Path) -> None:
    first, second, third, fourth = (Trial(CELLS[0], rate, 0) for rate in (0.001, 0.003, 0.01, 0.03))
    running = [paused(tmp_path, first, days=3), paused(tmp_path, second)]
    left = [paused(tmp_path, third, days=5), paused(tmp_path, fourth, days=4)]
    sweep_of(tmp_path, "running", running)
    sweep_of(tmp_path, "left", left)
    alone = paused(tmp_path, replace(first, seed=7), days=2)
    paused(tmp_path, replace(first, seed=8))
    storage = Storage(tmp_path)
    assert [state.trial_id for state in left_states(storage)] == [*left, alone]
    assert [state.num_bytes for state in left_states(storage)] == [1000] * 3
    held = RunDir(tmp_path / "runs" / left[0])
    held.open_for_writing(third.config.to_dict())
    assert [state.trial_id for state in left_states(storage)] == [alone]
    assert left_behind(storage, [alone]) == ""


def test_what_the_last_command_of_a_sweep_left_out_is_found_while_it_runs(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    inside, outside = (paused(tmp_path, Trial(cell, 0.01, 0)) for cell in CELLS)
    sweep_of(tmp_path, "narrowed", [inside, outside])
    record_command(storage, "narrowed", CELLS, [])
    assert left_states(storage) == []
    record_command(storage, "narrowed", CELLS[:1], [])
    assert [state.trial_id for state in left_states(storage)] == [outside]
    commands = tmp_path / "sweeps" / "narrowed" / COMMANDS
    whole = commands.read_bytes()
    commands.write_bytes(whole + b"[3]\n")  # perhaps it was the last one
    assert left_states(storage) == []
    commands.write_bytes(whole)
    (tmp_path / "sweeps" / "narrowed" / TRACKING).write_bytes(b"[3]")
    old = paused(tmp_path, Trial(CELLS[1], 0.03, 0), days=3)  # perhaps one of that sweep
    assert old not in [state.trial_id for state in left_states(storage)]


def test_the_command_lists_and_gives_back_only_when_told_to(tmp_path: Path) -> None:
    storage = tmp_path / "a storage"
    trial_id = paused(storage, Trial(CELLS[0], 0.01, 0), days=3)
    command = [sys.executable, "sweeps/clean.py", "--storage", str(storage)]

    def said(*flags: str) -> str:
        return subprocess.run([*command, *flags], check=True, capture_output=True, text=True).stdout

    run_dir = RunDir(storage / "runs" / trial_id)
    rows = run_dir.rows()
    assert f"--storage '{storage}' lists them" in left_behind(Storage(storage))
    assert said() == f"left: {trial_id}, 0.000001 GB, 3 days old\n0.000001 GB in 1 checkpoint; --yes removes them\n"
    assert run_dir.folder.read(CHECKPOINT) is not None
    assert said("--idle-hours", "100") == f"no checkpoint in {storage} was left for 100 hours\n"
    assert said("--yes") == f"removed: {trial_id}, 0.000001 GB, 3 days old\n0.000001 GB given back\n"
    assert run_dir.folder.read(CHECKPOINT) is None
    assert run_dir.rows() == rows


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--idle-hours", "nan"], "idle_hours nan: give hours from 0 on, such as 24"),
        (["--storage", "/nowhere"], "storage /nowhere is no folder: give the --storage of a sweep"),
    ],
)
def test_what_it_cannot_do_is_one_line(flags: list[str], said: str) -> None:
    command = [sys.executable, "sweeps/clean.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [f"error: {said}"]
