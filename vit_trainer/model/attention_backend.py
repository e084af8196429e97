"""fastest_attention(): which of PyTorch's kernels computes attention, chosen by measuring them at the model's shape.

Which one is fastest differs between cards: cuDNN's is reported 1.7 to 2.3 times as fast as flash attention on one
generation and slower on the one before.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vit_trainer.architectures import Architecture

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
NUM_WARMUPS, NUM_REPEATS = 3, 20


def backend_seconds(
    architecture: Architecture, resolution: int, batch_size: int, *, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Seconds of one layer's forward and backward pass with each backend that computes this shape on this device.

    Args:
        resolution: side of the images in pixels.
        batch_size: images.
        dtype: that of the queries, keys and values.
    """
    tokens, heads = architecture.grid(resolution) ** 2 + 1, architecture.num_heads
    shape = (batch_size, tokens, 3, heads, architecture.width // heads)  # as a model's projection leaves them
    generator = torch.Generator(device).manual_seed(0)  # its own: random weights draw from the global one
    qkv = torch.randn(shape, generator=generator, dtype=dtype, device=device, requires_grad=True)
    seconds = {}
    for name, backend in BACKENDS.items():
        try:
            with warnings.catch_warnings(), sdpa_kernel(backend):
                warnings.simplefilter("ignore")  # a backend that can't says why, then raises
                seconds[name] = _seconds(qkv)
        except RuntimeError:
            continue
    if device.type == "cuda":  # the plain formula takes memory that no step will need
        del qkv
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return seconds


def _seconds(qkv: Tensor) -> float:
    """Seconds of a forward and backward pass with the backend that is allowed; a GPU's by its own clock."""
    for _ in range(NUM_WARMUPS):
        _pass(qkv)
    if qkv.device.type != "cuda":
        start = time.perf_counter()
        for _ in range(NUM_REPEATS):
            _pass(qkv)
        return (time.perf_counter() - start) / NUM_REPEATS
    start_of, end_of = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start_of.record()
    for _ in range(NUM_REPEATS):
        _pass(qkv)
    end_of.record()
    end_of.synchronize()
    return float(start_of.elapsed_time(end_of)) / 1000 / NUM_REPEATS


def _pass(qkv: Tensor) -> None:
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    output = F.scaled_dot_product_attention(query, key, value)
    torch.autograd.grad(output, qkv, output.detach())


@contextmanager
def fastest_attention(
    architecture: Architecture,
    resolution: int,
    batch_size: int,
    accelerator: Accelerator,
    chosen_before: str | None = None,
) -> Iterator[str | None]:
    """Compute attention with the backend that is fastest on the first process's GPU; a CPU keeps PyTorch's choice.

    Args:
        chosen_before: what an earlier attempt of the run used on such a card; used again, since another backend
            rounds otherwise. Only the first process's counts.

    Yields:
        A key of BACKENDS; None on a CPU.
    """
    if accelerator.device.type != "cuda":
        yield None
        return
    if chosen_before not in BACKENDS:
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        seconds = backend_seconds(architecture, resolution, batch_size, dtype=dtype, device=accelerator.device)
        chosen_before = min(seconds, key=seconds.__getitem__, default="math")
    (chosen,) = broadcast_object_list([chosen_before])
    # The plain formula behind it, should it not take the shape of an evaluation's batch. The name goes into the key of
    # PyTorch's compile cache, which would give a graph with another trial's choice in it.
    allowed = sdpa_kernel([BACKENDS[chosen], SDPBackend.MATH], set_priority=True)
    tagged = torch.compiler.config.patch(cache_key_tag=f"attention: {chosen}")  # type: ignore[attr-defined]
    with allowed, tagged:
        yield chosen
