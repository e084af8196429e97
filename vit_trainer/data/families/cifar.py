"""CIFAR-10 and CIFAR-100 from the files that torchvision also uses: pickles by Alex Krizhevsky, 2009.

Pickles can run code, so nothing is unpickled before its MD5 has been compared with the published one, and even then
only arrays and plain values can come out.
"""

import hashlib
import io
import pickle
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from vit_trainer.data.datasets import data_folder
from vit_trainer.data.decoding import Decoding
from vit_trainer.data.splits import InMemorySplit, Splits, held_out
from vit_trainer.errors import DataError
from vit_trainer.files.published import PublishedFile, check_md5, fetch_published

HELD_OUT_PERCENT = 2


@dataclass(frozen=True)
class CifarFormat:
    """Names and checksums of a data set's files, and what to look for in them."""

    folder: str
    """The unpacked folder, in the archive as in the data folder."""
    archive: PublishedFile
    train: tuple[tuple[str, str], ...]
    """File names and MD5s of the training images, in the official order."""
    test: tuple[tuple[str, str], ...]
    """File names and MD5s of the test images, in the official order."""
    labels: str
    """Under which key the files hold the labels."""


def _archive(name: str, md5: str) -> PublishedFile:
    return PublishedFile(name, f"https://www.cs.toronto.edu/~kriz/{name}", md5)


CIFAR: dict[str, CifarFormat] = {
    "cifar10": CifarFormat(
        folder="cifar-10-batches-py",
        archive=_archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        train=(
            ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
            ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            ("data_batch_4", "634d18415352ddfa80567beed471001a"),
            ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        ),
        test=(("test_batch", "40351d587109b95175f43aff81a1287e"),),
        labels="labels",
    ),
    "cifar100": CifarFormat(
        folder="cifar-100-python",
        archive=_archive("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        train=(("train", "16019d7e3df5f24257cddd939b257f8d"),),
        test=(("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
        labels="fine_labels",
    ),
}
"""As published at https://www.cs.toronto.edu/~kriz/cifar.html and known to torchvision.datasets.CIFAR10, CIFAR100."""


def require(name: str, *, may_download: bool, source: str | None = None) -> None:
    """Download what isn't there, if that may be; see `fetch_published`."""
    files = CIFAR[name]
    members = [f"{files.folder}/{file}" for file, _ in (*files.train, *files.test)]
    fetch_published(files.archive.at(source), data_folder(), members, may_download=may_download)


def published(name: str) -> dict[str, PublishedFile]:
    """The archive, which lies beside what is unpacked of it."""
    return {CIFAR[name].archive.name: CIFAR[name].archive}


def load(name: str, **_: Unpack[Decoding]) -> Splits:
    """Read the images: 98% of train, the 2% that are held out of it, and test.

    Raises:
        DataError: the files are damaged, or missing and can't be downloaded; says what to put where.
    """
    require(name, may_download=True)
    files = CIFAR[name]
    images, labels = _read(files, files.train)
    train, validation = held_out(labels, HELD_OUT_PERCENT)
    return Splits(
        InMemorySplit(images[train], labels[train]),
        InMemorySplit(images[validation], labels[validation]),
        InMemorySplit(*_read(files, files.test)),
    )


def _read(files: CifarFormat, names: tuple[tuple[str, str], ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (count, 32, 32, 3) and labels (count,) of several files, in order."""
    images, labels = [], []
    for name, published in names:
        path = data_folder() / files.folder / name
        content = path.read_bytes()
        check_md5(str(path), hashlib.md5(content, usedforsecurity=False).hexdigest(), published)
        try:
            batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise DataError(f"{path} is no CIFAR file ({error}): remove it and start again") from error
        images.append(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += batch[files.labels]
    return np.ascontiguousarray(np.concatenate(images)), np.array(labels, dtype=np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays and plain values, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        maker = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _dtype,
            ("numpy.core.multiarray", "_reconstruct"): np.ndarray.__new__,
            ("numpy._core.multiarray", "_reconstruct"): np.ndarray.__new__,  # as NumPy 2 writes it
            ("_codecs", "encode"): _encode,  # as Python 3 writes bytes for Python 2
        }.get((module, name))
        if maker is not None:
            return maker
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which no CIFAR file does")


def _dtype(code: str, align: int, copy: int) -> np.dtype[Any]:
    """Python 2 wrote align and copy as 0 and 1, which NumPy 2.4 deprecates."""
    return np.dtype(code, bool(align), bool(copy))


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)
