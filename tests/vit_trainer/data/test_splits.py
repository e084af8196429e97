"""Which images are held out from training: disjoint, stratified, the same for ever."""

import doctest
import hashlib
import math
import random
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from vit_trainer.data import class_folders, datasets
from vit_trainer.data.class_folders import held_out_per_class
from vit_trainer.data.datasets import DATASETS
from vit_trainer.data.splits import held_out


def digest(indices: NDArray[np.int64]) -> str:
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:16]


def imagenet_like_labels() -> NDArray[np.int64]:
    """1,281,167 labels of 1,000 classes of 732 to 1,300 images, as many as ImageNet's."""
    counts = np.full(1000, 1300)
    for i in range(1000):
        counts[i] -= min(568, max(0, 1_300_000 - 1_281_167 - 568 * i))
    assert counts.sum() == 1_281_167
    return np.repeat(np.arange(1000), counts)


@pytest.mark.parametrize(
    ("name", "labels", "percent", "golden"),
    [
        ("cifar10", np.arange(50_000) % 10, 2, ("14ffda95be1ee98e", "ceab0b107a01a33a")),
        ("cifar100", np.arange(50_000) % 100, 2, ("00bbcfa569c9477a", "2ed578b63e34e9d7")),
        ("imagenet2012", imagenet_like_labels(), 1, ("f787b94ac74e4ea9", "442f18e77bf92230")),
    ],
    ids=["cifar10", "cifar100", "imagenet2012"],
)
def test_the_official_data_sets(name: str, labels: NDArray[np.int64], percent: int, golden: tuple[str, str]) -> None:
    train, validation = held_out(labels, percent)
    info = DATASETS[name]
    assert (len(train), len(validation)) == (info.num_train, info.num_validation)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    shares = np.bincount(labels[validation], minlength=info.num_classes) / np.bincount(labels)
    assert len(shares) == info.num_classes
    assert np.all(np.abs(shares * 100 - percent) < 0.2)
    assert (digest(train), digest(validation)) == golden


def test_a_split_is_not_the_first_images_of_each_class() -> None:
    _, validation = held_out(np.repeat(np.arange(10), 500), 2)
    places = validation % 500
    assert 150 < places.mean() < 350


def test_no_class_is_lost() -> None:
    labels = np.repeat(np.arange(5), [1, 2, 3, 40, 200])
    train, validation = held_out(labels, 2)
    assert np.bincount(labels[train], minlength=5).tolist() == [1, 1, 2, 39, 196]
    assert np.bincount(labels[validation], minlength=5).tolist() == [0, 1, 1, 1, 4]


def test_what_is_held_out_of_a_folder_can_decide_and_leaves_every_class_to_train_on() -> None:
    draw = random.Random(0)
    for case in range(300):
        counts = [draw.choice((1, 2, 3, 10, 700)[: 2 + case % 4]) for _ in range(draw.randrange(2, 60))]
        shares = held_out_per_class(counts, None)
        able = sum(count for count in counts if count > 1)
        assert sum(shares) == (able and min(max(math.ceil(able / 50), 200), math.ceil(able / 5)))
        for count, share in zip(counts, shares, strict=True):
            assert 0 <= share < count, "one is left for training"
            exact = count * sum(shares) / able if count > 1 else 0
            assert abs(share - exact) < 1, "stratified"
        labels = np.repeat(np.arange(len(counts)), counts)
        train, validation = held_out(labels, None)
        assert np.bincount(labels[validation], minlength=len(counts)).tolist() == shares
        assert len(np.union1d(train, validation)) == len(train) + len(validation) == len(labels)


@pytest.mark.parametrize("module", [class_folders, datasets])
def test_the_examples_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0
