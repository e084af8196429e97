"""DATASETS: name -> what is known of a data set before any of it is read. Standard library only.

A name with a slash is the path of a folder of classes, or the URI of a packed one; `dataset_info()` looks both kinds
up. `ID:/path` is a folder that goes on under an id it has had: by the rules of the version that gave it, or from before
it was renamed.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from vit_trainer.data.class_folders import (
    VERSION,
    ClassFolders,
    find_class_folders,
    held_out_per_class,
)
from vit_trainer.data.samples import sample_files
from vit_trainer.data.shards.remote import patiently
from vit_trainer.errors import DataError, InputError, one_of
from vit_trainer.files.location import is_uri, local_path, user_cache


@dataclass(frozen=True)
class Family:
    """Where images come from: what is known of that before any is read."""

    reader: str
    """The file of `families` that finds and reads them."""
    origin: str
    """How they are known to be those that they should be."""
    is_downloaded: bool = False
    """Whether the files come with the first trial where they aren't."""
    in_files: bool = True
    """Whether each image is a file, for worker processes to decode."""


DIGITS = Family("digits", "as scikit-learn has them", in_files=False)
CIFAR = Family(
    "cifar", "the published files: their MD5s are checked before they are read", is_downloaded=True, in_files=False
)
IMAGENET = Family("imagenet", "not hashed: which files there are is checked, not what is in them")
OXFORD = Family("oxford", "the published archives' MD5s are checked, what was unpacked isn't", is_downloaded=True)
FOLDER = Family("folder", "a hash of all names, sizes and a sample of each file is part of its name")


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set that planning and validation need."""

    family: Family
    """Where its images come from."""
    num_classes: int
    """Classes, numbered from 0."""
    num_train: int
    """Training images that the optimiser sees: 98% of CIFAR's, 99% of ImageNet's, 90% of Oxford's."""
    num_validation: int
    """Images held out from the training set: early stopping and the choice of a learning rate look at these."""
    num_test: int
    """Test images: looked at once, at the last step."""
    total_steps: int
    """Optimiser steps of the official schedule."""
    warmup_steps: int
    """Optimiser steps of linear warm-up in the official schedule."""
    global_batch_size: int = 512
    """Images per optimiser step."""
    upstream: str = "imagenet21k"
    """The checkpoints that fine-tuning starts from unless told otherwise."""
    official_base_lr: float = 0.03
    """Base learning rate of the official recipe."""
    base_lrs: tuple[float, ...] = (0.03,)
    """Candidate base learning rates of a sweep: for the official data sets, those of the paper."""
    num_evaluations: int = 40
    """Validations per run, evenly spaced, the last at the last step."""
    image_size: tuple[int, int] = (375, 500)
    """Height and width of its images in pixels; where they differ from file to file, ImageNet's usual ones."""
    num_bytes: float | None = None
    """What its files take on a disk, with the archives that they came in; None if that isn't known."""
    cautions: tuple[str, ...] = ()
    """What whoever trains on it should know: of a folder of classes, that few images validate."""

    @property
    def is_miniature(self) -> bool:
        """Whether it is made for trials of seconds on a laptop, as the architectures of that kind are."""
        return self.family == DIGITS


FEW_IMAGES = 100
"""With fewer for validation, chance has a large part in what they choose."""
_SMALL_LRS, _IMAGENET_LRS = (0.001, 0.003, 0.01, 0.03), (0.003, 0.01, 0.03, 0.06)


def _cifar(num_classes: int) -> DatasetInfo:
    sizes = (num_classes, 49_000, 1_000, 10_000)
    return DatasetInfo(CIFAR, *sizes, 10_000, 500, base_lrs=_SMALL_LRS, image_size=(32, 32), num_bytes=356e6)


def _oxford(sizes: tuple[int, int, int, int], num_bytes: float) -> DatasetInfo:
    """The warm-up isn't in the paper; it is that of its authors' later configurations."""
    return DatasetInfo(OXFORD, *sizes, 500, 100, base_lrs=_SMALL_LRS, num_evaluations=20, num_bytes=num_bytes)


def _digits(num_classes: int, num_train: int, num_validation: int, num_test: int) -> DatasetInfo:
    return DatasetInfo(
        DIGITS,
        num_classes,
        num_train,
        num_validation,
        num_test,
        total_steps=80,
        warmup_steps=8,
        global_batch_size=64,
        upstream="digits",
        official_base_lr=0.003,
        base_lrs=(0.003, 0.01),
        num_evaluations=8,
        image_size=(8, 8),
        num_bytes=0.0,
    )


DATASETS: dict[str, DatasetInfo] = {
    "cifar10": _cifar(10),
    "cifar100": _cifar(100),
    "imagenet2012": DatasetInfo(
        IMAGENET, 1000, 1_268_355, 12_812, 50_000, 20_000, 500, base_lrs=_IMAGENET_LRS, num_bytes=155e9
    ),
    "oxford_pets": _oxford((37, 3_312, 368, 3_669), 1.6e9),
    "oxford_flowers102": _oxford((102, 918, 102, 6_149), 0.7e9),
    "digits-even": _digits(5, 181, 90, 180),
    "digits-odd": _digits(5, 179, 90, 179),
    "digits-pretrain": replace(
        _digits(10, 718, 180, 180), upstream="scratch", total_steps=2000, warmup_steps=200, official_base_lr=0.1
    ),
}


def is_folder(name: str) -> bool:
    """Whether a data set is named by the path of a folder of classes: one with a slash, such as ./pets."""
    return os.sep in name


def short_name(name: str) -> str:
    """What to call a data set on screen: a folder by its own name.

    >>> short_name("s3://bucket/pets?region=eu-west-1"), short_name("/data/pets"), short_name("cifar10")
    ('pets', 'pets', 'cifar10')
    """
    return Path(name.partition("?")[0] if is_uri(name) else name).name


def dataset_info(name: str) -> DatasetInfo:
    """What is known of a data set: a row of DATASETS, or what a folder of classes holds.

    Of a folder, all files are listed and a sample of each is read, once per process. Its recipe is the paper's for data
    sets of its size, as `_recipe_for` has it.

    Raises:
        InputError: a name that doesn't exist; the message names the nearest one.
        DataError: a path where there is no folder of classes; says what has to be there.
    """
    if is_folder(name):
        return listed_folder(name).info
    if name not in DATASETS:
        raise InputError(f"{one_of('dataset', name, list(DATASETS))}; or the path of a folder of classes, as ./{name}")
    return DATASETS[name]


def family_of(name: str) -> Family:
    """A data set's family, whatever it is called: by name, path or id. Nothing is looked at, so it never fails."""
    return DATASETS[name].family if name in DATASETS else FOLDER


def dataset_id(name: str) -> str:
    """What a data set is called in trial ids and config.json: its name, without a slash.

    Of a folder of classes: its own name and a hash of its contents (every image's part, class, file name, size, and
    first and last 16 KB), so a copy elsewhere is the same data set, and an image added, removed or changed makes it
    another.
    """
    return listed_folder(name).id if is_folder(name) else name


class ListedFolder(NamedTuple):
    """A folder of classes as a data set."""

    id: str
    folders: ClassFolders
    info: DatasetInfo
    hashes: Mapping[str, str]
    """By path of an image what its content is known by, see `samples`; none by the rules of version 1."""
    unreadable: Mapping[str, str]
    """Path and reason of what can't be read."""


def folder_of(name: str) -> ClassFolders:
    """The listing of a data set that is a folder of classes. Raises DataError: as `dataset_info`."""
    return listed_folder(name).folders


def id_and_path(name: str) -> tuple[str | None, str]:
    """The id under which a folder goes on, if another than its own, and its path.

    >>> id_and_path("pets-0123456789ab:/data/cats"), id_and_path("/data/cats")
    (('pets-0123456789ab', '/data/cats'), (None, '/data/cats'))
    """
    match = re.fullmatch(r"([A-Za-z0-9._-]+-[0-9a-f]{12}):(/.*|[a-z0-9+.-]+://.*)", name, re.DOTALL)
    return (match[1], match[2]) if match else (None, name)


def with_id(name: str) -> str:
    """A data set's name that is refused once it is another's: of a folder of classes `ID:/path`. Raises DataError."""
    if not is_folder(name) or id_and_path(name)[0] is not None:
        return name
    return f"{dataset_id(name)}:{resolved(name)}"


def resolved(path: str) -> str:
    """A folder of classes by its absolute path, or as it is by its URI. Raises InputError: as `local_path`."""
    return path if is_uri(path) else str(local_path(path, "dataset").resolve())


def version_of(folder_id: str) -> int:
    """By which rules of `class_folders` a folder was read that has this id.

    >>> version_of("pets-v2-0123456789ab"), version_of("pets-0123456789ab")
    (2, 1)
    """
    match = re.search(r"-v([0-9]+)-[0-9a-f]{12}$", folder_id)
    return int(match[1]) if match else 1


@lru_cache(maxsize=64)
def listed_folder(name: str) -> ListedFolder:
    """What there is to know of a folder of classes, looked at once per process.

    Raises:
        DataError: there is none, or it goes on under an id that isn't its own any more.
        DataOutageError: the bucket that it has been in doesn't answer.
    """
    given_id, path = id_and_path(name)
    version = VERSION if given_id is None else version_of(given_id)
    find = partial(find_class_folders, path, version=version)
    folders = find() if given_id is None else patiently(find)  # of an id it is known that it is there
    paths = () if version == 1 else [path for part in folders.files for path in folders.paths(part)]
    if folders.packed and paths:
        hashes, unreadable = folders.packed.by_path(folders.packed.index.samples.astype(str)), dict[str, str]()
    else:
        hashes, unreadable = sample_files(folders.root, paths)
    unreadable.update(folders.unreadable)
    own_id = folders.contents_id(hashes)
    if given_id is not None and given_id[-12:] != own_id[-12:]:
        raise DataError(
            f"{folders.place} isn't {given_id} any more: its images have changed since; give the same command again"
        )
    train_counts = folders.counts("train")
    num_train = sum(train_counts)
    if folders.validation == "train":
        num_validation = sum(held_out_per_class(train_counts, folders.held_out_percent))
        num_train -= num_validation
    else:
        num_validation = sum(folders.counts(folders.validation))
    num_test = sum(folders.counts(folders.test))
    info = replace(
        _recipe_for(num_train) if folders.version > 1 else DATASETS["cifar10"],
        family=FOLDER,
        num_classes=len(folders.classes),
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        image_size=DatasetInfo.image_size,
        num_bytes=float(folders.packed.header.num_bytes) if folders.packed else None,
        cautions=tuple(_cautions(folders, num_validation, unreadable)),
    )
    return ListedFolder(given_id or own_id, folders, info, hashes, unreadable)


def _recipe_for(num_train: int) -> DatasetInfo:
    """The paper's recipe for data sets of this size, which is BiT's rule too: Pets', CIFAR's or ImageNet's.

    A step has at most as many images as there are, and a power of two, so that any number of GPUs divides it.

    >>> [(each.total_steps, each.warmup_steps) for each in map(_recipe_for, (160, 20_000, 500_000))]
    [(500, 100), (10000, 500), (20000, 500)]
    >>> _recipe_for(160).global_batch_size
    128
    """
    name = "oxford_pets" if num_train < 20_000 else "cifar10" if num_train < 500_000 else "imagenet2012"
    recipe = DATASETS[name]
    return replace(recipe, global_batch_size=min(recipe.global_batch_size, 1 << (num_train.bit_length() - 1)))


def _cautions(folders: ClassFolders, num_validation: int, unreadable: Mapping[str, str]) -> Iterator[str]:
    if folders.passed_over:
        yield f"{folders.place}: passed over {folders.passed_over}"
    for path, reason in list(unreadable.items())[:1]:
        yield f"{folders.place}: {len(unreadable)} can't be read, such as {path} ({reason})"
    if 0 < num_validation < FEW_IMAGES:
        yield (
            f"{folders.place} has {num_validation} images for validation, of which one is {100 / num_validation:.2g} "
            f"points: chance may choose between candidates; better have {FEW_IMAGES} or more, in val/ beside test/"
        )
    counts = folders.counts("train") if folders.validation == "train" else []
    if single := [name for name, count in zip(folders.classes, counts, strict=False) if count == 1]:
        more = f" and {len(single) - 3} others" if len(single) > 3 else ""
        yield (
            f"{folders.place}/train has one image of {', '.join(single[:3])}{more}: it trains, none of such a class "
            "validates"
        )


def data_folder() -> Path:
    """Where the files of named data sets are: $VIT_DATA, else vit_trainer/data in the user's cache folder."""
    if folder := os.environ.get("VIT_DATA"):
        return Path(folder)
    return user_cache("data")
