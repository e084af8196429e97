"""Evaluation by exact sums: every image counts once, and there is one division at the end."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_trainer.data.splits import Split
from vit_trainer.errors import DataError
from vit_trainer.files.predictions import NO_CLASS, NUM_KEPT, Predictions
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
    predictions: Predictions | None = field(default=None, compare=False)
    """What the model said of each image, where asked for."""

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
    keeps_predictions: bool = False,
) -> Evaluation:
    """Evaluate every image of a split; the processes share them, and none is counted twice.

    Args:
        model: prepared by the accelerator; left in training mode.
        resolution: side of the model's input in pixels.
        batch_size: images per forward pass and process, halved if they need more memory than there is; the result
            doesn't depend on it.
        after_batch: called after each; what it raises ends the evaluation.
        keeps_predictions: whether the evaluation has `predictions`, from which its accuracies are then counted.

    Raises:
        DataError: there is no image, or none can be read.
    """
    model.eval()
    mine = np.arange(accelerator.process_index, len(split), accelerator.num_processes)
    batches = partial(split.evaluation_batches, mine, resolution=resolution, device=accelerator.device)
    table = torch.zeros(len(split) if keeps_predictions else 0, NUM_KEPT + 2, device=accelerator.device)
    sums: Tensor | None = None
    while sums is None:
        try:
            sums = _sums(model, batches(batch_size), accelerator.device, after_batch, table)
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch_size == 1:
                raise
            batch_size //= 2
    model.train()
    correct, correct_top5, loss_sum, count = accelerator.reduce(sums, reduction="sum").tolist()
    if not count:
        example = f", such as {os.fsdecode(split.names[0])}," if len(split.names) else ""
        raise DataError(f"none of the {len(split)} images to evaluate{example} can be read: replace them")
    if not keeps_predictions:
        return Evaluation(round(correct), round(correct_top5), loss_sum, round(count))
    whole: NDArray[np.float32] = accelerator.reduce(table, reduction="sum").cpu().numpy()  # each has its own rows
    integers = (whole[:, :-1] + NO_CLASS).astype(np.uint16)  # the table counts from NO_CLASS, so that 0 is none
    found = Predictions(integers[:, :-1], whole[:, -1].astype(np.float16), integers[:, -1], split.names)
    return Evaluation(found.num_correct, found.num_correct_top5, loss_sum, round(count), found)


@torch.inference_mode()
def _sums(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, NDArray[np.int64]]],
    device: torch.device,
    after_batch: Callable[[], None],
    table: Tensor,
) -> Tensor:
    """Correct, correct among five, cross-entropy, images: (4,) float64 over the batches of one process.

    Args:
        table: (num_images, 7), or empty: gets the classes and the label of each image, less NO_CLASS, and a confidence.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for images, labels, indices in batches:
        logits: Tensor = model(images).float()
        ranks = label_ranks(logits, labels)
        sums[0] += (ranks < 1).sum()
        sums[1] += (ranks < 5).sum()
        sums[2] += F.cross_entropy(logits, labels, reduction="none").double().sum()
        sums[3] += len(labels)
        if len(table):
            classes = likeliest(logits)
            confidences = logits.softmax(1).amax(1).nan_to_num(0.0)
            rows = torch.cat([classes - NO_CLASS, (labels - NO_CLASS)[:, None], confidences[:, None]], dim=1)
            table[torch.from_numpy(indices).to(device)] = rows
        after_batch()
    return sums


def likeliest(logits: Tensor) -> Tensor:
    """The classes of the highest logits, ordered as `label_ranks` does: (batch, 5) int64.

    The class of a NaN, and what there isn't where there are fewer classes, is NO_CLASS.
    """
    values, classes = logits.sort(dim=1, descending=True, stable=True)  # NaN first
    classes = classes.masked_fill(values.isnan(), NO_CLASS)[:, :NUM_KEPT]
    return F.pad(classes, (0, NUM_KEPT - classes.shape[1]), value=NO_CLASS)


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the label's: (batch,) from logits (batch, num_classes) and labels (batch,).

    Equal logits are ordered by class, so there is one answer on every device; a label whose logit is NaN is last.
    """
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return (~(logits <= own) | ((logits == own) & earlier)).sum(1)
