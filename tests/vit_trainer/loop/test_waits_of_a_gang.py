"""While the first process of a gang waits for the outside, no other waits in a collective that would give up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vit_trainer.config import FinetuneConfig
from vit_trainer.files.run_dir import RunDir

ROOT = Path(__file__).parents[3]
CONFIG = FinetuneConfig.official("ViT-B_32-mini", "digits-even", total_steps=4, warmup_steps=1, global_batch_size=16)
RANK = """
import sys, time
from datetime import timedelta
import torch
from torch import distributed
torch.set_num_threads(1)
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.train import train

distributed.init_process_group("gloo", timeout=timedelta(seconds=4))

def report(row):
    if row.get("step") == 2:
        time.sleep(10)  # longer than any collective may take

train(FinetuneConfig(**CONFIG), RunDir(LOCATION), Execution(num_evaluations=2), report)
"""


@pytest.mark.slow
def test_a_word_that_comes_later_than_a_collective_may_take_costs_a_gang_nothing(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(
        RANK.replace("CONFIG", repr(CONFIG.to_dict())).replace("LOCATION", repr(str(tmp_path / "run")))
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "rank.py")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (RunDir(tmp_path / "run").result() or {})["status"] == "finished"
