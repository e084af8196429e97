"""Prices: what a GPU-hour costs on the machines of a cluster's file, and how many hours some dollars buy."""

from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.machines.node_types import NodeType
from sweeps.machines.offers import MACHINES
from vit_trainer.cards import CARDS, Card
from vit_trainer.errors import InputError


@dataclass(frozen=True)
class Price:
    """What a GPU-hour costs."""

    dollars: float
    source: str
    """Where it is from, for the plan."""


def price_of(given: float | None, types: Iterable[NodeType]) -> Price | None:
    """The price that was given, else that of the dearest known machine of a cluster; None if nothing is known.

    Args:
        given: dollars per GPU-hour.
        types: kinds of workers of the cluster.
    """
    if given is not None:
        return Price(given, "as given")
    listed = [
        (machine.price.dollars_per_hour / machine.num_gpus, kind.machine, machine.price)
        for kind in types
        if (machine := MACHINES.get(kind.machine)) and machine.price
    ]
    if not listed:
        return None
    dollars, name, price = max(listed, key=lambda each: each[0])
    return Price(
        dollars,
        f"{name} at its list price of ${price.dollars_per_hour:g} per hour on demand ({price.read_on}): spot costs "
        "less; head, idle minutes and disks come on top",
    )


def cards_of(types: Iterable[NodeType]) -> list[Card]:
    """The cards of a cluster's known machines."""
    return [CARDS[MACHINES[kind.machine].card] for kind in types if kind.machine in MACHINES]


def limit_in_hours(max_gpu_hours: float | None, max_dollars: float | None, price: Price | None) -> float | None:
    """The limit on GPU-hours that was given, in hours or in dollars; the smaller of both; None if neither was.

    Raises:
        InputError: dollars, and no price is known.
    """
    limits = [] if max_gpu_hours is None else [max_gpu_hours]
    if max_dollars is not None:
        if price is None:
            raise InputError(
                f"max_dollars {max_dollars:g} on a cluster whose machines have no price here: "
                "give --price-per-gpu-hour too"
            )
        limits.append(max_dollars / price.dollars)
    return min(limits, default=None)
