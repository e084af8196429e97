"""Rungs in the precision that training has on GPUs: autocast to bfloat16, against the same golden values.

Their bounds are derived from the format alone. bfloat16 has 8 significant bits, so a rounded value is the exact one
times 1 + d with |d| <= u = 2**-8. To first order, the roundings of a forward and backward pass move a result by the sum
of each d times the result's sensitivity to it, which depends on the depth and on how large activations are there. That
sum is measured, not estimated: the float32 model is run NUM_DRAWS times with every operand and result of its matrix
products, convolutions, attention and GELUs, forwards and backwards, times 1 + d, each d drawn evenly from [-u, u].

So wide a draw has 1.36 times the deviation of a rounding, and values that autocast casts twice are drawn for twice. If
all that differs is rounding, the true error is like one more draw, or smaller: it passes the largest of n with
probability 1 / (n + 1) at most. The bound is twice the largest: a sum of so many independent parts never passes it.

What this tells: dropout in other places, other padding, another way to clip, Nesterov's momentum, label
smoothing, a shifted schedule. What it can't, being smaller than u, are the exact GELU and dropout before it, all
epsilons, weight decay of 1e-4, and a momentum of 0.9: the rungs in float32 do, and the code is the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vit_trainer.parity.forward_pass import Case
from vit_trainer.parity.golden import ForwardFacts, GoldenFolder, UpdateFacts, make_images
from vit_trainer.parity.rung import Rung, Setting, error_of
from vit_trainer.parity.updates import facts_of, golden_runs, take_steps
from vit_trainer.weights.layouts import Arrays
from vit_trainer.weights.load import export_arrays

UNIT_ROUNDOFF = 2.0**-8
NUM_DRAWS = 4

Values = dict[str, Any]
"""What a forward pass or a run of steps gives, by the names that the golden arrays have."""


def in_bfloat16(golden: GoldenFolder, name: str, setting: Setting, *, with_steps: bool = True) -> Iterator[Rung]:
    """Logits, logits under the golden dropout masks, and a run of optimiser steps, for one architecture."""
    label, weights = f"{'compiled ' if setting.compiled else ''}bfloat16 {name}", golden.checkpoint(name)
    if weights is None:
        yield Rung(label, None, note="no weights")
        return
    exact = Case(
        golden.architectures[name],
        weights,
        golden.resolution(name),
        golden.num_classes,
        setting=replace(setting, bfloat16=False, compiled=False),
    )
    rounded = replace(exact, setting=replace(setting, bfloat16=True))
    arrays, facts = golden.arrays(f"{name}_forward"), golden.facts("forward", ForwardFacts)
    if arrays is not None and facts is not None:
        images = make_images(facts.batch, exact.resolution, facts.image_seed)

        def forward(case: Case) -> Values:
            with torch.no_grad():
                values: Values = {"logits": case.model()(case.tensor(images))}
            return values | {"dropout01_logits": case.dropout_logits(images)[0]}

        yield from _compared(label, forward, exact, rounded, arrays)
    steps, step_facts = golden.arrays(f"{name}_sgd"), golden.facts("sgd", UpdateFacts)
    if steps is None or step_facts is None or not with_steps:
        return
    for run in golden_runs(steps):
        if run.known and run.own_lr == bool(exact.architecture.resnet_stages):
            own_facts = facts_of(run, step_facts, steps)

            def train(case: Case) -> Values:
                model = case.model()
                course = take_steps(model, case, run, own_facts)  # noqa: B023 (called at once)
                finals = {f"final/{layer}": a for layer, a in export_arrays(model, case.architecture).items()}
                return {"loss": course.losses, "grad_norm": course.norms, **finals}

            own = {key.replace(run.suffix, "", 1): array for key, array in steps.items() if run.suffix in key}
            yield from _compared(label, train, exact, rounded, own)
            return


def _compared(
    label: str, compute: Callable[[Case], Values], exact: Case, rounded: Case, arrays: Arrays
) -> Iterator[Rung]:
    """A rung for each kind of value that there are golden arrays of."""

    def computed(case: Case) -> Values:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # nothing random should be left; a mistake that is must not widen the bound
            return compute(case)

    ours, reference = computed(rounded), computed(exact)
    drawn: list[Values] = []
    for seed in range(1, NUM_DRAWS + 1):
        with RoundingNoise(seed, exact.setting.device):
            drawn.append(computed(exact))
    kinds: dict[str, list[str]] = {}
    for name in ours:
        if name in arrays:
            kinds.setdefault(name.partition("/")[0], []).append(name)
    for kind, names in kinds.items():
        error = max((error_of(ours[name], arrays, name) for name in names), key=_nan_first)
        bound = 2 * max(_distance(values[name], reference[name]) for values in drawn for name in names)
        yield Rung(f"{label}: {WORDS[kind]}", error, bound)


WORDS = {
    "logits": "logits",
    "dropout01_logits": "dropout logits",
    "loss": "loss",
    "grad_norm": "gradient norm",
    "final": "weights",
}


def _nan_first(error: float) -> float:
    return np.inf if np.isnan(error) else error


def _distance(one: Any, other: Any) -> float:
    """Largest absolute difference of two lists of numbers, arrays or tensors."""
    first, second = (torch.as_tensor(values).detach().double().cpu() for values in (one, other))
    return float((first - second).abs().max())


class RoundingNoise(TorchFunctionMode):
    """While it is on, what autocast would round to bfloat16 is multiplied by 1 + d instead, also on the way back."""

    OPERANDS = (F.linear, torch.conv2d, F.conv2d, F.scaled_dot_product_attention)
    RESULTS = (*OPERANDS, F.gelu, torch.tanh)

    def __init__(self, seed: int, device: str) -> None:
        super().__init__()
        self._generator = torch.Generator(device).manual_seed(seed)

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function in self.OPERANDS:
            arguments = [self._noisy(value) if isinstance(value, Tensor) else value for value in arguments]
        result = function(*arguments, **(options or {}))
        return self._noisy(result) if function in self.RESULTS else result

    def _noisy(self, values: Tensor) -> Tensor:
        noisy: Tensor = _Noisy.apply(values, self._generator)
        return noisy


class _Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, generator: torch.Generator) -> Tensor:
        ctx.generator = generator
        return values * _factors(values, generator)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * _factors(gradients[0], ctx.generator), None


def _factors(values: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(values.shape, generator=generator, device=values.device, dtype=values.dtype)
    return 1 + UNIT_ROUNDOFF * (2 * uniform - 1)
