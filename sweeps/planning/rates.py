"""Rates: how fast trials go, from a card's data sheet or from probes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sweeps.planning.probed_rates import Workload
from sweeps.table.cells import Trial
from vit_trainer.architectures import MODELS
from vit_trainer.data.datasets import dataset_info
from vit_trainer.errors import InputError, one_of
from vit_trainer.loop.probe import ProbeResult

TRAIN_FLOPS_PER_FORWARD = 3
"""A backward pass costs twice a forward pass."""
ASSUMED_SHARE_OF_PEAK = 0.45
"""What training reaches of a card's peak: assumed, not measured here."""
REACHED_BY_OTHERS = (0.29, 0.68)
"""What public trainings of such models in bfloat16 reach of it: NVIDIA NeMo's ViT-g 29% on an H100 and 44% on an A100,
karpathy/nanochat 41 to 46% on an H100, timm's ViT-L_32 at 224 px 58 to 68% on an RTX 3090."""


@dataclass(frozen=True)
class Card:
    """What planning has to know of a GPU."""

    name: str
    peak_flops_per_second: float
    """Of dense matrix products in bfloat16 that are summed in float32; in float16 where there is no bfloat16."""
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


def num_trained_images(trial: Trial) -> int:
    """Images that a trial's steps see, run to the end."""
    return trial.config.total_steps * trial.config.global_batch_size


def num_evaluated_images(trial: Trial) -> int:
    """Images of all its validations and its test."""
    info = dataset_info(trial.cell.dataset)
    return trial.config.num_evaluations * info.num_validation + info.num_test


def is_miniature(trial: Trial) -> bool:
    """Whether a trial is too small for a card's peak to say anything about its time."""
    return MODELS[trial.cell.model].is_miniature


@dataclass(frozen=True)
class MeasuredRate:
    """How fast this trainer was with one card and workload."""

    train_images_per_second: float
    evaluation_images_per_second: float
    source: str
    """The command, the date and the commit."""


MEASURED: dict[tuple[str, Workload], MeasuredRate] = {}
"""By card and workload. Empty: this trainer has not run on a GPU yet. `python benchmarks/step.py` measures for it."""


@dataclass(frozen=True)
class Rates:
    """Predicts hours: from probes if there are any, else from what was measured on such a card, else from its peak."""

    card: Card
    measured: Mapping[Workload, ProbeResult] = field(default_factory=dict)
    """By probes of this sweep's storage."""
    table: Mapping[tuple[str, Workload], MeasuredRate] = field(default_factory=lambda: MEASURED)

    def hours(self, trial: Trial) -> float | None:
        """Hours of one GPU (or slot of a cluster without) for a trial run to its end; None if nothing is known.

        A gang of n takes the same GPU-hours: it is assumed to be n times as fast.
        """
        workload = Workload.of(trial)
        known = self.measured.get(workload) or self.table.get((self.card.name, workload))
        if known is not None:
            train, evaluation = known.train_images_per_second, known.evaluation_images_per_second
        elif is_miniature(trial):
            return None
        else:
            flops = MODELS[trial.cell.model].forward_flops(trial.cell.resolution)
            evaluation = ASSUMED_SHARE_OF_PEAK * self.card.peak_flops_per_second / flops
            train = evaluation / TRAIN_FLOPS_PER_FORWARD
        return (num_trained_images(trial) / train + num_evaluated_images(trial) / evaluation) / 3600
