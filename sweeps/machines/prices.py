"""Prices: what a GPU-hour costs on the machines of a cluster's file, and how many hours some dollars buy."""

from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.machines.node_types import NodeType
from vit_trainer.cards import CARDS, Card
from vit_trainer.errors import InputError


@dataclass(frozen=True)
class Machine:
    """A cloud's machine with GPUs."""

    num_gpus: int
    card: str
    """A key of CARDS."""
    dollars_per_hour: float
    """On demand, for Linux."""


MACHINES = {
    "p4d.24xlarge": Machine(8, "A100-40GB", 21.96),
    "p4de.24xlarge": Machine(8, "A100-80GB", 27.45),
    "p5.48xlarge": Machine(8, "H100", 55.04),
    "a2-highgpu-8g": Machine(8, "A100-40GB", 29.39),
    "a2-ultragpu-8g": Machine(8, "A100-80GB", 40.55),
}
"""List prices of 2025: AWS in us-east-1 (p4 and p5 as reduced in June), GCP in us-central1. Spot costs less, by a share
that changes from day to day, so that a sum of these is an upper bound."""


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
    known = {kind.machine: MACHINES[kind.machine] for kind in types if kind.machine in MACHINES}
    if not known:
        return None
    name, machine = max(known.items(), key=lambda item: item[1].dollars_per_hour / item[1].num_gpus)
    return Price(
        machine.dollars_per_hour / machine.num_gpus,
        f"{name} at its list price of ${machine.dollars_per_hour:g} per hour on demand (2025): spot costs less; "
        "head, idle minutes and disks come on top",
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
