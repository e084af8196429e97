"""Rungs in bfloat16: they hold, and tell the mistakes that are larger than its roundings, and only those."""

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import StdConv2dSame
from torch import Tensor, nn

from tests.vit_trainer.parity.test_ladder import (
    GOLDEN,
    ClipsEachTensor,
    Nesterov,
    NeverClips,
    Patch,
    PlainMomentum,
    WeightDecay,
    dropout_before_gelu,
    epsilon_of,
    exact_gelu,
    trap_model,
)
from vit_trainer.loop.optim import OfficialSGD, learning_rate
from vit_trainer.model.build import OfficialStdConv
from vit_trainer.parity import updates
from vit_trainer.parity.bfloat16 import UNIT_ROUNDOFF, RoundingNoise, in_bfloat16
from vit_trainer.parity.rung import CPU


def failures(name: str = "tiny_vit", *, with_steps: bool = False) -> set[str]:
    rungs = list(in_bfloat16(GOLDEN, name, CPU, with_steps=with_steps))
    assert len(rungs) == (5 if with_steps else 2)
    return {rung.name.partition(": ")[2] for rung in rungs if not rung.passed}


def test_the_noise_is_as_large_as_roundings_can_be() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(64, 256, requires_grad=True), torch.randn(128, 256)
    exact = F.linear(x, weight)
    (gradient,) = torch.autograd.grad(exact.sum(), x)
    with RoundingNoise(1, "cpu"):
        noisy = F.linear(x, weight)
    (noisy_gradient,) = torch.autograd.grad(noisy.sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = F.linear(x, weight)
    deviations = [float(((other - exact).std() / exact.std()).detach()) for other in (noisy, rounded.float())]
    assert deviations[0] == pytest.approx(UNIT_ROUNDOFF, rel=0.1)  # three roundings of u / sqrt(3) each
    assert deviations[0] / deviations[1] == pytest.approx(1.36, rel=0.1)
    assert 0 < float((noisy_gradient - gradient).std() / gradient.std()) < 2 * UNIT_ROUNDOFF


def test_it_holds() -> None:
    assert not failures()


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN.architectures)
def test_steps_hold(name: str) -> None:
    assert not failures(name, with_steps=True)


@pytest.mark.parametrize(
    "options",
    [{"attn_drop_rate": 0.1}, {"pos_drop_rate": 0.0}, {"proj_drop_rate": 0.0}],
    ids=["on attention weights", "not on position embeddings", "not in the blocks"],
)
def test_dropout_elsewhere_is_told(options: dict[str, float], monkeypatch: Patch) -> None:
    create = timm.create_model

    def create_trapped(*arguments: object, **official: float) -> nn.Module:
        model: nn.Module = create(*arguments, **(official | (options if official["pos_drop_rate"] else {})))
        return model

    monkeypatch.setattr(timm, "create_model", create_trapped)
    assert failures() == {"dropout logits"}


@pytest.mark.parametrize(
    "change",
    [exact_gelu, partial(epsilon_of, nn.LayerNorm, 1e-5), dropout_before_gelu],
    ids=["exact GELU", "LayerNorm epsilon", "dropout before GELU"],
)
def test_what_is_smaller_than_a_rounding_is_not_told(change: Callable[[nn.Module], object], monkeypatch: Patch) -> None:
    trap_model(monkeypatch, change)
    assert not failures()


@pytest.mark.slow
def test_padding_is_told_and_weight_standardisation_is_not(monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(OfficialStdConv, "forward", StdConv2dSame.forward)
        assert not failures("tiny_hybrid")

    def pad_evenly(self: OfficialStdConv, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True, correction=0)
        padding = [size // 2 for size in self.kernel_size]
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), None, self.stride, padding)

    monkeypatch.setattr(OfficialStdConv, "forward", pad_evenly)
    assert failures("tiny_hybrid") == {"logits", "dropout logits"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimiser", "is_told"),
    [(PlainMomentum, False), (WeightDecay, False), (Nesterov, True), (ClipsEachTensor, True), (NeverClips, True)],
)
def test_optimisers(optimiser: type[OfficialSGD], is_told: bool, monkeypatch: Patch) -> None:
    monkeypatch.setattr(updates, "OfficialSGD", optimiser)
    assert bool(failures(with_steps=True)) == is_told


@pytest.mark.slow
def test_label_smoothing_and_a_rate_counted_from_1_are_told(monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(F, "cross_entropy", partial(F.cross_entropy, label_smoothing=0.1))
        assert "loss" in failures(with_steps=True)
    monkeypatch.setattr(updates, "learning_rate", lambda step, **facts: learning_rate(step + 1, **facts))
    assert failures(with_steps=True)
