"""CARDS: what is known of GPUs, from NVIDIA's papers; by our names and the drivers'. Standard library only."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """What one has to know of a GPU to plan for it, and to say how much of it is used."""

    name: str
    peak_flops_per_second: float | None
    """Speed of dense matrix products in bfloat16 that are summed in float32; where there is no bfloat16, of those in
    float32, since the trainer uses no float16. None: not known."""
    memory_gib: float | None
    """What programs see of its memory, rounded down; None: not known."""
    called: tuple[str, ...] = ()
    """What drivers call it, without the brand."""
    source: str = "data sheet"
    """Which of NVIDIA's papers has the peak."""
    has_bfloat16: bool = True


_GA102, _ADA, _TURING = "GA102 whitepaper", "Ada whitepaper", "Turing whitepaper"
_BLACKWELL = "RTX Blackwell whitepaper"

CARDS = {
    card.name: card
    for card in (
        Card("A100-40GB", 312e12, 39, ("A100-SXM4-40GB", "A100-PCIE-40GB")),
        Card("A100-80GB", 312e12, 79, ("A100-SXM4-80GB", "A100-SXM-80GB", "A100 80GB PCIe", "A100-PCIE-80GB")),
        Card("H100", 989e12, 79, ("H100 80GB HBM3",)),
        Card("H100-PCIe", 756e12, 79, ("H100 PCIe",)),
        Card("H100-NVL", 835e12, 93, ("H100 NVL",)),
        Card("H200", 989e12, 139, ("H200",)),
        Card("H200-NVL", 835e12, 139, ("H200 NVL",)),
        Card("GH200", 989e12, 94, ("GH200 480GB", "GH200 120GB")),
        Card("B200", 2250e12, 178, ("B200",)),
        Card("GB200", 2500e12, 183, ("GB200",)),
        Card("L4", 121e12, 22, ("L4",)),
        Card("L40", 181e12, 44, ("L40",)),
        Card("L40S", 362e12, 44, ("L40S",)),
        Card("A10", 125e12, 22, ("A10",)),
        Card("A10G", 70e12, 22, ("A10G",)),
        Card("A30", 165e12, 23, ("A30",)),
        Card("A40", 149.7e12, 44, ("A40",)),
        Card("RTX-A5000", 111.1e12, 23.5, ("RTX A5000",)),  # half of what is given with sparsity, as for the A6000
        Card("RTX-A6000", 154.8e12, 47, ("RTX A6000",), _GA102),
        Card("RTX-6000-Ada", 364.2e12, 47, ("RTX 6000 Ada",), _ADA),
        Card("RTX-PRO-6000", 503.8e12, 94, ("RTX PRO 6000 Blackwell Workstation Edition",), _BLACKWELL),
        # GeForce sums in float32 at half the rate of summing in float16, which advertisements give.
        Card("RTX-3080", 59.5e12, 9.5, ("RTX 3080",), _GA102),
        Card("RTX-3090", 71e12, 23.5, ("RTX 3090",), _GA102),
        Card("RTX-4080", 97.5e12, 15.5, ("RTX 4080",), _ADA),
        Card("RTX-4090", 165.2e12, 23.5, ("RTX 4090",), _ADA),
        Card("RTX-5080", 112.6e12, 15.4, ("RTX 5080",), _BLACKWELL),
        Card("RTX-5090", 209.5e12, 31.3, ("RTX 5090",), _BLACKWELL),
        Card("V100-16GB", 15.7e12, 15.7, ("V100-SXM2-16GB",), has_bfloat16=False),
        Card("V100-32GB", 15.7e12, 31.7, ("V100-SXM2-32GB", "V100-SXM3-32GB"), has_bfloat16=False),
        Card("V100-PCIe-16GB", 14e12, 15.7, ("V100-PCIE-16GB",), has_bfloat16=False),
        Card("V100-PCIe-32GB", 14e12, 31.7, ("V100-PCIE-32GB",), has_bfloat16=False),
        Card("T4", 8.1e12, 14.5, ("T4",), has_bfloat16=False),
        Card("RTX-2080-Ti", 13.4e12, 10.7, ("RTX 2080 Ti",), _TURING, has_bfloat16=False),
    )
}
"""From NVIDIA's papers, tensor cores without sparsity; without another word the SXM versions of A100, H100 and V100.

Memory is the least that such cards have been seen to give programs, which is less than what they are sold with.
"""

_BRANDS = re.compile(r"\b(NVIDIA|Tesla|GeForce|Quadro) |( Generation)$")
_BY_DEVICE = {called: card for card in CARDS.values() for called in card.called}


def card_of_device(device_name: str) -> Card | None:
    """The card that a GPU's driver calls so, or None if nothing is known of it: a laptop's, say, or a part of one.

    >>> names = ("A100-SXM4-80GB", "GeForce RTX 4090", "GeForce RTX 4090 Laptop GPU")
    >>> [card and card.name for card in (card_of_device(f"NVIDIA {name}") for name in names)]
    ['A100-80GB', 'RTX-4090', None]
    """
    return _BY_DEVICE.get(_BRANDS.sub("", device_name))


def card_of_gpu(device_name: str, memory_gib: float, *, has_bfloat16: bool) -> Card:
    """The card that a GPU is; of one that isn't known here, what it says of itself, and no speed."""
    return card_of_device(device_name) or Card(
        _BRANDS.sub("", device_name), None, memory_gib, (), "the device", has_bfloat16
    )
