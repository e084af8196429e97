"""A trial of two steps that left its weights, and calls of the command line in this process."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vit_trainer.__main__ import app
from vit_trainer.command_line import run
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.train import train


def finished_trial(
    storage: Path, model: str = "ViT-B_32-mini", *, save_weights: bool = True
) -> tuple[FinetuneConfig, RunDir]:
    config = FinetuneConfig.official(model, "digits-even", total_steps=2, warmup_steps=1, base_lr=0.03)
    run_dir = RunDir(storage / "runs" / config.trial_id)
    train(config, run_dir, Execution(save_weights=save_weights, num_evaluations=1))
    return config, run_dir


def weights_of(run_dir: RunDir) -> dict[str, torch.Tensor]:
    with run_dir.weights() as path:
        assert path is not None
        return load_file(path)


def output_of(arguments: list[str], capsys: pytest.CaptureFixture[str], *, warning: str = "") -> str:
    """What a command prints; it must succeed, and say nothing on stderr but the warning."""
    code, out, err = outcome_of(arguments, capsys)
    assert code == 0, err
    assert err.startswith(warning)
    assert bool(err) == bool(warning), err
    return out


def outcome_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run(app, arguments)
    output = capsys.readouterr()
    return left.value.code, output.out, output.err
