"""Checkpoints are written beside the training: killed, slow and failing writes, for real."""

import json
import math
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import CheckpointError
from vit_trainer.files.folder import LocalFolder
from vit_trainer.files.run_dir import CHECKPOINT, Row, RunDir
from vit_trainer.loop.optim import OfficialSGD
from vit_trainer.loop.state import TrainState, sealed
from vit_trainer.train import train

ROOT = Path(__file__).parents[3]
CONFIG = FinetuneConfig.official(
    "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=8, warmup_steps=2, global_batch_size=16
)
EXECUTION = Execution(num_evaluations=8, save_weights=True)

POINTS = {
    "before it is copied": 2,
    "while it is copied": 2,
    "before it is written": 2,
    "in mid-write": 2,
    "once it is in place": 3,
}
"""When the process is killed in the life of its third checkpoint, and the step that the run then goes on from."""
KILLED = """
import os, signal
import torch
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files import folder
from vit_trainer.files.run_dir import RunDir
from vit_trainer.loop import ledger, state
from vit_trainer.loop.state import TrainState
from vit_trainer.train import train

torch.set_num_threads(1)
ledger.VALIDATION_MINUTES = 0.0
count = 0
copied, write = TrainState.copied, folder.write_atomically

def kill_at(where):
    if count == 3 and where == point:
        os.kill(os.getpid(), signal.SIGKILL)

def killing_copied(this):
    global count
    count += 1
    kill_at("before it is copied")
    return copied(this)

class KillingTypes(dict):
    num_asked = 0
    def __getitem__(self, dtype):  # asked once per tensor
        self.num_asked += 1
        if self.num_asked % 5 == 0:
            kill_at("while it is copied")
        return super().__getitem__(dtype)

def killing_write(path, *parts):
    if path.name != "state.safetensors":
        return write(path, *parts)
    kill_at("before it is written")
    if count == 3 and point == "in mid-write":
        content = b"".join(parts)
        path.with_name(".state.safetensors.0.tmp").write_bytes(content[: len(content) // 2])
    kill_at("in mid-write")
    write(path, *parts)
    kill_at("once it is in place")

TrainState.copied, folder.write_atomically = killing_copied, killing_write
state.DTYPES = KillingTypes(state.DTYPES)
config, execution = FinetuneConfig(**CONFIG), Execution(num_evaluations=8, save_weights=True)
for point in POINTS:
    for attempt in (1, 2):
        run_dir = RunDir(LOCATION + "/" + point)
        if (pid := os.fork()) == 0:
            if attempt == 2:
                count = 100
            train(config, run_dir, execution, lambda row: run_dir.finish_checkpoint())  # each validation has one
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == (signal.SIGKILL if attempt == 1 else 0), (point, attempt)
"""


def weights(run_dir: RunDir) -> dict[str, torch.Tensor]:
    with run_dir.weights() as path:
        assert path is not None
        return load_file(path)


@pytest.mark.slow
def test_killed_at_any_point_of_a_checkpoints_life_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    code = KILLED
    for name, value in {"CONFIG": CONFIG.to_dict(), "POINTS": list(POINTS), "LOCATION": str(tmp_path)}.items():
        code = code.replace(name, repr(value))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    quiet = RunDir(tmp_path / "quiet")
    train(CONFIG, quiet, EXECUTION)
    for point, step in POINTS.items():
        run_dir = RunDir(tmp_path / point)
        assert [attempt["from_step"] for attempt in run_dir.attempts()] == [0, step], point
        assert run_dir.folder.child("checkpoint").names() == []
        for name, tensor in weights(quiet).items():
            assert torch.equal(tensor, weights(run_dir)[name]), (point, name)
        for one, other in zip(quiet.journal(), run_dir.journal(), strict=True):
            assert [one[key] for key in ("step", "train/loss", "val/loss")] == [
                other[key] for key in ("step", "train/loss", "val/loss")
            ]


class SlowFolder(LocalFolder):
    """Puts no checkpoint in its place before it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.written: list[bytes] = []

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        if name == CHECKPOINT:
            self.begun.set()
            assert self.goes_on.wait(60)
            self.written.append(b"".join(parts))
        super().write(name, *parts)


@pytest.mark.usefixtures("saves_at_validations")
def test_a_slow_folder_stops_neither_the_loop_nor_changes_what_it_is_given(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path)
    run_dir = RunDir(folder)
    reports: list[Row] = []
    first: list[bytes] = []

    def report(row: Row) -> None:
        reports.append(row)
        if row["step"] == 1:
            assert folder.begun.wait(60)
        if row["step"] == 7:
            folder.goes_on.set()

    def copied(state: TrainState) -> list[bytes | memoryview]:
        assert not first or folder.goes_on.is_set()  # the only copy is still being written
        parts = before(state)
        first.append(b"".join(sealed(parts)))
        return parts

    before = TrainState.copied
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainState, "copied", copied)
        train(CONFIG, run_dir, EXECUTION, report)
    assert [row["step"] for row in reports] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert folder.written == first  # taken after step 1, and no later step got into it
    assert run_dir.folder.child("checkpoint").names() == []


@pytest.mark.usefixtures("saves_at_validations")
def test_a_write_that_fails_ends_the_run_with_its_cause(tmp_path: Path) -> None:
    class FullBucket(LocalFolder):
        def write(self, name: str, *parts: bytes | memoryview) -> None:
            if name == CHECKPOINT:
                raise OSError("the bucket says no")
            super().write(name, *parts)

    run_dir = RunDir(FullBucket(tmp_path))

    def wait(row: Row) -> None:
        assert run_dir._checkpoint is None or run_dir._checkpoint.exception(60)

    with pytest.raises(OSError, match="the bucket says no"):
        train(CONFIG, run_dir, EXECUTION, wait)
    result = run_dir.result()
    assert result is not None
    assert (result["status"], result["step"], result["cause"]) == ("failed", 1, "OSError: the bucket says no")
    assert run_dir.lease() is None


def test_a_state_is_restored_to_the_bit_in_every_type(tmp_path: Path) -> None:
    def state(seed: int) -> TrainState:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))  # with a counter, () int64
        optimizer = OfficialSGD(model.parameters())
        for momentum in optimizer.momentum:
            momentum.normal_()
        return TrainState(model, optimizer)

    one, other = state(0), state(1)
    one.progress.row = {"step": 3, "note": "ß" * 5}
    (tmp_path / "state").write_bytes(b"".join(sealed(one.copied())))
    other.restore(tmp_path / "state")
    assert other.progress == one.progress
    for name, tensor in one._tensors().items():
        assert torch.equal(tensor, other._tensors()[name]), name
    assert load_file(tmp_path / "state").keys() == one._tensors().keys()


def test_a_state_that_is_damaged_anywhere_or_of_another_trial_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(30, 50)
    optimizer = OfficialSGD(model.parameters())
    state = TrainState(model, optimizer, "a-trial", 10)
    state.progress.step = 7
    whole = b"".join(sealed(state.copied()))
    path, before = tmp_path / "state", model.weight.detach().clone()

    def refusal(content: bytes, trial_id: str = "a-trial", total_steps: int = 10) -> str:
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            TrainState(model, optimizer, trial_id, total_steps).restore(path)
        assert torch.equal(model.weight, before)
        return str(caught.value)

    assert "its checksum is another" in refusal(whole[:-4000] + bytes(4000))
    draw = random.Random(0)
    for _ in range(200):
        place = draw.randrange(len(whole))
        refusal(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
    for length in (0, 7, 100, len(whole) - 1):
        refusal(whole[:length])
    assert refusal(whole, "another-trial") == "the checkpoint is of a-trial"
    assert refusal(whole, total_steps=6) == "the checkpoint is of step 7, beyond 6"
    for step in ("7", None, -1, math.nan):
        state.progress.step = step  # type: ignore[assignment]
        refusal(b"".join(sealed(state.copied())))
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    del header["__metadata__"]["checksum"], header["__metadata__"]["trial_id"]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + int.from_bytes(whole[:8], "little") :])
    restored = TrainState(model, optimizer, "a-trial", 10)
    restored.restore(path)  # of an earlier version
    assert restored.progress.step == 7
