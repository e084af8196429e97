"""The kernel that computes attention is chosen by measuring those that are there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vit_trainer.model.attention_backend
from vit_trainer.architectures import MODELS
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.loop.accelerator import start_accelerator
from vit_trainer.model.attention_backend import BACKENDS, backend_seconds, fastest_attention
from vit_trainer.train import train

MINI = MODELS["ViT-B_32-mini"]


def test_the_backends_of_this_device_are_measured() -> None:
    before = torch.random.get_rng_state()
    seconds = backend_seconds(MINI, 32, 4, dtype=torch.float32, device=torch.device("cpu"))
    assert {"flash", "math"} <= seconds.keys() <= BACKENDS.keys()
    assert all(value > 0 for value in seconds.values())
    assert torch.equal(torch.random.get_rng_state(), before)  # random weights are drawn from it


@pytest.mark.parametrize("fastest", ["math", "efficient"])
def test_the_fastest_is_used_for_as_long_as_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, fastest: str) -> None:
    start_accelerator()
    measured = {"flash": 2.0, "math": 2.0, "efficient": 3.0} | {fastest: 1.0}

    def measure(*_: Any, **__: Any) -> dict[str, float]:
        return measured

    monkeypatch.setattr(vit_trainer.model.attention_backend, "backend_seconds", measure)
    gpu: Any = SimpleNamespace(device=torch.device("cuda"), mixed_precision="bf16")
    with fastest_attention(MINI, 32, 4, gpu) as chosen:
        assert chosen == fastest
        assert torch.backends.cuda.mem_efficient_sdp_enabled() == (fastest == "efficient")
        assert torch.backends.cuda.math_sdp_enabled()  # what remains if the chosen one can't
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert fastest in torch.compiler.config.cache_key_tag
    assert torch.backends.cuda.flash_sdp_enabled()


def test_the_journal_says_what_computed(tmp_path: Path) -> None:
    config = FinetuneConfig.official("ViT-B_32-mini", "digits-even", total_steps=1, warmup_steps=0)
    train(config, RunDir(tmp_path), Execution(num_evaluations=1))
    (attempt,) = RunDir(tmp_path).attempts()
    on_gpu = torch.cuda.is_available()
    assert attempt["compiled"] == on_gpu
    assert (attempt["deterministic"], attempt["cudnn_benchmark"]) == (False, False)
    assert (attempt["attention_backend"] in BACKENDS) == on_gpu


def test_an_attempt_on_the_same_card_takes_what_the_last_one_took(monkeypatch: pytest.MonkeyPatch) -> None:
    start_accelerator()
    monkeypatch.setattr(
        vit_trainer.model.attention_backend, "backend_seconds", lambda *_, **__: {"flash": 1.0, "math": 2.0}
    )
    gpu: Any = SimpleNamespace(device=torch.device("cuda"), mixed_precision="bf16")
    for before, chosen in (("math", "math"), (None, "flash"), ("a backend of another version", "flash")):
        with fastest_attention(MINI, 32, 4, gpu, before) as used:
            assert used == chosen
