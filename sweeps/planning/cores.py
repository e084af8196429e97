"""Cores: how fast a CPU core of this machine is at what trials do, from a moment's measurement."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

from vit_trainer.data.datasets import folder_of, is_folder
from vit_trainer.data.decoding import decode_image
from vit_trainer.errors import DataError

SHARE_OF_PRODUCTS, SHARE_IN_MINIATURE = 0.95, 0.5
"""What training reaches of the speed of small matrix products, measured on a core of an AMD EPYC: 0.9 to 1 for ViT-B,
0.47 to 0.6 for the miniatures."""
SIDE, COUNT = 64, 2000
"""Of the matrices; larger ones would be given to several threads, which take time to wait for each other."""
NUM_DECODED = 8
"""Images of a folder that are decoded to know how long that takes."""


@lru_cache(maxsize=1)
def flops_per_second() -> float:
    """What one core reaches in products of matrices, in floating-point operations per second."""
    import numpy as np

    matrices = np.ones((COUNT, SIDE, SIDE), dtype=np.float32)
    products = np.empty_like(matrices)

    def multiply() -> None:
        np.matmul(matrices, matrices, out=products)

    multiply()  # the first time takes longer
    return COUNT * 2 * SIDE**3 / _core_seconds(multiply)


@lru_cache(maxsize=64)
def decoding_seconds(dataset: str) -> float:
    """What a core takes to read and decode an image of a folder of classes; 0 for other data sets.

    Raises:
        DataError: as `folder_of`.
    """
    if not is_folder(dataset):
        return 0.0
    import numpy as np

    from vit_trainer.data.shards.reading import contents_of

    folders = folder_of(dataset)
    if folders.packed:
        folders.packed.require_shards()  # a bucket that is away is said at once; trials would be patient
    paths = folders.paths("train")
    chosen = paths[:: max(1, len(paths) // NUM_DECODED)][:NUM_DECODED]
    contents = contents_of(folders, np.array([os.fsencode(path) for path in chosen]))

    def decode() -> None:
        contents.ahead(range(len(chosen)))
        for place in range(len(chosen)):
            with suppress(DataError):
                decode_image(contents.read(place))

    return _core_seconds(decode) / len(chosen)


def _core_seconds(work: Callable[[], None]) -> float:
    """What it takes of all cores together, so that who else is busy here doesn't count."""
    start = time.process_time()
    work()
    return max(time.process_time() - start, 1e-9)
