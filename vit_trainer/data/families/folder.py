"""Any folder of classes, as splits of image files."""

import os
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from vit_trainer.data.class_folders import HELD_OUT_PERCENT, ClassFolders
from vit_trainer.data.datasets import dataset_info, folder_of
from vit_trainer.data.decoding import Decoding
from vit_trainer.data.image_files import ImageFileSplit
from vit_trainer.data.splits import Splits, held_out


def require(name: str, *, may_download: bool) -> None:
    """List the folder. Raises DataError: as `find_class_folders`."""
    dataset_info(name)


def load(name: str, **decoding: Unpack[Decoding]) -> Splits:
    """The splits of a folder of classes. Raises DataError: as `find_class_folders`."""
    return splits_of(folder_of(name), HELD_OUT_PERCENT, **decoding)


def splits_of(folders: ClassFolders, percent: int, **decoding: Unpack[Decoding]) -> Splits:
    """The parts of a folder of classes; `percent` of train are held out where it has no part for validation."""

    def split(part: str, chosen: NDArray[np.int64] | slice = slice(None)) -> ImageFileSplit:
        paths = np.array([os.fsencode(path) for path in folders.paths(part)])
        return ImageFileSplit(folders.root, paths[chosen], _labels(folders, part)[chosen], **decoding)

    if folders.validation == "train":
        train, validation = held_out(_labels(folders, "train"), percent)
        return Splits(split("train", train), split("train", validation), split(folders.test))
    return Splits(split("train"), split(folders.validation), split(folders.test))


def _labels(folders: ClassFolders, part: str) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(folders.classes)), folders.counts(part))
