"""start_accelerator(): how a process finds its device, its precision and the others."""

import os

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from vit_trainer.config import Precision
from vit_trainer.loop.environment import require_agreement


def start_accelerator(precision: Precision = "auto", *, on_gpu: bool | None = None) -> Accelerator:
    """Join the processes that RANK, WORLD_SIZE and so on tell of; one process if there are none.

    Args:
        precision: of matrix products; auto: bfloat16 on GPUs that have it, else float32. Weights are float32.
        on_gpu: whether to run on one; where there is one unless given.

    Raises:
        InputError: the environment contradicts this.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():  # the second until PyTorch 2.9
        # Read when a GPU's memory is first asked for: segments that grow leave no gaps between training and evaluation.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    bfloat16 = require_environment(precision, on_gpu=on_gpu)
    # What Accelerate isn't given it takes from the environment. Without `cpu`, it ignores WORLD_SIZE on a machine
    # without a GPU: each process would be alone. And on a Mac it would take the GPU, which has no float64 for the
    # exact sums of an evaluation.
    return Accelerator(
        mixed_precision="bf16" if bfloat16 else "no",
        cpu=not on_gpu,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
    )


def require_environment(precision: Precision = "auto", *, on_gpu: bool | None = None) -> bool:
    """Refuse an environment that contradicts a run; returns whether its matrix products are in bfloat16.

    Raises:
        InputError: names the variable.
    """
    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision != "auto":
        bfloat16 = precision == "bfloat16"
    require_agreement(bfloat16=bfloat16, on_gpu=on_gpu)
    return bfloat16
