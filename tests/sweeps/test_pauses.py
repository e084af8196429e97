"""Candidates that pause at their rung and go on: what comes of it depends neither on slots nor on who dies when."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.sweep_process import Start, numbers
from vit_trainer.files.run_dir import RunDir

RATES = ("0.003", "0.001", "0.01", "0.0003")


def decisions(storage: Path) -> set[tuple[str, str, str]]:
    lines = (storage / "sweeps" / "paper_grid-mini" / "decisions.jsonl").read_text().splitlines()
    return {(each["trial_id"], each["action"], each["rule"]) for each in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_better_half_goes_on_and_the_others_give_their_states_back(
    start: Start, tmp_path: Path, two_slots: str, cluster: Any
) -> None:
    flags = ("--early-stopping", "asha", "--base-lrs", *RATES)
    killed, wide = tmp_path / "killed", tmp_path / "wide"
    first = start(killed, *flags, address=two_slots)
    paused = first.wait_until(lambda run_dir: any("paused" in line for line in run_dir.lines()))
    first.process.send_signal(signal.SIGKILL)
    first.finish()
    assert paused.lease() is None
    assert paused.result() is None
    code, out, err = start(killed, *flags, address=two_slots).finish()
    assert code == 0, err
    cluster.add_node(num_cpus=4)
    code, _, err = start(wide, *flags, address=cluster.address).finish()
    assert code == 0, err

    assert numbers(killed) == numbers(wide)
    assert decisions(killed) == decisions(wide)
    runs = [RunDir(path) for path in (killed / "runs").iterdir()]
    ends = {run.trial_id: ((run.result() or {})["status"], (run.result() or {})["step"]) for run in runs}
    assert sorted(ends.values()) == [("finished", 80), ("finished", 80), ("stopped", 20), ("stopped", 20)]
    for run in runs:
        with run.checkpoint() as checkpoint:
            assert checkpoint is None
    at_rung = {run.trial_id: next(row["val/accuracy"] for row in run.journal() if row["step"] == 20) for run in runs}
    went_on, stopped = ([at_rung[name] for name, (end, _) in ends.items() if end == e] for e in ("finished", "stopped"))
    assert min(went_on) >= max(stopped)
    code, out, err = start(killed, *flags, address=two_slots).finish()
    assert code == 0, err
    assert "4 trials, 4 of them done" in out
