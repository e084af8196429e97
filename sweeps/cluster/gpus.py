"""GPUs: which cards a sweep's machines have."""

from typing import Any

import ray

from sweeps.cluster.nodes import on_every_node
from sweeps.machines.cards import cards_of_ray
from vit_trainer.cards import Card, card_of_gpu
from vit_trainer.machine import gpus_from_outside


def cards_here() -> list[Card]:
    """The cards of the Ray cluster, if this process has joined one, else of this machine.

    Nodes are asked only where Ray's name for a card says too little.
    """
    if not ray.is_initialized():
        return _cards(gpus_from_outside(of_machine=False))
    named = cards_of_ray(ray.cluster_resources())
    if all(card.peak_flops_per_second for card in named):
        return named
    found = [found for found in on_every_node(_gpus_of_node).values() if not isinstance(found, Exception)]
    return [card for gpus in found for card in _cards(gpus)] or named


def _gpus_of_node() -> list[dict[str, Any]]:
    return gpus_from_outside(of_machine=True)  # Ray hides them from who has asked for none


def _cards(gpus: list[dict[str, Any]]) -> list[Card]:
    return [card_of_gpu(gpu["name"], gpu["memory_gib"], has_bfloat16=gpu["has_bfloat16"]) for gpu in gpus]
