"""Memory: what a trial needs of a GPU's, estimated. Standard library only, so that a plan can do without PyTorch."""

from vit_trainer.architectures import MODELS
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import dataset_info

MAX_MICRO_BATCH_TOKENS = 512 * 145
"""Tokens per forward and backward unless told otherwise: 128 images of 577, 512 of 145. More brings a GPU nothing."""
USABLE_SHARE = 0.9
"""Share of a card's memory that a trial may fill; the rest is CUDA's own, and gaps between what PyTorch allocates."""


def num_parameters(config: FinetuneConfig) -> int:
    """Parameters of a trial's model, head included."""
    architecture = MODELS[config.model]
    head = (architecture.width + 1) * dataset_info(config.dataset).num_classes
    return architecture.num_parameters(config.resolution) + head


def micro_batch_sizes(config: FinetuneConfig, share: int) -> list[int]:
    """Images per forward and backward that a process's share of the global batch is a multiple of, largest first."""
    tokens = MODELS[config.model].grid(config.resolution) ** 2 + 1
    largest = max(1, min(share, MAX_MICRO_BATCH_TOKENS // tokens))
    return [size for size in range(largest, 0, -1) if share % size == 0]


def memory_bytes(config: FinetuneConfig, micro_batch_size: int, num_processes: int = 1) -> int:
    """Estimated memory of each process of a trial on a GPU.

    Per parameter 4 bytes of weight, 4 of gradient, 2 of momentum and, in a gang, 4 to exchange gradients; beside them
    either the update (4 more) or forward and backward (2 for a copy in bfloat16, and the activations).
    """
    count = num_parameters(config)
    activations = MODELS[config.model].activation_bytes(config.resolution, dropout=config.dropout > 0)
    lasting = count * (14 if num_processes > 1 else 10)
    return lasting + max(4 * count, 2 * count + micro_batch_size * activations)
