"""How many images of each class are held out from training, as validation. Standard library only."""

from collections.abc import Sequence
from itertools import accumulate, pairwise


def held_out_per_class(counts: Sequence[int], percent: int) -> list[int]:
    """Images to hold out from each class of `counts[i]` images, `percent` of them all in all.

    A class gives its share, rounded so that the total is exact. However small, it gives at least one image and
    keeps at least one (then the total is not exact); a class of one image keeps it.

    >>> held_out_per_class([500] * 3, 2), held_out_per_class([150, 151, 150], 1), held_out_per_class([5, 2, 1], 2)
    ([10, 10, 10], [2, 1, 2], [1, 1, 0])
    """
    num_images = sum(counts)
    total = num_images - num_images * (100 - percent) // 100
    ends = [(2 * end * total + num_images) // (2 * num_images) for end in accumulate(counts, initial=0)]
    shares = [end - start for start, end in pairwise(ends)]
    return [min(max(share, 1), count - 1) for share, count in zip(shares, counts, strict=True)]
