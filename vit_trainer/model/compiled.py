"""compile_forward(): a model's forward and backward pass as kernels that Inductor makes for one shape of batch.

The next trial of the same model on the node finds them.
"""

from typing import cast

import torch
from torch import Tensor, nn

from vit_trainer.config import Execution
from vit_trainer.kernels import made_once


def compiles(execution: Execution, device: torch.device) -> bool:
    """Whether a trial's model is compiled on this device."""
    return device.type == "cuda" if execution.compile is None else execution.compile


def compile_forward(model: nn.Module) -> None:
    """Compile what `model(images)` does, for each size of batch that it is trained with and the largest it evaluates.

    The odd batch at the end of an evaluation isn't worth another compilation. To be called before Accelerate prepares
    the model, so that its autocast is around the compiled part. The backward pass is compiled with the forward one,
    and not when it first runs, so that others wait for it too.
    """
    eager, name = model.forward, repr(model)
    compiled = torch.compile(eager, dynamic=False)
    known: set[tuple[bool, torch.Size]] = set()
    largest_evaluated = 0

    def forward(images: Tensor) -> Tensor:
        nonlocal largest_evaluated
        if not model.training and len(images) < largest_evaluated:
            return cast(Tensor, eager(images))
        kind = (model.training, images.shape)
        if kind in known:
            return cast(Tensor, compiled(images))
        with made_once(f"{name} {kind} {images.device.type}"):
            logits = cast(Tensor, compiled(images))
        known.add(kind)
        if not model.training:
            largest_evaluated = len(images)
        return logits

    model.forward = forward
