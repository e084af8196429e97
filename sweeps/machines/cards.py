"""Cards: what planning has to know of GPUs, by our names, Ray's and the drivers'."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vit_trainer.errors import InputError, one_of


@dataclass(frozen=True)
class Card:
    """What planning has to know of a GPU."""

    name: str
    peak_flops_per_second: float
    """Speed of dense matrix products in bfloat16 that are summed in float32; in float16 where there is no bfloat16."""
    memory_gib: float
    """What programs see of its memory, rounded down."""
    has_bfloat16: bool = True


CARDS = {
    card.name: card
    for card in (
        Card("A100-40GB", 312e12, 39),
        Card("A100-80GB", 312e12, 79),
        Card("H100", 989e12, 79),
        Card("H200", 989e12, 139),
        Card("L4", 121e12, 22),
        Card("L40S", 362e12, 44),
        Card("A10G", 70e12, 22),
        Card("V100-16GB", 125e12, 15.7, has_bfloat16=False),
        Card("V100-32GB", 125e12, 31.7, has_bfloat16=False),
        Card("T4", 65e12, 14.5, has_bfloat16=False),
    )
}
"""From NVIDIA's data sheets, tensor cores without sparsity; the SXM versions of A100, H100, H200 and V100."""


DEFAULT_CARD = "A100-40GB"


_RAY_NAMES = {"A100": "A100-40GB", "A100-40G": "A100-40GB", "A100-80G": "A100-80GB", "V100": "V100-16GB"}
"""What Ray calls a card where it isn't our name; of two sizes of memory, the smaller."""


_RAY_PREFIX = "accelerator_type:"


def card_of(name: str | None, resources: Iterable[str] = ()) -> Card:
    """The card to plan for: the one named, else the cluster's slowest, else an A100 with 40 GB.

    Args:
        name: a key of CARDS.
        resources: names of the Ray cluster's resources; a card appears as `accelerator_type:H100`.

    Raises:
        InputError: an unknown name, or the cluster has cards of which nothing is known here.
    """
    if name is not None:
        if name not in CARDS:
            raise one_of("card", name, list(CARDS))
        return CARDS[name]
    given = sorted(resource.removeprefix(_RAY_PREFIX) for resource in resources if resource.startswith(_RAY_PREFIX))
    cards = []
    for ray_name in given:
        known = _RAY_NAMES.get(ray_name, ray_name)
        if known not in CARDS:
            raise InputError(f"nothing is known of this cluster's {ray_name}: give --card, one of {', '.join(CARDS)}")
        cards.append(CARDS[known])
    return min(cards, key=lambda card: card.peak_flops_per_second, default=CARDS[DEFAULT_CARD])


def card_of_device(device_name: str) -> Card | None:
    """The card that a GPU's driver calls so, or None if nothing is known of it.

    >>> card_of_device("NVIDIA A100-SXM4-80GB").name, card_of_device("NVIDIA L40S").name, card_of_device("AMD EPYC")
    ('A100-80GB', 'L40S', None)
    """
    words = set(re.split(r"[\s-]+", device_name))
    return next((card for card in CARDS.values() if set(card.name.split("-")) <= words), None)
