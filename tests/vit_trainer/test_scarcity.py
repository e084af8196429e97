"""Memory, disk and damaged files, for real: what a trial does when there is not enough or something is broken."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vit_trainer.__main__ import app
from vit_trainer.command_line import run
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.train import train

ROOT = Path(__file__).parents[2]
CONFIG = FinetuneConfig.official("ViT-B_16-mini", "digits-even", total_steps=4, warmup_steps=1, global_batch_size=16)
EXECUTION = Execution(num_evaluations=2)
LIMITED = """
import resource, sys, torch
torch.set_num_threads(1)
from vit_trainer.train import train
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import RunDir
config = FinetuneConfig(**{config!r})
torch.compile = lambda function, dynamic: function
train(config, RunDir({warm!r}), Execution(num_evaluations=1, micro_batch_size=8))  # what PyTorch takes once
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes} * 2**20, resource.RLIM_INFINITY))
train(config, RunDir({location!r}), Execution(num_evaluations=2, compile=True))
"""


def numbers(run_dir: RunDir) -> list[tuple[int, float, float]]:
    return [(row["step"], row["train/loss"], row["val/accuracy"]) for row in run_dir.journal()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux counts it")
def test_out_of_memory_halves_the_micro_batch_and_does_the_step_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    config = dataclasses.replace(CONFIG, model="ViT-B_16-mini", total_steps=2, global_batch_size=256)
    train(config, RunDir(tmp_path / "enough"), EXECUTION)
    code = LIMITED.format(
        config=config.to_dict(), warm=str(tmp_path / "warm"), location=str(tmp_path / "scarce"), megabytes=120
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scarce = RunDir(tmp_path / "scarce")
    notes = [line["note"] for line in scarce.lines() if "note" in line]
    assert notes[0] == "out of memory with micro_batch_size 256: goes on with 128"
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    following = RunDir(tmp_path / "following")
    train(config, following, dataclasses.replace(EXECUTION, compile=True))
    assert [attempt["micro_batch_size"] for attempt in (*scarce.attempts(), *following.attempts())] == [256, 128]
    for enough, other in zip(numbers(RunDir(tmp_path / "enough")), numbers(scarce), strict=True):
        assert other[0] == enough[0]
        assert other[1:] == pytest.approx(enough[1:], abs=1e-5)


@pytest.mark.usefixtures("saves_at_validations")
@pytest.mark.parametrize("what", ["little room", "no room", "read-only"])
def test_a_disk_that_refuses_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    command = "train --model ViT-B_16-mini --dataset digits-even --total-steps 4 --warmup-steps 1 "
    command += f"--global-batch-size 16 --num-evaluations 4 --storage {disk}"

    def train_again() -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as left:
            run(app, command.split())
        return int(str(left.value.code)), capsys.readouterr().err.splitlines()

    def refuse(row: Row) -> None:
        run_dir.finish_checkpoint()
        if row.get("step") == 2 and what == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        elif row.get("step") == 2:
            space = os.statvfs(disk)
            kept = 65536 if what == "little room" else 0
            (disk / "filler").write_bytes(b"x" * (space.f_bavail * space.f_frsize - kept))

    run_dir = RunDir(disk / "runs" / CONFIG.trial_id)
    try:
        with monkeypatch.context() as patched:
            patched.setattr("vit_trainer.files.storage.Storage.run_dir", lambda storage, trial_id: run_dir)
            patched.setattr("vit_trainer.commands.train._print_row", refuse)
            code, lines = train_again()
        reason = "Read-only file system" if what == "read-only" else "No space left on device"
        assert (code, len(lines)) == (1, 1), lines
        assert lines[0].startswith(f"error: {reason}")
        assert lines[0].endswith("what was kept before is there, and the same command goes on once that is mended")
        result = RunDir(run_dir.location).result()
        if what == "little room":
            assert result is not None
            assert (result["status"], result["step"]) == ("failed", 3)
            assert result["cause"].startswith("OSError: [Errno 28] No space left on device")
        else:
            assert result is None
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        (disk / "filler").unlink(missing_ok=True)
        assert train_again() == (0, [])
        assert RunDir(run_dir.location).attempts()[1]["from_step"] == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.usefixtures("saves_at_validations")
@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        pytest.param("zeros", marks=pytest.mark.slow),
        pytest.param("of another model", marks=pytest.mark.slow),
        "empty",
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_run_starts_anew(tmp_path: Path, damage: str) -> None:
    location = tmp_path / "run"

    class Killed(BaseException):
        pass

    def kill(row: dict[str, object]) -> None:  # its checkpoint is finished before train() gives the lease back
        raise Killed

    with pytest.raises(Killed):
        train(CONFIG, RunDir(location), EXECUTION, kill)
    path = location / "checkpoint" / "state.safetensors"
    content = path.read_bytes()
    if damage == "of another model":
        other = dataclasses.replace(CONFIG, model="ViT-L_32-mini")
        with pytest.raises(Killed):
            train(other, RunDir(tmp_path / "other"), EXECUTION, kill)
        path.write_bytes((tmp_path / "other" / "checkpoint" / "state.safetensors").read_bytes())
    else:
        path.write_bytes({"truncated": content[:-1000], "zeros": bytes(len(content)), "empty": b""}[damage])
    reported: list[dict[str, object]] = []
    train(CONFIG, RunDir(location), EXECUTION, reported.append)
    assert str(reported[0]["note"]).startswith("started anew: ")
    assert [row["step"] for row in reported[1:]] == [2, 4]
    train(CONFIG, RunDir(tmp_path / "quiet"), EXECUTION)
    assert numbers(RunDir(location)) == numbers(RunDir(tmp_path / "quiet"))


LOADING = """
import numpy as np, torch
from pathlib import Path
from PIL import Image
from sweeps.checks.on_nodes import _little_shared_memory
from vit_trainer.data.image_files import ImageFileSplit
from vit_trainer.data.shared_memory import too_small

names = [b"%d.png" % i for i in range(8)]
for name in names:
    Image.new("RGB", (500, 400)).save(Path(FOLDER) / name.decode())
split = ImageFileSplit(Path(FOLDER), np.array(names), np.zeros(8, dtype=np.int64), num_workers=2)
print(_little_shared_memory()[0][1])
print(too_small(8))
for _ in split.evaluation_batches(np.arange(8), 4, resolution=512, device=torch.device("cpu")):
    print("a batch")
"""


def test_a_container_with_little_shared_memory_ends_loading_with_that_cause(tmp_path: Path) -> None:
    (tmp_path / "loading.py").write_text(LOADING.replace("FOLDER", repr(str(tmp_path))))
    inside = f"mount -t tmpfs -o size=1m shm /dev/shm && exec {sys.executable} {tmp_path / 'loading.py'}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting over /dev/shm needs root")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside], check=False, capture_output=True, text=True, env=environment, timeout=200
    )
    advice = "give a container more (docker run --shm-size=4g; in Kubernetes an emptyDir with medium: Memory at"
    found, needed, *batches = done.stdout.splitlines()
    assert found.startswith("/dev/shm has 0.00 GB, and ")
    assert needed.startswith(f"/dev/shm has 0.00 GB, and 8 processes that read images need 0.3: {advice}")
    assert not batches
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"vit_trainer.errors.DataError: processes that read images find no room in /dev/shm: {advice}"
    )
