"""Predictions: what a trial's final model said of every test image, kept in its run folder. NumPy alone."""

import io
import zipfile
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vit_trainer.errors import InputError

NUM_KEPT = 5
"""Classes per image."""
MAX_BYTES = 2**28
"""Unpacked; of ImageNet's 1.3 million training images they are 70 MB."""
NO_CLASS = 65535
"""Where there are fewer classes, or a logit is NaN; as the label of an image that could not be read."""


@dataclass(frozen=True)
class Predictions:
    """The likeliest classes of each image, in the order of the data set's test images."""

    classes: NDArray[np.uint16]
    """(num_images, 5): by falling logit, of equal ones the lower class first; a class of a NaN is NO_CLASS."""
    confidences: NDArray[np.float16]
    """(num_images,): probability of the first class."""
    labels: NDArray[np.uint16]
    """(num_images,): NO_CLASS for an image that could not be read, which doesn't count."""
    names: NDArray[np.bytes_]
    """(num_images,): path of each image in the data set's folder; (0,) where images have none."""
    class_names: NDArray[np.str_] = field(default_factory=lambda: np.array([], np.str_))
    """(num_classes,): what each class is called; (0,) where nobody said it."""

    def name_of(self, label: int) -> str:
        """What a class is called."""
        if label == NO_CLASS:
            return "no class"
        return str(self.class_names[label]) if label < self.class_names.size else f"class {label}"

    @property
    def num_images(self) -> int:
        return int((self.labels != NO_CLASS).sum())

    @property
    def num_correct(self) -> int:
        """Images whose first class is their label."""
        return int(self.is_correct.sum())

    @property
    def num_correct_top5(self) -> int:
        """Images whose label is among their five classes."""
        is_there = (self.classes == self.labels[:, None]) & (self.labels != NO_CLASS)[:, None]
        return int(is_there.any(1).sum())

    @property
    def is_correct(self) -> NDArray[np.bool_]:
        """(num_images,): whether an image's first class is its label."""
        is_correct: NDArray[np.bool_] = (self.classes[:, 0] == self.labels) & (self.labels != NO_CLASS)
        return is_correct

    def to_bytes(self) -> bytes:
        """As an .npz of these arrays: less than 1 MB for the 50,000 images of ImageNet."""
        file = io.BytesIO()
        np.savez_compressed(file, **vars(self))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Predictions":
        """What `to_bytes` gave.

        Raises:
            InputError: it is no such file.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                    raise ValueError("it unpacks to more than predictions do")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                always = (arrays[name] for name in ("classes", "confidences", "labels", "names"))
                found = cls(*always, *(arrays[name] for name in ("class_names",) if name in arrays))
        except Exception as error:  # zipfile, zlib and NumPy raise many kinds
            raise InputError(f"no file of predictions ({error}): give predictions.npz of a run folder") from error
        forms = [(each.dtype.name, *each.shape) for each in (found.classes, found.confidences, found.labels)]
        count = found.labels.size
        is_named = found.names.dtype.kind == "S" and found.names.shape in ((count,), (0,))
        is_named &= found.class_names.dtype.kind == "U" and found.class_names.ndim == 1
        if forms != [("uint16", count, NUM_KEPT), ("float16", count), ("uint16", count)] or not is_named:
            raise InputError(f"no file of predictions (arrays {forms}): give predictions.npz of a run folder")
        return found
