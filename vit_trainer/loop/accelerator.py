"""start_accelerator(): how a process finds its device, its precision and the others; what its environment may decide.

A sweep's trials are started without the variables that decide what a run computes or with whom, behind the back of its
flags. `python -m vit_trainer` obeys torchrun and `accelerate launch`, and refuses what contradicts the run.

Imports PyTorch only when it starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from vit_trainer.config import Precision
from vit_trainer.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

GANG = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a process of several needs to find the others."""
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Numbers of processes of MPI's launchers, and of srun."""
PATTERNS = (
    # A launcher's: they make a process wait for others. SLURM_* are read by neither PyTorch nor Accelerate.
    *GANG,
    *("LOCAL_WORLD_SIZE", "GROUP_*", "ROLE_*", "NODE_RANK", "TORCHELASTIC_*", "PET_*", "TORCHCOMM_*"),
    *("PMI_*", "PMIX_*", "OMPI_*", "MV2_*", "MPI_*"),
    # Accelerate's: accumulation, precision, device, compilation, plug-ins.
    *("ACCELERATE_*", "FSDP_*", "DEEPSPEED_*", "MEGATRON_LM_*", "PARALLELISM_CONFIG_*", "FP8_*", "FORK_LAUNCHED"),
    *("USE_TORCH_XLA", "XLA_*"),
    # Precision and choice of GPU kernels. NCCL_* stay: they are about the network, which a cluster knows best.
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_*", "TORCH_BLAS_*", "TORCH_CUDNN_*", "TORCH_LINALG_*"),
    *("TORCH_LINEAR_FLATTEN_3D", "CUBLAS_*", "CUBLASLT_*", "PYTORCH_TUNABLEOP_*", "TIMM_FUSED_ATTN"),
    # Choice of CPU kernels, and how many threads share a sum.
    *("ATEN_CPU_CAPABILITY", "TORCH_MKLDNN_*", "MKL_*", "ONEDNN_*", "DNNL_*", "OPENBLAS_*", "NPY_*"),
    *("OMP_DYNAMIC", "OMP_THREAD_LIMIT"),
    # Whether and how a model is compiled.
    *("TORCH_COMPILE_*", "TORCHDYNAMO_*", "TORCHINDUCTOR_*", "TRITON_F32_DEFAULT", "TRITON_INTERPRET"),
)
KEPT = ("TORCHINDUCTOR_CACHE_DIR",)
"""Names that match, but decide nothing."""
OFF = ("", "0", "false", "no", "off", "f", "n")
AGREEING = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),
    "ACCELERATE_MIXED_PRECISION": ("no",),
    "ACCELERATE_DYNAMO_BACKEND": ("no",),
    **dict.fromkeys(
        (
            *("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"),
            *("ACCELERATE_USE_PARALLELISM_CONFIG", "ACCELERATE_USE_SAGEMAKER", "ACCELERATE_USE_CPU"),
            *("ACCELERATE_TORCH_DEVICE", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
            *("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"),
        ),
        OFF,
    ),
    **dict.fromkeys(("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"), ("strict",)),
}
"""Values that say what a run does anyway; `accelerate launch` sets some of them itself."""


def start_accelerator(precision: Precision = "auto", *, on_gpu: bool | None = None) -> Accelerator:
    """Join the processes that RANK, WORLD_SIZE and so on tell of; one process if there are none.

    Args:
        precision: of matrix products; auto: bfloat16 on GPUs that have it, else float32. Weights are float32.
        on_gpu: whether to run on one; where there is one unless given.

    Raises:
        InputError: the environment contradicts this.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

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
    import torch

    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision != "auto":
        bfloat16 = precision == "bfloat16"
    require_agreement(bfloat16=bfloat16, on_gpu=on_gpu)
    return bfloat16


def for_trials(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which only a trial's flags decide what it computes.

    >>> for_trials({"WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true", "HOME": "/root", "NCCL_DEBUG": "INFO"})
    {'HOME': '/root', 'NCCL_DEBUG': 'INFO'}
    """
    return {name: value for name, value in environment.items() if name in KEPT or not _decides(name)}


def _decides(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in PATTERNS)


def require_agreement(*, bfloat16: bool, on_gpu: bool) -> None:
    """Refuse what this process's environment asks for against the run, or only half of what finds other processes.

    Raises:
        InputError: names the variable.
    """
    agreeing = AGREEING | {"ACCELERATE_MIXED_PRECISION": ("no", "bf16") if bfloat16 else ("no",)}
    if not on_gpu:
        agreeing |= {"ACCELERATE_USE_CPU": (*OFF, "1", "true", "yes", "on"), "ACCELERATE_TORCH_DEVICE": ("", "cpu")}
    for name, values in agreeing.items():
        if (value := os.environ.get(name)) is not None and value.lower() not in values:
            hint = ", or give --precision bfloat16" if value == "bf16" else ""
            raise InputError(f"{name}={value} contradicts this run, which its flags alone decide: unset {name}{hint}")
    sizes = [name for name in ("WORLD_SIZE", *MPI_SIZES) if os.environ.get(name, "1") != "1"]
    if sizes or "LOCAL_RANK" in os.environ or os.environ.get("RANK", "0") != "0":
        given = next(name for name in (*sizes, "LOCAL_RANK", "RANK") if name in os.environ)
        missing = [name for name in GANG if not os.environ.get(name)]
        missing += [f"a number in {name}" for name in GANG[:3] if not os.environ.get(name, "0").isdigit()]
        if missing:
            raise InputError(
                f"{given}={os.environ[given]} without {', '.join(missing)} finds no other processes: start several "
                f"with torchrun, or unset {given}"
            )


def is_first_process() -> bool:
    """Whether this is a launcher's first process of all, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def leave_gang() -> None:
    """Let go of the other processes, once all have come so far: who leaves while others talk may die of it."""
    from torch import distributed

    from vit_trainer.loop.liveness import wait_for_all

    if distributed.is_available() and distributed.is_initialized():
        wait_for_all(distributed.get_world_size())
        distributed.destroy_process_group()
