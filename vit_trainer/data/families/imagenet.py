"""ImageNet-2012 from train/ and val/ class folders of JPEGs; val/ is the test split, as in the published table."""

from typing import Unpack

from vit_trainer.data.class_folders import ClassFolders, find_class_folders
from vit_trainer.data.datasets import DATASETS, data_folder
from vit_trainer.data.decoding import Decoding
from vit_trainer.data.families.folder import splits_of
from vit_trainer.data.shards.packed import adopt
from vit_trainer.data.shared_memory import too_small
from vit_trainer.data.splits import Splits
from vit_trainer.errors import DataError
from vit_trainer.files.published import copy_tree
from vit_trainer.machine import num_cores

HELD_OUT_PERCENT = 1


def require(name: str, *, may_download: bool, source: str | None = None) -> None:
    """List the folders, after they were copied from a source, or what was packed there was adopted.

    Raises:
        DataError: as `find_class_folders`, or `load`; a shard is missing.
    """
    root = data_folder() / name
    if source is not None and not adopt(source, root):
        copy_tree(source, root, ("train", "val"))
    folders = find_class_folders(root, test="val", version=1) if source is None else whole_folder(name)
    if folders.packed:
        folders.packed.require_shards()


def load(name: str, **decoding: Unpack[Decoding]) -> Splits:
    """Find all images, of which 1% of train are held out.

    Raises:
        DataError: as `find_class_folders`; classes or (unless told to skip them) images are missing; /dev/shm is so
            small that loading would stop at its first batches.
    """
    folders = whole_folder(name, skip_unreadable=decoding.get("skip_unreadable", False))
    num_workers = decoding.get("num_workers")
    if problem := too_small(num_cores() if num_workers is None else num_workers):
        raise DataError(problem)
    return splits_of(folders, HELD_OUT_PERCENT, **decoding)


def whole_folder(name: str, *, skip_unreadable: bool = False) -> ClassFolders:
    """The listing. Raises DataError: as `load`."""
    root, info = data_folder() / name, DATASETS[name]
    folders = find_class_folders(root, test="val", version=1)
    if len(folders.classes) != info.num_classes:
        raise DataError(f"{root} has {len(folders.classes)} classes, not {info.num_classes}: unpack imagenet2012 anew")
    for part, expected in (("train", info.num_train + info.num_validation), ("val", info.num_test)):
        count = sum(folders.counts(part))
        if count != expected and not skip_unreadable:
            raise DataError(
                f"{root / part} has {count:,} images, not {expected:,}: unpack imagenet2012 anew, "
                "or give --skip-unreadable to go on with these"
            )
    return folders
