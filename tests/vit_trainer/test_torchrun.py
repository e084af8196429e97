"""Training as `torchrun` and `accelerate launch` start it, in several processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vit_trainer.files.predictions import Predictions
from vit_trainer.files.run_dir import PREDICTIONS, RunDir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

BIN = Path(sys.executable).parent
TORCHRUN = (str(BIN / "torchrun"), "--standalone", "--nproc-per-node=2")
LAUNCH = (str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0")
TRAIN = ("train", "--model", "ViT-B_32-mini", "--dataset", "digits-even", "--warmup-steps", "2")
ROOT = Path(__file__).parents[2]
FAILS = """
import os
from vit_trainer.__main__ import app
from vit_trainer.command_line import run
from vit_trainer.loop.step import Gradients

def compute(self, step, compute=Gradients.compute):
    if step == 3 and os.environ["RANK"] == "1":
        raise OSError("the disk of the second process is gone")
    return compute(self, step)

Gradients.compute = compute
run(app)
"""


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts what is given, in a group of its own as a shell does, and leaves nothing behind."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> "subprocess.Popen[str]":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_both_launchers_train_the_same_and_only_the_first_process_prints(start: Any, tmp_path: Path) -> None:
    processes = {
        name: start(*launcher, "-m", "vit_trainer", *TRAIN, "--total-steps", "8", "--storage", str(tmp_path / name))
        for name, launcher in (("torchrun", TORCHRUN), ("accelerate", LAUNCH))
    }
    losses = []
    for name, process in processes.items():
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        (folder,) = (tmp_path / name / "runs").iterdir()
        run_dir = RunDir(folder)
        assert out.splitlines()[0] == f"{run_dir.trial_id} in {folder}"
        assert out.count("test/accuracy") == out.count("step 8:") == 1
        assert run_dir.attempts()[0]["num_processes"] == 2
        losses.append([row["train/loss"] for row in run_dir.journal()])
        predictions = Predictions.from_bytes(run_dir.folder.read(PREDICTIONS) or b"")
        assert predictions.num_correct / predictions.num_images == (run_dir.result() or {})["test/accuracy"]
    assert losses[0] == losses[1]


def test_what_fails_is_said_once_by_the_process_that_it_happens_to(start: Any, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    steps = ("--total-steps", "8", "--storage", str(tmp_path / "storage"))
    unknown = start(*TORCHRUN, "-m", "vit_trainer", *TRAIN, *steps, "--model", "ViT-B_33")
    in_second = start(*TORCHRUN, str(tmp_path / "fails.py"), *TRAIN, *steps)
    diverges = start(*TORCHRUN, "-m", "vit_trainer", *TRAIN, *steps, "--base-lr", "1e38")
    for process, message in (
        (unknown, "error: "),
        (in_second, "error: the disk of the second process is gone"),
        (diverges, "error: the training loss is nan at step"),
    ):
        _, err = process.communicate(timeout=200)
        assert process.returncode == 1  # torchrun's own
        assert err.count(message) == 1, err
        assert "onnection" not in err.replace("ConnectionError", ""), err  # who lost the other says nothing


def test_ctrl_c_keeps_the_state_and_says_how_to_go_on(start: Any, tmp_path: Path) -> None:
    command = (*TORCHRUN, "-m", "vit_trainer", *TRAIN, "--total-steps", "400", "--storage", str(tmp_path))
    process = start(*command)
    assert process.stdout is not None
    while "step" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # torchrun passes it on to those who have got it already
    _, err = process.communicate(timeout=100)
    assert err.count("keeping the state; Ctrl-C again to leave at once") == 1
    assert err.count("its state is kept. To go on: the same command") == 1
    (folder,) = (tmp_path / "runs").iterdir()
    run_dir = RunDir(folder)
    assert run_dir.result() is None
    assert run_dir.lease() is None
