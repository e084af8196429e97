"""start_accelerator(): how a process finds its device, its precision and the others."""

import os

import torch
from accelerate import Accelerator

from vit_trainer.config import Precision


def start_accelerator(precision: Precision = "auto") -> Accelerator:
    """Join the processes that RANK, WORLD_SIZE and so on tell of; one process if there are none.

    Args:
        precision: of matrix products; auto: bfloat16 on GPUs that have it, else float32. Weights are float32.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():  # the second until PyTorch 2.9
        # Read when a GPU's memory is first asked for: segments that grow leave no gaps between training and evaluation.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision != "auto":
        bfloat16 = precision == "bfloat16"
    # Without `cpu`, Accelerate ignores WORLD_SIZE on a machine without a GPU: each process would be alone. And on a
    # Mac it would take the GPU, which has no float64 for the exact sums of an evaluation.
    return Accelerator(mixed_precision="bf16" if bfloat16 else "no", cpu=not torch.cuda.is_available())
