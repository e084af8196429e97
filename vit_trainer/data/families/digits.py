"""Handwritten digits that come with scikit-learn (1,797 images of 8x8 pixels), as three small data sets.

`digits-pretrain` holds half of the images, of all ten digits: the miniature checkpoints are made from it. The other
half is for fine-tuning, split by digit into `digits-even` and `digits-odd`; no image is in two of the three.
Source of the images: Alpaydin and Kaynak, UCI ML repository, "Optical Recognition of Handwritten Digits".
"""

from typing import Unpack

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from vit_trainer.data.decoding import Decoding
from vit_trainer.data.randomness import Stream, raw_bits
from vit_trainer.data.splits import InMemorySplit, Splits

DIGITS = {"digits-even": (0, 2, 4, 6, 8), "digits-odd": (1, 3, 5, 7, 9), "digits-pretrain": tuple(range(10))}
"""The classes of each data set: its labels are the places in these."""
PRETRAIN_FRACTION = 0.5
VALIDATION_FRACTION = 0.2
TEST_FRACTION = 0.4
"""Fractions of a data set; `digits-pretrain` needs no test and has only the validation part, twice."""


def subset_indices(name: str) -> dict[str, NDArray[np.int64]]:
    """Which of scikit-learn's images are in the train, validation and test split of one of DIGITS."""
    digits = load_digits().target
    order = np.argsort(raw_bits(Stream.ORDER, 1797, 0, 0, len(digits)), kind="stable")
    num_pretrain = int(PRETRAIN_FRACTION * len(order))
    if name == "digits-pretrain":
        chosen = order[:num_pretrain]
    else:
        chosen = order[num_pretrain:][np.isin(digits[order[num_pretrain:]], DIGITS[name])]
    num_test, num_validation = round(TEST_FRACTION * len(chosen)), round(VALIDATION_FRACTION * len(chosen))
    if name == "digits-pretrain":
        return {
            "train": chosen[num_validation:],
            "validation": chosen[:num_validation],
            "test": chosen[:num_validation],
        }
    return {
        "train": chosen[num_test + num_validation :],
        "validation": chosen[num_test : num_test + num_validation],
        "test": chosen[:num_test],
    }


def require(name: str, *, may_download: bool, source: str | None = None) -> None:
    """They are always there."""


def load(name: str, **_: Unpack[Decoding]) -> Splits:
    """The splits of one of DIGITS."""
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # ink from 0 to 16
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = np.searchsorted(DIGITS[name], digits.target)
    parts = {part: InMemorySplit(images[i], labels[i]) for part, i in subset_indices(name).items()}
    return Splits(**parts)
