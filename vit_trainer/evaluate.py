"""Evaluation by exact sums: every image counts once, and there is one division at the end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from vit_trainer.data.splits import Split
from vit_trainer.machine import is_out_of_memory


@dataclass(frozen=True)
class Evaluation:
    """Sums over the evaluated images."""

    num_correct: int
    """Images whose highest logit is their label's; of equal logits the first counts as the highest."""
    num_correct_top5: int
    """Images whose label's logit is among the five highest."""
    loss_sum: float
    """Sum of the cross-entropies, in nats."""
    num_images: int

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.num_correct / self.num_images

    @property
    def accuracy_top5(self) -> float:
        """Top-5 accuracy in [0, 1]."""
        return self.num_correct_top5 / self.num_images

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.loss_sum / self.num_images


def evaluate(
    model: nn.Module,
    split: Split,
    accelerator: Accelerator,
    *,
    resolution: int,
    batch_size: int,
    after_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate every image of a split; the processes share them, and none is counted twice.

    Args:
        model: prepared by the accelerator; left in training mode.
        resolution: side of the model's input in pixels.
        batch_size: images per forward pass and process, halved if they need more memory than there is; the result
            doesn't depend on it.
        after_batch: called after each; what it raises ends the evaluation.
    """
    model.eval()
    mine = np.arange(accelerator.process_index, len(split), accelerator.num_processes)
    batches = partial(split.evaluation_batches, mine, resolution=resolution, device=accelerator.device)
    sums: Tensor | None = None
    while sums is None:
        try:
            sums = _sums(model, batches(batch_size), accelerator.device, after_batch)
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch_size == 1:
                raise
            batch_size //= 2
    model.train()
    correct, correct_top5, loss_sum, count = accelerator.reduce(sums, reduction="sum").tolist()
    return Evaluation(round(correct), round(correct_top5), loss_sum, round(count))


@torch.inference_mode()
def _sums(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, after_batch: Callable[[], None]
) -> Tensor:
    """Correct, correct among five, cross-entropy, images: (4,) float64 over the batches of one process."""
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for images, labels in batches:
        logits: Tensor = model(images).float()
        ranks = label_ranks(logits, labels)
        sums[0] += (ranks < 1).sum()
        sums[1] += (ranks < 5).sum()
        sums[2] += F.cross_entropy(logits, labels, reduction="none").double().sum()
        sums[3] += len(labels)
        after_batch()
    return sums


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the label's: (batch,) from logits (batch, num_classes) and labels (batch,).

    Equal logits are ordered by class, so there is one answer on every device; a label whose logit is NaN is last.
    """
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return (~(logits <= own) | ((logits == own) & earlier)).sum(1)
