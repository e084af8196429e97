"""Evaluation by exact sums: every image counts once, and there is one division at the end."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from vit_trainer.architectures import MODELS
from vit_trainer.data.datasets import dataset_info
from vit_trainer.data.load import load_dataset, require_dataset
from vit_trainer.data.splits import Split
from vit_trainer.errors import CheckpointError, InputError
from vit_trainer.weights.load import pretrained_model
from vit_trainer.weights.npz_files import check_checkpoint

SplitName = Literal["train", "validation", "test"]


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
            if not should_reduce_batch_size(error) or batch_size == 1:
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


@dataclass(frozen=True)
class CheckpointEvaluation:
    """How good a checkpoint is with its own head, and on what."""

    model: str
    checkpoint: str
    """Path of the file."""
    dataset: str
    split: SplitName
    resolution: int
    """Side of the images in pixels."""
    num_processes: int
    seconds: float
    """Reading and resizing the images included, loading the model not."""
    sums: Evaluation

    @property
    def images_per_second(self) -> float:
        """Of all processes together."""
        return self.sums.num_images / self.seconds

    def to_dict(self) -> dict[str, str | int | float]:
        """As JSON values, the metrics under the names that a trial gives them."""
        prefix = "val" if self.split == "validation" else self.split
        return {
            "model": self.model,
            "checkpoint": self.checkpoint,
            "dataset": self.dataset,
            "split": self.split,
            "resolution": self.resolution,
            f"{prefix}/accuracy": self.sums.accuracy,
            f"{prefix}/accuracy_top5": self.sums.accuracy_top5,
            f"{prefix}/loss": self.sums.loss,
            "num_correct": self.sums.num_correct,
            "num_correct_top5": self.sums.num_correct_top5,
            "num_images": self.sums.num_images,
            "num_processes": self.num_processes,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


def evaluate_checkpoint(
    model_name: str,
    path: Path,
    dataset: str,
    accelerator: Accelerator,
    *,
    split: SplitName = "test",
    resolution: int | None = None,
    batch_size: int = 256,
    num_workers: int | None = None,
    skip_unreadable: bool = False,
) -> CheckpointEvaluation:
    """Evaluate an official file with its own head (and `pre_logits`), without training. Every process calls this.

    Args:
        split: of its images, those of `train` too are seen whole.
        resolution: side of the images in pixels; None: what the file's position embeddings are for.
        batch_size: images per forward pass and process; the result doesn't depend on it.
        num_workers, skip_unreadable: see `config.Execution`; what was skipped isn't among `num_images`.

    Raises:
        InputError: the file, the data set or the resolution can't be used, or the head is for other classes.
    """
    architecture, contents = MODELS[model_name], check_checkpoint(path, model_name)
    if resolution is None:
        resolution = contents.resolution(architecture)
    elif not architecture.accepts(resolution):
        raise InputError(f"resolution {resolution} does not fit {model_name}: give a multiple of {architecture.stride}")
    num_classes = dataset_info(dataset).num_classes
    if contents.num_classes != num_classes:
        raise CheckpointError(
            f"the head of {path} has {contents.num_classes or 'no'} classes, {dataset} has {num_classes}: "
            "choose a checkpoint and a data set of the same classes, or fine-tune with python -m vit_trainer train"
        )
    require_dataset(dataset)
    model = accelerator.prepare_model(pretrained_model(model_name, path, resolution=resolution), evaluation_mode=True)
    data = load_dataset(dataset, num_workers=num_workers, skip_unreadable=skip_unreadable)
    images: Split = getattr(data, split)
    accelerator.wait_for_everyone()
    start = time.perf_counter()
    sums = evaluate(model, images, accelerator, resolution=resolution, batch_size=batch_size)
    seconds = time.perf_counter() - start
    return CheckpointEvaluation(
        model_name, str(path), dataset, split, resolution, accelerator.num_processes, seconds, sums
    )
