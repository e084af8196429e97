"""The learning rate as a function of the step, and the official optimiser's arithmetic."""

import math

import pytest
import torch
from torch import Tensor, nn

from vit_trainer.loop.optim import OfficialSGD, learning_rate


def rates(**facts: float) -> list[float]:
    return [learning_rate(step, **facts) for step in range(int(facts["total_steps"]))]  # type: ignore[arg-type]


def test_the_first_step_has_rate_0_and_the_peak_is_the_base_rate() -> None:
    lrs = rates(base_lr=0.03, warmup_steps=50, total_steps=500)
    assert lrs[0] == 0
    assert lrs[1] == pytest.approx(0.03 / 50)
    assert max(lrs) == lrs[50] == 0.03
    assert lrs[50:] == sorted(lrs[50:], reverse=True)
    assert learning_rate(275, base_lr=0.03, warmup_steps=50, total_steps=500) == pytest.approx(0.015)
    assert learning_rate(500, base_lr=0.03, warmup_steps=50, total_steps=500) == pytest.approx(0, abs=1e-17)


def test_a_schedule_without_warm_up_starts_at_the_base_rate() -> None:
    assert rates(base_lr=0.1, warmup_steps=0, total_steps=2) == pytest.approx([0.1, 0.05])


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def with_gradient(parameter: nn.Parameter, *values: float) -> nn.Parameter:
    parameter.grad = torch.tensor(values)
    return parameter


def test_the_norm_is_of_all_gradients_together() -> None:
    one, two = with_gradient(parameter(0.0, 0.0), 3.0, 0.0), with_gradient(parameter(0.0), 4.0)
    norm = OfficialSGD([one, two]).step(lr=1.0)
    assert norm == 5
    assert one.tolist() == pytest.approx([-0.6, 0.0])
    assert two.tolist() == pytest.approx([-0.8])


def test_a_short_gradient_is_not_made_longer() -> None:
    one = with_gradient(parameter(0.0), 0.5)
    assert OfficialSGD([one]).step(lr=1.0) == 0.5
    assert one.item() == -0.5


def test_a_gradient_of_zeros_changes_nothing() -> None:
    one = with_gradient(parameter(1.0), 0.0)
    OfficialSGD([one]).step(lr=1.0)
    assert one.item() == 1.0


def test_momentum_is_0_8984375_and_only_its_store_is_rounded() -> None:
    gradient, lr = 0.123456, 0.1
    one = with_gradient(parameter(0.0), gradient)
    optimizer = OfficialSGD([one])
    optimizer.step(lr)
    assert one.item() == pytest.approx(-lr * gradient, rel=1e-6)  # not rounded to bfloat16
    stored = float(torch.tensor(gradient, dtype=torch.bfloat16))
    assert stored != gradient
    assert optimizer.momentum[0].item() == stored
    with_gradient(one, gradient)
    optimizer.step(lr)
    assert one.item() == pytest.approx(-lr * (gradient + gradient + 0.8984375 * stored), rel=1e-6)


def test_float32_momentum_is_0_9() -> None:
    one = with_gradient(parameter(0.0), 0.5)
    optimizer = OfficialSGD([one], momentum_dtype=torch.float32)
    optimizer.step(1.0)
    with_gradient(one, 0.5)
    optimizer.step(1.0)
    assert one.item() == pytest.approx(-(0.5 + 0.5 + 0.9 * 0.5))


def test_a_rate_of_0_still_fills_the_momentum() -> None:
    one = with_gradient(parameter(1.0), 0.5)
    optimizer = OfficialSGD([one])
    optimizer.step(0.0)
    assert one.item() == 1.0
    assert optimizer.momentum[0].item() == 0.5


def test_there_is_no_weight_decay() -> None:
    one = with_gradient(parameter(100.0), 0.0)
    OfficialSGD([one]).step(0.5)
    assert one.item() == 100.0


def test_clipping_comes_after_accumulation() -> None:
    def final(*micro_batches: float) -> Tensor:
        one = parameter(0.0)
        for gradient in micro_batches:
            (one * gradient).sum().backward()
        OfficialSGD([one]).step(1.0)
        return one.detach()

    assert final(3.0, -2.6) == pytest.approx(final(0.4))
    assert final(math.sqrt(2.0), math.sqrt(2.0)).item() == pytest.approx(-1.0)


def test_parameters_that_need_no_gradient_are_left_alone() -> None:
    frozen, one = parameter(1.0).requires_grad_(False), with_gradient(parameter(0.0), 0.5)
    optimizer = OfficialSGD([frozen, one])
    optimizer.step(1.0)
    assert len(optimizer.momentum) == 1
    assert frozen.item() == 1.0
    optimizer.zero_grad()
    assert one.grad is None
