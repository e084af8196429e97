"""The same bits again: what an attempt takes over from the one before, what it refuses, and PyTorch's switches."""

import dataclasses
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.vit_trainer.finished_trial import weights_of
from vit_trainer.architectures import MODELS
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import InputError, RunInterruptedError
from vit_trainer.files.run_dir import RunDir
from vit_trainer.loop.repeatable import attempt_before, kernel_switches, measures_convolutions, require_same
from vit_trainer.machine import device_name
from vit_trainer.train import train

HYBRID, VIT = MODELS["R50+ViT-B_16-mini"], MODELS["ViT-B_32-mini"]
CONFIG = FinetuneConfig.official(
    "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=12, warmup_steps=2, global_batch_size=16
)
EXECUTION = Execution(deterministic=True, num_evaluations=3, save_weights=True)


class Killed(BaseException):
    """Stands in for the end of the process."""


def test_a_run_that_ends_at_random_points_has_the_bits_of_one_that_does_not(tmp_path: Path) -> None:
    whole, broken = RunDir(tmp_path / "whole"), RunDir(tmp_path / "broken")
    train(CONFIG, whole, EXECUTION)
    seed = int.from_bytes(os.urandom(4))
    draw = random.Random(seed)
    for end in (Killed, None, Killed):  # None: asked to end, so that it keeps its state
        asked, last = 0, draw.randint(1, 6)

        def interrupted(end: type[BaseException] | None = end, last: int = last) -> bool:
            nonlocal asked
            asked += 1
            if asked == last and end is not None:
                raise end
            return asked == last

        with pytest.raises((Killed, RunInterruptedError)):
            train(CONFIG, RunDir(broken.location), EXECUTION, interrupted=interrupted)
    train(CONFIG, RunDir(broken.location), EXECUTION)
    assert not torch.are_deterministic_algorithms_enabled()
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(broken)[name]), f"{name} with seed {seed}"
    rows = [[(row["step"], row["train/loss"]) for row in run_dir.journal()] for run_dir in (whole, broken)]
    assert rows[0] == rows[1], seed
    assert [attempt["deterministic"] for attempt in broken.attempts()] == 4 * [True]


def lines(*attempts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"attempt": i + 1, "from_step": 0} | attempt for i, attempt in enumerate(attempts)]


def test_the_last_attempt_of_the_kind_on_such_a_card_counts() -> None:
    ours: dict[str, Any] = {"device_name": "H100", "deterministic": True, "micro_batch_size": 64}
    old: dict[str, Any] = {"device_name": "H100", "attention_backend": "math"}  # before there was the flag
    journal = lines(ours, old, ours | {"device_name": "A100", "micro_batch_size": 8})
    assert attempt_before(journal, deterministic=True, device="H100")["micro_batch_size"] == 64
    assert attempt_before(journal, deterministic=True, device=None)["micro_batch_size"] == 8
    assert attempt_before(journal, deterministic=False, device="H100")["attention_backend"] == "math"
    assert attempt_before(journal, deterministic=False, device="A100") == {}
    shrunk = [*lines(ours), {"note": "out of memory", "micro_batch_size": 32}]
    assert attempt_before(shrunk, deterministic=True, device="H100")["micro_batch_size"] == 32
    others = [*lines(ours, old), {"note": "out of memory", "micro_batch_size": 32}]
    assert attempt_before(others, deterministic=True, device="H100")["micro_batch_size"] == 64


def test_a_micro_batch_is_pinned_and_another_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with pytest.raises(RunInterruptedError):
        train(CONFIG, run_dir, dataclasses.replace(EXECUTION, micro_batch_size=4), interrupted=lambda: True)
    with pytest.raises(RunInterruptedError):
        train(CONFIG, run_dir, EXECUTION, interrupted=lambda: True)
    assert [attempt["micro_batch_size"] for attempt in run_dir.attempts()] == [4, 4]
    before = (tmp_path / "journal.jsonl").read_bytes()
    expected = (
        "micro_batch_size is 8, but was 4 in an earlier attempt with --deterministic, which fixes it: go on with 4"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        train(CONFIG, run_dir, dataclasses.replace(EXECUTION, micro_batch_size=8))
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    assert run_dir.result() is None


def test_another_number_of_processes_is_refused_once_there_are_bits_to_repeat() -> None:
    journal = lines({"device_name": device_name(), "deterministic": True, "num_processes": 2})
    require_same(journal, {"num_processes": 4})
    require_same([*journal, {"step": 2}], {"num_processes": 2})
    with pytest.raises(InputError, match="num_processes is 4, but was 2 in an earlier attempt with --deterministic"):
        require_same([*journal, {"step": 2}], {"num_processes": 4})
    with pytest.raises(InputError, match="num_processes is 4, but was 2"):
        require_same(lines(journal[0], journal[0] | {"from_step": 1}), {"num_processes": 4})


def test_convolutions_are_measured_where_it_matters_and_nothing_must_repeat() -> None:
    assert measures_convolutions(Execution(), HYBRID, on_gpu=True)
    assert not measures_convolutions(Execution(), VIT, on_gpu=True)
    assert not measures_convolutions(Execution(deterministic=True), HYBRID, on_gpu=True)
    assert not measures_convolutions(Execution(), HYBRID, on_gpu=False)


def test_switches_are_set_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with kernel_switches(Execution(), HYBRID) as said:
        assert torch.backends.cudnn.benchmark
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert said == {"deterministic": False, "cudnn_benchmark": True}
    with kernel_switches(Execution(deterministic=True), HYBRID) as said:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert torch._inductor.config.deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert said == {"deterministic": True, "cudnn_benchmark": False}
    assert not torch.are_deterministic_algorithms_enabled()
    assert {torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic} == {False}


def test_what_cannot_repeat_is_refused_by_name() -> None:
    with (
        pytest.raises(InputError, match=r"^put_ has no deterministic form on .*: leave --deterministic out$"),
        kernel_switches(Execution(deterministic=True), VIT),
    ):
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))
    with pytest.raises(RuntimeError, match="another"), kernel_switches(Execution(deterministic=True), VIT):
        raise RuntimeError("another")
