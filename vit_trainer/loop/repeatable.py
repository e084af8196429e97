"""What makes an attempt compute as the one before it did: PyTorch's switches, and what the journal pins.

With `--deterministic` a trial ends with the same bits on the same model of card; more than two processes only where
they are spread over as many nodes, since NCCL adds up along its own ways. Not yet run on GPUs.
Imports PyTorch only when it sets its switches.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vit_trainer.architectures import Architecture
from vit_trainer.config import Execution
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import Row
from vit_trainer.machine import device_name

CUBLAS_WORKSPACE = ":4096:8"
"""Workspaces of a fixed size (8 of 4 MiB), without which cuBLAS may add up in another order from call to call."""


@contextmanager
def kernel_switches(execution: Execution, architecture: Architecture) -> Iterator[Row]:
    """Set which kernels PyTorch may take, before a process has used its GPU; they are as before when it ends.

    Without `deterministic`, cuDNN measures its convolutions, of which only hybrids have any that matter. It does so
    anew in every process and may choose another each time, so its choice can't be pinned.

    With it, cuDNN computes no attention, and the backward pass of flash and memory-efficient attention doesn't race;
    convolutions are deterministic; NCCL does without NVLS; Inductor measures nothing that rounds: all PyTorch's doing.

    Yields:
        What the attempt's line in the journal says of it.

    Raises:
        InputError: an operation has no deterministic form.
    """
    import torch

    deterministic, cudnn = execution.deterministic, torch.backends.cudnn
    fills: Any = torch.utils.deterministic
    before = cudnn.benchmark, cudnn.deterministic, fills.fill_uninitialized_memory
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn.benchmark = measures_convolutions(execution, architecture, on_gpu=torch.cuda.is_available())
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        cudnn.deterministic = True
        fills.fill_uninitialized_memory = False  # a check for bugs, at a kernel per allocation
        torch.use_deterministic_algorithms(True)
    try:
        yield {"deterministic": deterministic, "cudnn_benchmark": cudnn.benchmark}
    except RuntimeError as error:
        operation, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not deterministic or not found:
            raise
        raise InputError(
            f"{operation} has no deterministic form on {device_name()}: leave --deterministic out"
        ) from error
    finally:
        cudnn.benchmark, cudnn.deterministic, fills.fill_uninitialized_memory = before
        if deterministic:
            torch.use_deterministic_algorithms(was_deterministic)


def measures_convolutions(execution: Execution, architecture: Architecture, *, on_gpu: bool) -> bool:
    """Whether cuDNN measures which of its convolutions are fastest."""
    return on_gpu and not execution.deterministic and architecture.resnet_stages is not None


def attempt_before(lines: Iterable[Row], *, deterministic: bool, device: str | None) -> Row:
    """The line of a run's last attempt that an attempt on such a card should be like; empty if there was none.

    Args:
        lines: of its journal.
        deterministic: whether the attempt is; one that was otherwise has other kernels.
        device: the card's name; None: any.
    """
    found, is_such = Row(), False
    for line in lines:
        if "attempt" in line:
            is_such = line.get("deterministic", False) == deterministic and device in (None, line.get("device_name"))
            found = line if is_such else found
        elif is_such and "micro_batch_size" in line:  # memory ran out
            found = found | {"micro_batch_size": line["micro_batch_size"]}
    return found


def require_same(lines: Sequence[Row], now: Row, *, device: str | None = None) -> None:
    """Check that a deterministic run goes on as it began; before its first row there is nothing that could differ.

    Args:
        lines: of its journal.
        now: what it is to go on with, under the names of the attempt's line.
        device: the card's name; None: any.

    Raises:
        InputError: something differs that changes the bits.
    """
    before = attempt_before(lines, deterministic=True, device=device)
    if not any("step" in line for line in lines) and not before.get("from_step"):
        return
    for name in now.keys() & before.keys():
        if before[name] != now[name]:
            raise InputError(
                f"{name} is {now[name]}, but was {before[name]} in an earlier attempt with --deterministic, which fixes"
                f" it: go on with {before[name]}, or leave --deterministic out"
            )
