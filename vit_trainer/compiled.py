"""compile_forward(): a model's forward and backward pass as kernels that Inductor makes for one shape of batch.

What it makes stays in a folder of the node ($TORCHINDUCTOR_CACHE_DIR, else one per user among the temporary files),
where the next trial of the same model finds it. A lock there lets one process make what others wait for.
"""

import hashlib
from contextlib import AbstractContextManager, nullcontext
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
    the model, so that its autocast is around the compiled part.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    eager = model.forward
    compiled = torch.compile(eager, dynamic=False)
    locks, name = Path(cache_dir()), repr(model)
    known: set[tuple[bool, torch.Size]] = set()
    largest_evaluated = 0

    def forward(images: Tensor) -> Tensor:
        nonlocal largest_evaluated
        if not model.training:
            if len(images) < largest_evaluated:
                return cast(Tensor, eager(images))
            largest_evaluated = len(images)
        kind = (model.training, images.shape)
        lock: AbstractContextManager[object] = nullcontext()
        if kind not in known:
            known.add(kind)
            digest = hashlib.sha256(f"{name} {kind} {images.device.type}".encode()).hexdigest()[:16]
            lock = FileLock(locks / f"vit-{digest}.lock")
        with lock:
            return cast(Tensor, compiled(images))

    model.forward = forward
