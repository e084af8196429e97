"""CARDS: what is known of GPUs, from NVIDIA's data sheets; by our names and the drivers'. Standard library only."""

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Card:
    """What one has to know of a GPU to plan for it, and to say how much of it is used."""

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


SLOWER = {("H100", "PCIe"): 756e12, ("H100", "NVL"): 835e12, ("H200", "NVL"): 835e12, ("V100", "PCIE"): 112e12}
"""Peaks of versions that drivers name so and that are slower, from the same data sheets."""


def card_of_device(device_name: str) -> Card | None:
    """The card that a GPU's driver calls so, or None if nothing is known of it; nothing is of a part of one (MIG).

    >>> card_of_device("NVIDIA A100-SXM4-80GB").name, card_of_device("NVIDIA L40S").name, card_of_device("AMD EPYC")
    ('A100-80GB', 'L40S', None)
    >>> card_of_device("NVIDIA H100 PCIe").peak_flops_per_second, card_of_device("NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    (756000000000000.0, None)
    """
    words = set(re.split(r"[\s-]+", device_name))
    card = next((card for card in CARDS.values() if set(card.name.split("-")) <= words), None)
    if card is None or "MIG" in words:
        return None
    peaks = [peak for names, peak in SLOWER.items() if set(names) <= words]
    return replace(card, peak_flops_per_second=peaks[0]) if peaks else card
