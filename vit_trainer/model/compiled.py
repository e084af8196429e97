"""compile_forward(): a model's forward and backward pass as kernels that Inductor makes for one shape of batch.

What it makes stays in a folder of the node ($TORCHINDUCTOR_CACHE_DIR, else one per user among the temporary files),
where the next trial of the same model finds it. A lock there lets one process make what others wait for.
"""

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from filelock import FileLock
from torch import Tensor, nn

from vit_trainer.config import Execution


def compiles(execution: Execution, device: torch.device) -> bool:
    """Whether a trial's model is compiled on this device."""
    return device.type == "cuda" if execution.compile is None else execution.compile


def compile_forward(model: nn.Module) -> None:
    """Compile what `model(images)` does, for each size of batch that it is trained with and the largest it evaluates.

    The odd batch at the end of an evaluation isn't worth another compilation. To be called before Accelerate prepares
    the model, so that its autocast is around the compiled part. The backward pass is compiled with the forward one,
    and not when it first runs, so that it is under the lock too.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    eager = model.forward
    compiled = torch.compile(eager, dynamic=False)
    locks, name = Path(cache_dir()), repr(model)
    backward_too = torch._functorch.config.patch(force_non_lazy_backward_lowering=True)
    known: set[tuple[bool, torch.Size]] = set()
    largest_evaluated = 0

    def forward(images: Tensor) -> Tensor:
        nonlocal largest_evaluated
        if not model.training and len(images) < largest_evaluated:
            return cast(Tensor, eager(images))
        kind = (model.training, images.shape)
        if kind in known:
            return cast(Tensor, compiled(images))
        digest = hashlib.sha256(f"{name} {kind} {images.device.type}".encode()).hexdigest()[:16]
        made = locks / f"vit-{digest}.made"  # the next processes only read, which they can at the same time
        with nullcontext() if made.exists() else FileLock(locks / f"vit-{digest}.lock"), backward_too:
            logits = cast(Tensor, compiled(images))
        made.touch()
        known.add(kind)
        if not model.training:
            largest_evaluated = len(images)
        return logits

    model.forward = forward
