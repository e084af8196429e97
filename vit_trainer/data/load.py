"""load_dataset(): a data set's images as Splits, read by the file of its family. Imports no torch until it reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.datasets import data_folder, dataset_info

if TYPE_CHECKING:
    from vit_trainer.data.splits import Splits


def require_dataset(name: str, *, may_download: bool = True) -> None:
    """Check that a data set can be read here, without reading it; CIFAR's files are downloaded if they may be.

    Raises:
        DataError: it can't; says what to put where.
    """
    family = dataset_info(name).family
    if family == "cifar":
        from vit_trainer.data.cifar import CIFAR, fetch_cifar

        fetch_cifar(CIFAR[name], data_folder(), may_download=may_download)
    elif family == "imagenet":
        find_class_folders(data_folder() / name, test="val")


def load_dataset(
    name: str, *, num_workers: int | None = None, skip_unreadable: bool = False, compiled: bool = False
) -> Splits:
    """Read a data set's images, or find them, as train, validation and test.

    Args:
        num_workers: processes that decode image files; see `config.Execution`, as for `skip_unreadable`.
        compiled: whether a GPU resizes images of different sizes in one kernel, which is made at the first batch.

    Raises:
        DataError: the files are missing or damaged; says what to put where.
    """
    info = dataset_info(name)
    if info.family == "digits":
        from vit_trainer.data.digits import load_digits_subset

        return load_digits_subset(name)
    if info.family == "cifar":
        from vit_trainer.data.cifar import CIFAR, load_cifar

        return load_cifar(CIFAR[name], data_folder())
    from vit_trainer.data.image_files import load_class_folders, load_imagenet

    if info.family == "imagenet":
        folder = data_folder() / name
        return load_imagenet(folder, info, num_workers=num_workers, skip_unreadable=skip_unreadable, compiled=compiled)
    return load_class_folders(Path(name), num_workers=num_workers, skip_unreadable=skip_unreadable, compiled=compiled)
