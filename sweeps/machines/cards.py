"""Cards to plan for, by our names and Ray's."""

from collections.abc import Iterable

from vit_trainer.cards import CARDS, Card
from vit_trainer.errors import one_of

DEFAULT_CARD = "A100-40GB"

_RAY_PREFIX = "accelerator_type:"
_RAY_NAMES = {"A100": "A100-40GB", "A100-40G": "A100-40GB", "A100-80G": "A100-80GB", "V100": "V100-16GB"}
"""What Ray calls a card where it isn't our name; of two sizes of memory, the smaller."""


def card_of(name: str | None, found: Iterable[Card] = ()) -> Card:
    """The card to plan for: the one named, else the slowest that there is, else an A100 with 40 GB.

    Args:
        name: a key of CARDS.
        found: cards of the cluster or of this machine; one of unknown speed comes before all others.

    Raises:
        InputError: an unknown name.
    """
    if name is not None:
        if name not in CARDS:
            raise one_of("card", name, list(CARDS))
        return CARDS[name]
    return min(found, key=lambda card: card.peak_flops_per_second or 0.0, default=CARDS[DEFAULT_CARD])


def cards_of_ray(resources: Iterable[str]) -> list[Card]:
    """The cards of a Ray cluster by its resources, where they appear as `accelerator_type:H100`.

    Of one that isn't known here, neither speed nor memory is.
    """
    names = sorted(each.removeprefix(_RAY_PREFIX) for each in resources if each.startswith(_RAY_PREFIX))
    return [
        CARDS.get(_RAY_NAMES.get(own := name.removeprefix("GeForce-"), own), Card(name, None, None)) for name in names
    ]
