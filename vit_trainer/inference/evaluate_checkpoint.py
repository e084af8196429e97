"""evaluate_checkpoint(): how good weights are with their own head, without training."""

import time
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from accelerate import Accelerator

from vit_trainer.architectures import MODELS
from vit_trainer.data.class_names import class_names, class_order, names_as_trained
from vit_trainer.data.datasets import dataset_info, is_folder
from vit_trainer.data.load import load_dataset, require_dataset
from vit_trainer.data.splits import Split
from vit_trainer.errors import CheckpointError
from vit_trainer.evaluate import Evaluation, evaluate
from vit_trainer.weights.choice import Weights
from vit_trainer.weights.load import pretrained_model, reorder_classes
from vit_trainer.weights.npz_files import check_checkpoint

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class CheckpointEvaluation:
    """How good a checkpoint is with its own head, and on what."""

    model: str
    checkpoint: str
    """Path of the file, or which trial's it is."""
    dataset: str
    split: SplitName
    resolution: int
    """Side of the images in pixels."""
    num_processes: int
    seconds: float
    """Reading and resizing the images included, loading the model not."""
    sums: Evaluation
    note: str = ""
    """How its classes were matched to the head's, where they aren't known to be the same in the same order."""

    @property
    def images_per_second(self) -> float:
        """Speed of all processes together."""
        return self.sums.num_images / self.seconds

    def to_dict(self) -> dict[str, str | int | float]:
        """The evaluation as JSON values, the metrics under the names that a trial gives them."""
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
    weights: Weights,
    dataset: str,
    accelerator: Accelerator,
    *,
    split: SplitName = "test",
    batch_size: int = 256,
    num_workers: int | None = None,
    skip_unreadable: bool = False,
) -> CheckpointEvaluation:
    """Evaluate weights with their own head (and `pre_logits`), without training. Every process calls this.

    Where both the head's classes and the data set's have names, they are matched by these.

    Args:
        split: of its images, those of `train` too are seen whole.
        batch_size: images per forward pass and process; the result doesn't depend on it.
        num_workers, skip_unreadable: see `config.Execution`; what was skipped isn't among `num_images`.

    Raises:
        InputError: the file, the data set or the resolution can't be used, or the head is for other classes.
    """
    path, contents = weights.path, check_checkpoint(weights.path, weights.model, source=weights.source)
    resolution = weights.resolution or contents.resolution(MODELS[weights.model])
    num_classes = dataset_info(dataset).num_classes
    if contents.num_classes != num_classes:
        raise CheckpointError(
            f"the head of {weights.source} has {contents.num_classes or 'no'} classes, {dataset} has {num_classes}: "
            "choose a checkpoint and a data set of the same classes, or fine-tune with python -m vit_trainer train"
        )
    names = class_names(dataset)
    own = weights.class_names or names_as_trained(weights.dataset, dataset)
    order, note = class_order(own, names, weights.source, dataset)
    if weights.class_names is None and weights.dataset is None and is_folder(dataset) and sorted(names) != list(names):
        note = f"{dataset}: the head's classes are taken to be {', '.join(names[:3])} … in this order"
    require_dataset(dataset, skip_unreadable=skip_unreadable)
    own_model = pretrained_model(weights.model, path, resolution=resolution)
    if own != names:
        reorder_classes(own_model, order)
    model = accelerator.prepare_model(own_model, evaluation_mode=True)
    data = load_dataset(dataset, num_workers=num_workers, skip_unreadable=skip_unreadable)
    images: Split = getattr(data, split)
    accelerator.wait_for_everyone()
    start = time.perf_counter()
    sums = evaluate(model, images, accelerator, resolution=resolution, batch_size=batch_size, keeps_predictions=True)
    seconds = time.perf_counter() - start
    if sums.predictions is not None:
        sums = replace(sums, predictions=replace(sums.predictions, class_names=np.array(names)))
    processes = accelerator.num_processes
    return CheckpointEvaluation(
        weights.model, weights.source, dataset, split, resolution, processes, seconds, sums, note
    )
