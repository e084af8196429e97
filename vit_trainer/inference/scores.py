"""Scores: what follows from the predictions of finished trials, without training or a GPU. NumPy alone."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_trainer.errors import InputError
from vit_trainer.files.predictions import NO_CLASS, Predictions

Z_95 = 1.959964


def binomial_interval(num_correct: int, num_images: int) -> tuple[float, float]:
    """Wilson's interval of an accuracy with 95% confidence: how far chance in the choice of the images reaches.

    >>> "{:.4f} {:.4f}".format(*binomial_interval(9906, 10000))
    '0.9885 0.9923'
    """
    share, weight = num_correct / num_images, Z_95**2 / num_images
    centre = (share + weight / 2) / (1 + weight)
    half = Z_95 / (1 + weight) * math.sqrt((share * (1 - share) + weight / 4) / num_images)
    return centre - half, centre + half


@dataclass(frozen=True)
class ClassScore:
    """How a class was recognised."""

    label: int
    num_images: int
    num_correct: int
    confused_with: tuple[tuple[int, int], ...]
    """(class, how many images were taken for it), the most frequent first."""


def class_scores(predictions: Predictions) -> list[ClassScore]:
    """Every class that has images, by its number."""
    scores = []
    for label in np.unique(predictions.labels[predictions.labels != NO_CLASS]).tolist():
        first = predictions.classes[predictions.labels == label, 0]
        wrong, counts = np.unique(first[first != label], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        pairs = tuple(zip(wrong[order].tolist(), counts[order].tolist(), strict=True))
        scores.append(ClassScore(label, len(first), int((first == label).sum()), pairs))
    return scores


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test of two models on the same images."""

    num_only_first: int
    """Images that the first alone has right."""
    num_only_second: int
    p_value: float
    """Chance of a difference at least as large, were both equally good on images such as these."""


def mcnemar(first: Predictions, second: Predictions) -> PairedTest:
    """Compare two models image by image.

    Raises:
        InputError: they saw different images.
    """
    _require_same_images([first, second])
    only_first = int((first.is_correct & ~second.is_correct).sum())
    only_second = int((second.is_correct & ~first.is_correct).sum())
    total, least = only_first + only_second, min(only_first, only_second)
    log_half = total * math.log(2)
    tail = math.fsum(
        math.exp(math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - log_half)
        for k in range(least + 1)
    )
    return PairedTest(only_first, only_second, min(1.0, 2 * tail))


def vote(several: Sequence[Predictions]) -> NDArray[np.uint16]:
    """What models say together: (num_images,) classes with the largest sum of first choices' confidences.

    A true ensemble would average all probabilities, which aren't kept.

    Raises:
        InputError: they saw different images.
    """
    _require_same_images(several)
    firsts = np.stack([each.classes[:, 0] for each in several])
    weights = np.stack([each.confidences.astype(np.float64) for each in several])
    sums = np.stack([(weights * (firsts == own)).sum(0) for own in firsts])
    chosen: NDArray[np.uint16] = np.take_along_axis(firsts, sums.argmax(0)[None], axis=0)[0]
    return chosen


def real_accuracy(predictions: Predictions, labels: Sequence[Sequence[int]]) -> tuple[int, int]:
    """ImageNet-ReaL (Beyer et al., arXiv 2006.07159): (correct, images that have a label).

    Args:
        labels: content of real.json: the right classes of each validation image, by its number from 1 on.

    Raises:
        InputError: these aren't ImageNet's validation images.
    """
    numbers = [re.search(rb"ILSVRC2012_val_(\d{8})\.JPEG$", name) for name in predictions.names.tolist()]
    if len(labels) != 50_000 or len(numbers) != 50_000 or not all(numbers):
        raise InputError(
            f"{len(labels)} labels of ImageNet-ReaL and {len(numbers)} images by name: give real.json with its 50,000, "
            "and predictions of all of ImageNet's validation images"
        )
    pairs = [
        (own, labels[int(number[1]) - 1])
        for own, number in zip(predictions.classes[:, 0].tolist(), numbers, strict=True)
        if number
    ]
    return sum(own in right for own, right in pairs), sum(bool(right) for _, right in pairs)


def _require_same_images(several: Sequence[Predictions]) -> None:
    first = several[0]
    for other in several[1:]:
        if not (np.array_equal(first.labels, other.labels) and np.array_equal(first.names, other.names)):
            sizes = f"{len(first.labels)} and {len(other.labels)} images"
            raise InputError(f"predictions of {sizes} that aren't the same: give trials of one data set")
