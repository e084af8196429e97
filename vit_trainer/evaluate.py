"""Evaluation by exact sums: every image counts once, and there is one division at the end."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from vit_trainer.data.splits import Split


@dataclass(frozen=True)
class Evaluation:
    """Sums over the evaluated images."""

    num_correct: int
    """Images whose highest logit is their label's."""
    loss_sum: float
    """Sum of the cross-entropies, in nats."""
    num_images: int

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.num_correct / self.num_images

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.loss_sum / self.num_images


@torch.inference_mode()
def evaluate(
    model: nn.Module, split: Split, accelerator: Accelerator, *, resolution: int, batch_size: int
) -> Evaluation:
    """Evaluate every image of a split; the processes share them, and none is counted twice.

    Args:
        model: prepared by the accelerator; left in training mode.
        resolution: side of the model's input in pixels.
        batch_size: images per forward pass and process; the result doesn't depend on it.
    """
    model.eval()
    mine = np.arange(accelerator.process_index, len(split), accelerator.num_processes)
    sums = torch.zeros(3, dtype=torch.float64, device=accelerator.device)
    for images, labels in split.evaluation_batches(mine, batch_size, resolution=resolution, device=accelerator.device):
        logits: Tensor = model(images).float()
        sums[0] += (logits.argmax(1) == labels).sum()
        sums[1] += F.cross_entropy(logits, labels, reduction="sum")
        sums[2] += len(labels)
    model.train()
    correct, loss_sum, count = accelerator.reduce(sums, reduction="sum").tolist()
    return Evaluation(round(correct), loss_sum, round(count))
