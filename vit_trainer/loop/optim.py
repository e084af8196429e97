"""The official optimiser: clipping by the global norm, then SGD with momentum kept in bfloat16."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vit_trainer.config import FinetuneConfig


def learning_rate(step: int, *, base_lr: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up times cosine decay; a pure function of the step, so a resumed run needs no state for it.

    Source: vit_jax/utils.py:87 at c6de1e5, which counts from 0 (the first step has rate 0). The code that made the
    published table counted from 1; over 10,000 steps that difference is one step's warm-up.

    Args:
        step: optimiser steps already taken, in [0, total_steps). Micro-batches and processes don't count.
        base_lr: the rate when warm-up ends.
        warmup_steps: steps until the warm-up factor first reaches 1.
        total_steps: optimiser steps in the whole run, warm-up included.

    >>> learning_rate(250, base_lr=0.03, warmup_steps=500, total_steps=10_000)
    0.015
    """
    progress = min(max((step - warmup_steps) / (total_steps - warmup_steps), 0.0), 1.0)
    rate = base_lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    return rate * min(1.0, step / warmup_steps) if warmup_steps else rate


def learning_rate_of(config: FinetuneConfig, step: int) -> float:
    """The learning rate of a trial's step; steps count from 0."""
    return learning_rate(step, base_lr=config.base_lr, warmup_steps=config.warmup_steps, total_steps=config.total_steps)


class OfficialSGD:
    """Gradients are clipped by their global norm, then p -= lr * m with m = g + 0.9 * m stored in bfloat16.

    0.9 is 0.8984375 in bfloat16, and so it is in the official code (vit_jax/train.py:143): computing with 0.9 drifts.
    No weight decay.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, momentum_dtype: torch.dtype = torch.bfloat16, max_norm: float = 1.0
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.momentum = [torch.zeros_like(parameter, dtype=momentum_dtype) for parameter in self.parameters]
        self.max_norm = max_norm
        self.decay = float(torch.tensor(0.9, dtype=momentum_dtype))

    @torch.no_grad()
    def step(self, lr: float) -> Tensor:
        """Update the parameters from their gradients; returns the gradient norm before clipping, () float32."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        assert len(gradients) == len(self.parameters), "every parameter takes part in every step"
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (self.max_norm / norm).clamp(max=1.0))
        # float32 arithmetic on a bfloat16 store, as the official code: only what is kept is rounded.
        update = [momentum.float() for momentum in self.momentum]
        torch._foreach_mul_(update, self.decay)
        torch._foreach_add_(update, gradients)
        torch._foreach_add_(self.parameters, update, alpha=-lr)
        torch._foreach_copy_(self.momentum, update)
        return norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
