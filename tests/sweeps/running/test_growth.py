"""Gangs that grow: real Ray, Tune and scheduler; the trials only wait, on the plan's clock."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = """
import json, sys
from benchmarks.makespan import makespan
from sweeps.table.cells import official_cell
cells = [official_cell("ViT-B_16", "cifar10"), official_cell("ViT-B_32", "cifar10")]
found = [makespan(cells, [4], 8.0, base_lrs=(0.01, 0.03), grow_gangs=grows) for grows in (True, False)]
print(json.dumps([vars(each) for each in found]))
"""


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_trial_that_would_end_last_goes_on_with_the_gpus_that_would_idle() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, check=True, capture_output=True, text=True)
    growing, fixed = json.loads(done.stdout.splitlines()[-1])
    assert fixed["num_moves"] == 0
    assert growing["hours"] < 0.9 * fixed["hours"]
    assert growing["gpu_hours"] == pytest.approx(fixed["gpu_hours"], rel=0.02)
