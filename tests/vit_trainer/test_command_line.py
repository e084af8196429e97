"""Bad input: one line on stderr, exit code 2, nothing started."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sweeps.paper_grid import app as paper_grid
from vit_trainer.__main__ import app as trainer
from vit_trainer.command_line import run
from vit_trainer.files.run_dir import RunDir
from vit_trainer.weights.npz_files import MINIATURES

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "--model", "ViT-B_32-mini", "--dataset", "digits-even"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    whole = (MINIATURES / "ViT-B_32-mini.npz").read_bytes()
    (tmp_path / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "pickled.npz", **{"embedding/kernel": np.array([{"an": "object"}], dtype=object)})
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("hello")
    return tmp_path


def error_of(app: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        run(app, arguments)  # type: ignore[arg-type]
    assert left.value.code == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1, output.err
    return output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "mini", "--models", "ViT-B16"], "did you mean 'ViT-B_16-mini'?"),
        (["--preset", "paper", "--models", "ViT-B_16-mini"], "unknown model of --preset paper 'ViT-B_16-mini'"),
        (["--preset", "mini", "--datasets", "digits-evn"], "did you mean 'digits-even'?"),
        (["--preset", "big"], "big"),
        (["--modles", "ViT-B_16"], "Did you mean --models?"),
        (["--preset", "mini", "--dropouts", "1.0"], "dropout 1.0 is outside [0, 1)"),
        (["--preset", "mini", "--dropouts", "much"], "much"),
        (["--preset", "mini", "--base-lrs", "0"], "base_lr 0.0 is not positive"),
        (["--preset", "mini", "--base-lrs", "fast"], "base_lrs 'fast' are no numbers"),
        (["--preset", "mini", "--seeds", "-1"], "seed -1 is outside"),
        (["--plan", "--card", "A100"], "unknown card 'A100'"),
        (["--plan", "--price-per-gpu-hour", "-1"], "price_per_gpu_hour -1 is not a positive number"),
        (["--plan", "--probe-seconds", "nan"], "probe_seconds nan is not a positive number"),
        (["--max-gpu-hours", "0"], "max_gpu_hours 0 is not a positive number: give hours such as 100"),
        (["--probe"], "--probe measures for a plan: give --plan too"),
        (["--preset", "paper", "--plan", "--gpus-per-trial", "3"], "can't be divided among 3 GPUs"),
        (["--preset", "mini", "--storage", "/proc/nowhere"], "cannot be written"),
        (["--preset", "paper"], "no imagenet21k checkpoint of ViT-L_16: run python -m vit_trainer fetch ViT-L_16"),
    ],
)
def test_bad_sweeps(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIT_CHECKPOINTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert message in error_of(paper_grid, arguments, capsys)
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--total-steps", "0"], "total_steps 0 is below 1"),
        (["--base-lr", "-1"], "base_lr -1.0 is not positive"),
        (["--seed", "-3"], "seed -3 is outside"),
        (["--dropout", "1"], "dropout 1.0 is outside [0, 1)"),
        (["--micro-batch-size", "0"], "micro_batch_size 0 is below 1"),
        (["--upstream", "imagenet21k"], "no imagenet21k checkpoint of ViT-B_32-mini"),
        (["--checkpoint", "missing.npz"], "missing.npz"),
        (["--checkpoint", "truncated.npz"], "truncated.npz is truncated or no .npz archive"),
        (["--checkpoint", "pickled.npz"], "pickled.npz holds pickled objects, which could run code: refused"),
        (["--checkpoint", "empty.npz"], "empty.npz is empty: download the file itself again"),
        (["--checkpoint", "text.npz"], "text.npz is "),
    ],
)
def test_bad_trials(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIT_CHECKPOINTS", str(files / "no-cache"))
    monkeypatch.chdir(files)
    assert message in error_of(trainer, [*TRAIN, *arguments], capsys)


def test_a_bad_flag_is_answered_at_once_and_by_the_real_process(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "sweeps" / "paper_grid.py"
    done = subprocess.run(
        [sys.executable, str(script), "--drpouts", "0.1"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: Unknown option: --drpouts. Did you mean --dropouts?"]


def test_a_plan_of_the_paper_lists_its_30_cells_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run(paper_grid, ["--preset", "paper", "--plan"])
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line for line in lines if re.match(r"\S+ (cifar|imagenet)\S+ d0", line)]
    assert len(cells) == 30
    assert cells[0].startswith("ViT-L_16 imagenet2012 d0 20000 steps ")  # the longest starts first
    assert "all 384 px, warm-up 500, 512 images a step, from imagenet21k" in lines
    assert "30 cells, 120 trials, 0 of them done" in lines
    assert any(line.startswith("cost: 457 to 526 GPU-hours expected; 731 GPU-hours if") for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_nobody_reads_ends_a_tool_quietly_and_a_run_not_at_all(tmp_path: Path) -> None:
    """As `| head -1` does when it has its line."""
    steps = ["--total-steps", "2", "--warmup-steps", "0", "--storage", str(tmp_path)]
    for arguments, code, said in (
        (["-m", "vit_trainer", *TRAIN, *steps], 0, "stdout is closed (Broken pipe); this goes on"),
        (["sweeps/paper_grid.py", "--preset", "mini", "--plan"], 141, ""),
    ):
        reader, writer = os.pipe()
        os.close(reader)
        pipe = subprocess.PIPE
        done = subprocess.run(
            [sys.executable, *arguments], check=False, stdout=writer, stderr=pipe, text=True, cwd=ROOT, timeout=200
        )
        os.close(writer)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == (1 if said else 0)
    assert [(RunDir(path).result() or {})["status"] for path in (tmp_path / "runs").iterdir()] == ["finished"]
    with open("/dev/full", "w") as full:
        tool = [sys.executable, "sweeps/watch.py", "--once", "--storage", str(tmp_path)]
        done = subprocess.run(tool, check=False, stdout=full, stderr=pipe, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device (stdout): ")
    assert done.stderr.count("\n") == 1
