"""Any folder of classes, as splits of image files."""

import os
from functools import lru_cache
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from vit_trainer.data.class_folders import ClassFolders
from vit_trainer.data.datasets import folder_of
from vit_trainer.data.decoding import Decoding, read_image
from vit_trainer.data.image_files import ImageFileSplit
from vit_trainer.data.shards.cache import fill
from vit_trainer.data.shards.reading import contents_of
from vit_trainer.data.splits import Splits, held_out
from vit_trainer.errors import DataError
from vit_trainer.files.location import is_uri


def require(name: str, *, may_download: bool, source: str | None = None) -> None:
    """List the folder. Raises DataError: as `find_class_folders`, or no image of a part can be read."""
    folders = folder_of(name)
    if folders.packed:
        folders.packed.require_shards()
        return
    for part in folders.files:
        reason = ""
        for path in folders.paths(part):
            try:
                read_image(folders.root / path)
                break
            except DataError as error:
                reason = reason or f"{path} ({error})"
        else:
            raise DataError(f"no image in {folders.root / part} can be read, such as {reason}: replace them")


def load(name: str, **decoding: Unpack[Decoding]) -> Splits:
    """The splits of a folder of classes. Raises DataError: as `find_class_folders`."""
    folders = folder_of(name)
    return splits_of(folders, folders.held_out_percent, **decoding)


def splits_of(folders: ClassFolders, percent: int | None, **decoding: Unpack[Decoding]) -> Splits:
    """The parts of a folder of classes; of train `held_out_per_class` are held out where no part is for validation."""

    @lru_cache
    def encoded(part: str) -> NDArray[np.bytes_]:
        return np.array(list(map(os.fsencode, folders.paths(part))))

    def split(part: str, chosen: NDArray[np.int64] | slice = slice(None)) -> ImageFileSplit:
        paths = encoded(part)[chosen]
        labels, as_stored = _labels(folders, part)[chosen], folders.version == 1
        contents = contents_of(folders, paths)
        return ImageFileSplit(folders.root, paths, labels, contents=contents, as_stored=as_stored, **decoding)

    if folders.packed and is_uri(folders.place):
        fill(folders.packed)
    if folders.validation == "train":
        train, validation = held_out(_labels(folders, "train"), percent)
        return Splits(split("train", train), split("train", validation), split(folders.test))
    return Splits(split("train"), split(folders.validation), split(folders.test))


def _labels(folders: ClassFolders, part: str) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(folders.classes)), folders.counts(part))
