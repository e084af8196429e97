"""Handwritten digits that come with scikit-learn (1,797 images of 8x8 pixels), as three small data sets.

`digits-pretrain` holds half of the images, of all ten digits: the miniature checkpoints are made from it. The other
half is split by digit into `digits-even` and `digits-odd`, for fine-tuning; no image is in two of the three.
Source of the images: Alpaydin and Kaynak, UCI ML repository, "Optical Recognition of Handwritten Digits".
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from vit_trainer.data.randomness import Stream, raw_bits
from vit_trainer.data.splits import InMemorySplit, Splits

PRETRAIN_FRACTION = 0.5
VALIDATION_FRACTION = 0.2
TEST_FRACTION = 0.4
"""Fractions of a data set; `digits-pretrain` needs no test and has only the validation part, twice."""


def subset_indices(name: str) -> dict[str, NDArray[np.int64]]:
    """Which of scikit-learn's images are in the train, validation and test split of one of the three data sets."""
    digits = load_digits().target
    order = np.argsort(raw_bits(Stream.ORDER, 1797, 0, 0, len(digits)), kind="stable")
    num_pretrain = int(PRETRAIN_FRACTION * len(order))
    if name == "digits-pretrain":
        chosen = order[:num_pretrain]
    else:
        parity = ("digits-even", "digits-odd").index(name)
        chosen = order[num_pretrain:][digits[order[num_pretrain:]] % 2 == parity]
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


def load_digits_subset(name: str) -> Splits:
    """The splits of one of the three data sets, labels 0-9 in `digits-pretrain`, else 0-4 (digit // 2)."""
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # ink from 0 to 16
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = digits.target if name == "digits-pretrain" else digits.target // 2
    parts = {part: InMemorySplit(images[i], labels[i]) for part, i in subset_indices(name).items()}
    return Splits(**parts)
