"""Cards to plan for, by our names and Ray's."""

from collections.abc import Iterable

from vit_trainer.cards import CARDS, Card
from vit_trainer.errors import InputError, one_of

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
