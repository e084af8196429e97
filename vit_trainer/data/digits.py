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
"""Fractions of a subset; `pretrain` needs no test and has only the validation part, twice."""


def subset_indices(subset: str) -> dict[str, NDArray[np.int64]]:
    """Which of scikit-learn's images are in the train, validation and test split of a subset."""
    digits = load_digits().target
    order = np.argsort(raw_bits(Stream.ORDER, 1797, 0, 0, len(digits)), kind="stable")
    num_pretrain = int(PRETRAIN_FRACTION * len(order))
    if subset == "pretrain":
        chosen = order[:num_pretrain]
    else:
        parity = ("even", "odd").index(subset)
        chosen = order[num_pretrain:][digits[order[num_pretrain:]] % 2 == parity]
    num_test, num_validation = round(TEST_FRACTION * len(chosen)), round(VALIDATION_FRACTION * len(chosen))
    if subset == "pretrain":
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


def load_digits_subset(subset: str) -> Splits:
    """The splits of `even` or `odd` (labels 0-4: digit // 2) or `pretrain` (labels 0-9): images of 8x8 pixels."""
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # ink from 0 to 16
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = digits.target if subset == "pretrain" else digits.target // 2
    parts = {name: InMemorySplit(images[i], labels[i]) for name, i in subset_indices(subset).items()}
    return Splits(**parts)
