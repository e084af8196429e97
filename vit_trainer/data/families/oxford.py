"""Oxford-IIIT Pets and Oxford Flowers-102, in the files that Oxford's Visual Geometry Group publishes.

    oxford_pets/annotations/{trainval,test}.txt     oxford_flowers102/{imagelabels,setid}.mat
    oxford_pets/images/<breed>_<number>.jpg         oxford_flowers102/jpg/image_<number>.jpg

10% of train are held out, as in the paper. Which of Flowers' images the paper trained on, it doesn't say: here it is
the 1,020 of `trnid`, as in its authors' later configurations; the 1,020 of `valid` are left alone.

Of the archives only the images that are listed are unpacked: not 41 pets that are in no list, nor trimaps, .mat files
and macOS's `._` files. Some of the pets' .jpg are of another kind or have stray bytes: what is inside decides how they
are read, alpha channels are dropped, and one that Pillow can't read is named and stops what reads it; see `Decoding`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from vit_trainer.data.class_names import NAMES
from vit_trainer.data.datasets import DATASETS, data_folder
from vit_trainer.data.decoding import Decoding
from vit_trainer.data.image_files import ImageFileSplit
from vit_trainer.data.splits import Splits, held_out
from vit_trainer.errors import DataError
from vit_trainer.files.published import PublishedFile, fetch_published

HELD_OUT_PERCENT = 10
_ANEW = "remove these lists, and they are unpacked anew"

Listed = dict[str, int]
"""Images of a part, as paths in the data set's folder, each with its class from 0."""


@dataclass(frozen=True)
class OxfordFormat:
    """A data set's files."""

    images: PublishedFile
    labels: tuple[PublishedFile, ...]
    members: tuple[str, ...]
    """What is needed of the archive of labels; none: its files themselves."""
    read: Callable[[Path], tuple[Listed, Listed]]
    """What the labels list in a folder as train and as test."""


def _pets(root: Path) -> tuple[Listed, Listed]:
    """From lines such as `Abyssinian_100 1 1 1`: image, class from 1, cat or dog, breed among those."""
    numbers = {name: number for number, name in enumerate(NAMES["oxford_pets"])}

    def listed(path: Path) -> Listed:
        images = {}
        for line in path.read_text(errors="replace").splitlines():
            match = re.fullmatch(r"((\w+)_\d+)\s+(\d+)\s+\d+\s+\d+\s*", line)
            if match is None or numbers.get(match[2]) != int(match[3]) - 1:
                raise DataError(f"{path} has a line that lists no pet ({line[:80]!r}): {_ANEW}")
            images[f"images/{match[1]}.jpg"] = int(match[3]) - 1
        return images

    return listed(root / "annotations/trainval.txt"), listed(root / "annotations/test.txt")


def _flowers(root: Path) -> tuple[Listed, Listed]:
    """From two MATLAB files: each image's class, and the images of a part; both count from 1."""
    from scipy.io import loadmat

    labels = loadmat(root / "imagelabels.mat")["labels"].ravel()
    parts = loadmat(root / "setid.mat")

    def listed(part: str) -> Listed:
        return {f"jpg/image_{number:05}.jpg": int(labels[number - 1]) - 1 for number in parts[part].ravel().tolist()}

    return listed("trnid"), listed("tstid")


_PETS, _FLOWERS = (
    "https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
    "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
)
OXFORD = {
    "oxford_pets": OxfordFormat(
        PublishedFile("images.tar.gz", f"{_PETS}images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        (PublishedFile("annotations.tar.gz", f"{_PETS}annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),),
        ("annotations/trainval.txt", "annotations/test.txt"),
        _pets,
    ),
    "oxford_flowers102": OxfordFormat(
        PublishedFile("102flowers.tgz", f"{_FLOWERS}102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
        (
            PublishedFile("imagelabels.mat", f"{_FLOWERS}imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
            PublishedFile("setid.mat", f"{_FLOWERS}setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
        (),
        _flowers,
    ),
}
"""As torchvision.datasets.OxfordIIITPet and Flowers102 know them."""


def require(name: str, *, may_download: bool, source: str | None = None) -> None:
    """Download and unpack what isn't there, if that may be.

    Raises:
        DataError: something is missing and can't be made, or the labels list other images than they should.
    """
    _listed(name, may_download=may_download, source=source)


def published(name: str) -> dict[str, PublishedFile]:
    """The archives and lists, in a folder of the data set's name."""
    return {f"{name}/{file.name}": file for file in (*OXFORD[name].labels, OXFORD[name].images)}


def load(name: str, **decoding: Unpack[Decoding]) -> Splits:
    """Find all images, after `require`; 10% of train are held out."""
    (paths, labels), test = _listed(name, may_download=True)

    def split(paths: NDArray[np.bytes_], labels: NDArray[np.int64]) -> ImageFileSplit:
        return ImageFileSplit(data_folder() / name, paths, labels, as_stored=True, **decoding)

    train, validation = held_out(labels, HELD_OUT_PERCENT)
    return Splits(split(paths[train], labels[train]), split(paths[validation], labels[validation]), split(*test))


def _listed(
    name: str, *, may_download: bool, source: str | None = None
) -> list[tuple[NDArray[np.bytes_], NDArray[np.int64]]]:
    """Paths and labels of train and of test, once all of it is there."""
    files, info, root = OXFORD[name], DATASETS[name], data_folder() / name
    for file in files.labels:
        fetch_published(file.at(source, name), root, files.members, may_download=may_download)
    parts = files.read(root)
    counts = {"train": info.num_train + info.num_validation, "test": info.num_test}
    for (part, count), images in zip(counts.items(), parts, strict=True):
        if (len(images), num_classes := len(set(images.values()))) != (count, info.num_classes):
            raise DataError(
                f"{root} lists {len(images):,} images of {num_classes} classes for {part}, not {count:,} of "
                f"{info.num_classes}: {_ANEW}"
            )
    fetch_published(files.images.at(source, name), root, [*parts[0], *parts[1]], may_download=may_download)
    return [(np.array([*images], dtype=np.bytes_), np.array([*images.values()])) for images in parts]
