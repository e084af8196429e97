"""Rates: how fast trials go, from a card's data sheet or from probes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sweeps.planning.cores import SHARE_IN_MINIATURE, SHARE_OF_PRODUCTS, decoding_seconds, flops_per_second
from sweeps.planning.probed_rates import Workload
from sweeps.table.cells import Trial
from vit_trainer.architectures import MODELS, TRAIN_FLOPS_PER_FORWARD
from vit_trainer.cards import Card
from vit_trainer.data.datasets import dataset_info
from vit_trainer.loop.probe import ProbeResult

ASSUMED_SHARE_OF_PEAK = 0.45
"""What training reaches of a card's peak: assumed, not measured here."""
REACHED_BY_OTHERS = (0.29, 0.68)
"""What public trainings of such models in bfloat16 reach of it: NVIDIA NeMo's ViT-g 29% on an H100 and 44% on an A100,
karpathy/nanochat 41 to 46% on an H100, timm's ViT-L_32 at 224 px 58 to 68% on an RTX 3090."""


def num_trained_images(trial: Trial) -> int:
    """Images that a trial's steps see, run to the end."""
    return trial.config.total_steps * trial.config.global_batch_size


def num_evaluated_images(trial: Trial, num_evaluations: int | None = None) -> int:
    """Images of all its validations and its test; num_evaluations: None for as many as its config has."""
    info = dataset_info(trial.cell.dataset)
    count = min(num_evaluations or trial.config.num_evaluations, trial.config.total_steps)
    return count * info.num_validation + info.num_test


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
"""What `python benchmarks/step.py` measured, by card and workload. Empty: this trainer has not run on a GPU yet."""


@dataclass(frozen=True)
class Rates:
    """Predicts hours: from probes, else from what was measured on such a card, its peak, or the speed of CPU cores."""

    card: Card
    measured: Mapping[Workload, ProbeResult] = field(default_factory=dict)
    """What probes kept in this sweep's storage."""
    table: Mapping[tuple[str, Workload], MeasuredRate] = field(default_factory=lambda: MEASURED)
    estimates_cores: bool = False
    """Whether this machine's CPU cores are measured for a moment where nothing else is known of a trial."""

    def hours(self, trial: Trial, num_evaluations: int | None = None) -> float | None:
        """Hours of one GPU (or slot of a cluster without) for a trial run to its end; None if nothing is known.

        A gang of n takes the same GPU-hours: it is assumed to be n times as fast.

        Args:
            num_evaluations: validations on the way; None: as many as its config has.
        """
        workload = Workload.of(trial)
        known = self.measured.get(workload) or self.table.get((self.card.name, workload))
        if known is not None:
            train, evaluation = known.train_images_per_second, known.evaluation_images_per_second
        elif is_miniature(trial) or self.card.peak_flops_per_second is None:
            return self.core_hours(trial, num_evaluations) if self.estimates_cores else None
        else:
            flops = MODELS[trial.cell.model].forward_flops(trial.cell.resolution)
            evaluation = ASSUMED_SHARE_OF_PEAK * self.card.peak_flops_per_second / flops
            train = evaluation / TRAIN_FLOPS_PER_FORWARD
        return (num_trained_images(trial) / train + num_evaluated_images(trial, num_evaluations) / evaluation) / 3600

    def core_hours(self, trial: Trial, num_evaluations: int | None = None) -> float:
        """Hours of one CPU core of this machine for a trial, an estimate; as `hours`."""
        trained, evaluated = num_trained_images(trial), num_evaluated_images(trial, num_evaluations)
        share = SHARE_IN_MINIATURE if is_miniature(trial) else SHARE_OF_PRODUCTS
        forward = MODELS[trial.cell.model].forward_flops(trial.cell.resolution) / share / flops_per_second()
        seconds = (TRAIN_FLOPS_PER_FORWARD * trained + evaluated) * forward
        return (seconds + (trained + evaluated) * decoding_seconds(trial.cell.dataset)) / 3600
