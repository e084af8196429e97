"""probe(): how fast a model trains and evaluates here, measured on random images without weights or data.

Imports PyTorch only when it measures, so that a plan can read results without it.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vit_trainer.architectures import MODELS
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.datasets import dataset_info
from vit_trainer.errors import InputError
from vit_trainer.machine import device_name, is_out_of_memory

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from vit_trainer.data.splits import InMemorySplit

TRAIN_FRACTION = 0.8
"""Part of the time that goes to training; the rest goes to evaluation."""
ENDLESS_STEPS = 10**9
"""Optimiser steps of a schedule that no probe reaches the end of."""


@dataclass(frozen=True)
class ProbeResult:
    """What one process reached on one device."""

    train_images_per_second: float
    """Whole optimiser steps: crops, forward, backward and update."""
    evaluation_images_per_second: float
    peak_memory_bytes: int | None
    """Device memory that PyTorch held at most, CUDA's own not counted; None on a CPU."""
    micro_batch_size: int
    """Images per forward and backward; smaller than asked for if those needed more memory than there is."""
    device_name: str
    num_steps: int
    """Optimiser steps that were timed."""
    seconds: float
    """How long it was asked to measure."""


def probe(config: FinetuneConfig, execution: Execution | None = None, *, seconds: float = 60.0) -> ProbeResult:
    """Train and evaluate on random images for a while, with the parts that `train()` is made of.

    The first step and the first evaluation (which compile) are not timed. At least one of each is, however long it
    takes. Reading and decoding image files isn't measured, so for data sets of files the rates are upper bounds.

    Args:
        config: its rate, steps and upstream don't matter.
        execution: its micro-batch, precision and evaluation batch.
        seconds: to measure, positive; 80% of it training.

    Raises:
        InputError: the device's memory doesn't hold the model with even one image.
    """
    from vit_trainer.loop.accelerator import start_accelerator
    from vit_trainer.loop.repeatable import kernel_switches
    from vit_trainer.loop.step import choose_micro_batch_size
    from vit_trainer.model.attention_backend import fastest_attention

    execution = execution or Execution()
    accelerator = start_accelerator(execution.precision)
    config = dataclasses.replace(config, total_steps=ENDLESS_STEPS)
    micro_batch_size = choose_micro_batch_size(config, execution, accelerator)
    shape = (MODELS[config.model], config.resolution, micro_batch_size)
    with kernel_switches(execution, MODELS[config.model]), fastest_attention(*shape, accelerator):
        return _measured(config, execution, accelerator, micro_batch_size, seconds)


def _measured(
    config: FinetuneConfig, execution: Execution, accelerator: Accelerator, micro_batch_size: int, seconds: float
) -> ProbeResult:
    import torch

    from vit_trainer.evaluate import evaluate
    from vit_trainer.loop.optim import OfficialSGD, learning_rate_of
    from vit_trainer.loop.step import Gradients
    from vit_trainer.model.build import build_model, dropout_keys_of
    from vit_trainer.model.compiled import compile_forward, compiles

    device = accelerator.device
    images = random_images(config, execution.evaluation_batch_size)
    raw_model = build_model(
        MODELS[config.model],
        num_classes=dataset_info(config.dataset).num_classes,
        resolution=config.resolution,
        dropout=config.dropout,
    )
    keys = dropout_keys_of(raw_model)
    compiled = compiles(execution, device)
    if compiled:
        compile_forward(raw_model)
    try:
        model = accelerator.prepare(raw_model).train()
        optimizer = OfficialSGD(model.parameters())
        gradients = Gradients(config, accelerator, model, keys, images, micro_batch_size, compiled=compiled)
        step, start = 0, 0.0
        while step < 2 or _now(device) - start < TRAIN_FRACTION * seconds:
            if gradients.compute(step) is None:
                gradients.shrink(0)
                step = 0
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                continue
            optimizer.step(learning_rate_of(config, step))
            optimizer.zero_grad()
            if step == 0:
                start = _now(device)
            step += 1
        num_steps, train_seconds = step - 1, _now(device) - start
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{config.model} at {config.resolution} px does not fit into the memory of {device_name()}, with one image "
            "at a time: give a larger card or a lower resolution"
        ) from error

    num_evaluations, start = -1, 0.0
    while num_evaluations < 1 or _now(device) - start < (1 - TRAIN_FRACTION) * seconds:
        evaluate(model, images, accelerator, resolution=config.resolution, batch_size=execution.evaluation_batch_size)
        num_evaluations += 1
        if num_evaluations == 0:
            start = _now(device)
    return ProbeResult(
        train_images_per_second=num_steps * config.global_batch_size / train_seconds,
        evaluation_images_per_second=num_evaluations * len(images) / (_now(device) - start),
        peak_memory_bytes=torch.cuda.max_memory_reserved() if device.type == "cuda" else None,
        micro_batch_size=gradients.micro_batch_size,
        device_name=device_name(),
        num_steps=num_steps,
        seconds=seconds,
    )


def _now(device: torch.device) -> float:
    """Seconds, once the device has done everything that it was asked for."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def random_images(config: FinetuneConfig, count: int) -> InMemorySplit:
    """Noise, with the sizes and classes of the data set."""
    import numpy as np

    from vit_trainer.data.splits import InMemorySplit

    draw = np.random.default_rng(config.seed)
    info = dataset_info(config.dataset)
    pixels = draw.integers(0, 256, (count, *info.image_size, 3), dtype=np.uint8)
    return InMemorySplit(pixels, draw.integers(0, info.num_classes, count))
