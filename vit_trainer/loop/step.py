"""Gradients of optimiser steps, in micro-batches that are halved when memory runs out. What train and probe share."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.randomness import dropout_keys, image_order
from vit_trainer.data.splits import MicroBatch, Split
from vit_trainer.errors import GangRestartError, InputError
from vit_trainer.loop.speed import InputWait
from vit_trainer.loop.survived import remember_micro_batch, survived_micro_batch
from vit_trainer.machine import is_out_of_memory, to_device
from vit_trainer.model.compiled import compiles
from vit_trainer.model.dropout import DropoutKeys
from vit_trainer.model.memory import USABLE_SHARE, memory_bytes, micro_batch_sizes


class Gradients:
    """Computes this process's gradient of one step after the other, and goes on in smaller parts without memory."""

    def __init__(
        self,
        config: FinetuneConfig,
        accelerator: Accelerator,
        model: nn.Module,
        keys: DropoutKeys,
        images: Split,
        micro_batch_size: int,
        first_step: int = 0,
        *,
        compiled: bool = False,
    ) -> None:
        """model: as the accelerator prepared it, in training mode; keys: its own; images: those that it trains on."""
        self.micro_batch_size = micro_batch_size
        """Images per forward and backward."""
        self.input_wait = InputWait(accelerator.device)
        self._config, self._accelerator, self._images = config, accelerator, images
        self._model, self._keys = model, keys
        self._compiled, self._has_shrunk = compiled, False
        self._share = config.global_batch_size // accelerator.num_processes
        self._batches = process_batches(config, images, accelerator, first_step, micro_batch_size)

    def compute(self, step: int) -> Tensor | None:
        """Leave the gradient of a step in the parameters; steps are asked for in order.

        Returns:
            This process's mean loss, a scalar on the device; None if a smaller micro-batch might fit into memory.
        """
        share, size, device = self._share, self.micro_batch_size, self._accelerator.device
        first = self._accelerator.process_index * share
        seed, has_dropout = self._config.seed, self._config.dropout > 0
        step_keys = dropout_keys(seed, step, slice(first, first + share)) if has_dropout else None
        step_loss = torch.zeros((), device=device)
        try:
            for start in range(0, share, size):
                images, labels = self.input_wait.next(self._batches)
                if step_keys is not None:
                    self._keys.set(to_device(step_keys[start : start + size], device))
                last = start + size == share
                step_loss += backward(self._accelerator, self._model, images, labels, last, share)
        except RuntimeError as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            return None
        if self._has_shrunk:
            self._remember(size)
        return step_loss

    def shrink(self, step: int) -> str:
        """Once memory has run out: begin with a step again, in micro-batches of at most half the size.

        Returns:
            What happened, in a line.

        Raises:
            GangRestartError: there are other processes, which must start again too.
        """
        smaller = max(size for size in range(1, self.micro_batch_size // 2 + 1) if self._share % size == 0)
        note = f"out of memory with micro_batch_size {self.micro_batch_size}: goes on with {smaller}"
        if self._accelerator.num_processes > 1:
            self._remember(smaller)
            raise GangRestartError(note, smaller)
        self.micro_batch_size, self._has_shrunk = smaller, True
        self._model.zero_grad()
        clear_device_cache(garbage_collection=True)
        self._batches = process_batches(self._config, self._images, self._accelerator, step, smaller)
        return note

    def _remember(self, size: int) -> None:
        self._has_shrunk = False
        if self._compiled:
            remember_micro_batch(self._config, self._accelerator, size)


def choose_micro_batch_size(config: FinetuneConfig, execution: Execution, accelerator: Accelerator) -> int:
    """Images per forward and backward, such that micro-batch * processes * accumulation is the global batch.

    Raises:
        InputError: the global batch can't be divided among the processes, or not into parts of the size asked for.
    """
    processes = accelerator.num_processes
    if config.global_batch_size % processes:
        raise InputError(
            f"global_batch_size {config.global_batch_size} is not divisible by {processes} processes: "
            "the global batch never changes, so give another number of GPUs"
        )
    share = config.global_batch_size // processes
    if execution.micro_batch_size is None:
        # Too much would be halved too, but only after a compilation in vain.
        survived = survived_micro_batch(config, accelerator) if compiles(execution, accelerator.device) else None
        sizes = [size for size in micro_batch_sizes(config, share) if survived is None or size <= survived]
        if accelerator.device.type != "cuda":
            return sizes[0]
        usable = USABLE_SHARE * torch.cuda.get_device_properties(accelerator.device).total_memory
        times = 1 if accelerator.mixed_precision == "bf16" else 2  # the estimate is of activations in bfloat16
        return next((size for size in sizes if memory_bytes(config, times * size, processes) <= usable), 1)
    if share % execution.micro_batch_size:
        raise InputError(f"micro_batch_size {execution.micro_batch_size} does not divide {share}, a process's share")
    return execution.micro_batch_size


def process_batches(
    config: FinetuneConfig, images: Split, accelerator: Accelerator, first_step: int, micro_batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's augmented images and labels, from a step on: its share of each global batch, part by part."""
    share = config.global_batch_size // accelerator.num_processes
    first = accelerator.process_index * share

    def micro_batches() -> Iterator[MicroBatch]:
        for step in range(first_step, config.total_steps):
            order = image_order(config.seed, step * config.global_batch_size, config.global_batch_size, len(images))
            for start in range(first, first + share, micro_batch_size):
                yield MicroBatch(step, slice(start, start + micro_batch_size), order[start : start + micro_batch_size])

    return images.train_batches(
        micro_batches(), seed=config.seed, resolution=config.resolution, device=accelerator.device
    )


def backward(
    accelerator: Accelerator, model: nn.Module, images: Tensor, labels: Tensor, last: bool, share: int
) -> Tensor:
    """Add one micro-batch's part of the gradient of the mean loss; returns its part of the loss, on the device.

    Processes exchange gradients only with the last micro-batch of a step.
    """
    with accelerator.no_sync(model) if not last else nullcontext():
        loss = F.cross_entropy(model(images).float(), labels, reduction="sum") / share
        accelerator.backward(loss)
    return loss.detach()
