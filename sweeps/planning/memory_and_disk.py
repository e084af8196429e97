"""Memory and disk: what trials take of a GPU's memory and of disks, and what is brought to each node, estimated."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sweeps.table.cells import Cell, Trial
from vit_trainer.architectures import MODELS
from vit_trainer.cards import Card
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import IMAGENET, dataset_info, folder_of, is_folder, short_name
from vit_trainer.errors import InputError, counted
from vit_trainer.model.memory import USABLE_SHARE, memory_bytes, micro_batch_sizes, num_parameters
from vit_trainer.weights.npz_files import checkpoint_path

CHECKPOINT_BYTES_PER_PARAMETER = 6
"""Weights in float32 and momentum in bfloat16."""
JOURNAL_BYTES_PER_ROW = 300
JOURNAL_ROWS_EVERY_STEPS = 50
NUM_CLASSES_21K = 21_843
BUCKET_BYTES_PER_SECOND = 1e9
"""From a bucket of the same region to a node: assumed."""
COPIED_FILES_PER_SECOND = 500
"""Of single images: assumed, 16 at once that each take 32 ms."""


@dataclass(frozen=True)
class Fit:
    """How a trial fits a card."""

    micro_batch_size: int
    """The largest that the estimate allows; the trainer halves its own until it fits."""
    num_bytes: int
    """Estimated memory with this micro-batch."""


def fit_on_card(config: FinetuneConfig, card: Card, num_processes: int = 1) -> Fit | None:
    """The largest micro-batch that a card holds, at most the trainer's own; None if its memory isn't known.

    Raises:
        InputError: it doesn't hold the model with even one image.
    """
    share = config.global_batch_size // num_processes
    if card.memory_gib is None:
        return None
    usable = USABLE_SHARE * card.memory_gib * 2**30
    times = 1 if card.has_bfloat16 else 2  # activations are in float32 then, as the trainer counts them
    needed = 0
    for size in micro_batch_sizes(config, share):
        needed = memory_bytes(config, times * size, num_processes)
        if needed <= usable:
            return Fit(size, needed)
    raise InputError(
        f"{config.model} at {config.resolution} px needs {needed / 2**30:.1f} GiB with one "
        f"image at a time (estimated), and a trial can use {usable / 2**30:.1f} GiB of {card.name}: "
        "plan for a larger --card, or leave this model out"
    )


@dataclass(frozen=True)
class DiskItem:
    """Something that takes space on a disk."""

    name: str
    num_bytes: float | None
    """None if that isn't known."""


def disk_items(
    trials: Sequence[Trial],
    num_at_once: int,
    *,
    num_paused: int = 0,
    saves_weights: bool = False,
    registered: Collection[Cell] = (),
) -> list[DiskItem]:
    """What a sweep writes, and what it reads.

    Args:
        trials: those that will run.
        num_at_once: how many run at a time: each holds a checkpoint, and a second while that one is replaced.
        num_paused: how many at most wait at a rung meanwhile, each with a checkpoint.
        saves_weights: whether finished trials keep theirs, in float32.
        registered: cells of whose best trial the registry gets a copy.
    """
    configs = [trial.config for trial in trials]
    counts = sorted((num_parameters(config) for config in configs), reverse=True)
    num_rows = sum(config.total_steps // JOURNAL_ROWS_EVERY_STEPS + config.num_evaluations for config in configs)
    num_held = sum(counts[:num_at_once]) + sum(counts[: num_at_once + num_paused])
    items = [
        DiskItem("checkpoints at most", float(CHECKPOINT_BYTES_PER_PARAMETER * num_held)),
        DiskItem("journals", float(JOURNAL_BYTES_PER_ROW * num_rows)),
    ]
    if saves_weights:
        items.append(DiskItem(f"weights of {counted(len(counts), 'trial')}", 4.0 * sum(counts)))
    best = {trial.cell: num_parameters(trial.config) for trial in trials if trial.cell in registered}
    if best:
        items.append(DiskItem(counted(len(best), "registered model"), 4.0 * sum(best.values())))
    for dataset in dict.fromkeys(config.dataset for config in configs):
        if (num_bytes := dataset_info(dataset).num_bytes) != 0:
            items.append(DiskItem(short_name(dataset), num_bytes))
    starts = dict.fromkeys((config.model, config.upstream) for config in configs if config.upstream != "scratch")
    sizes = [upstream_bytes(model, upstream) for model, upstream in starts]
    known = [size for size in sizes if size is not None]
    if sizes:
        total = sum(known) if len(known) == len(sizes) else None
        items.append(DiskItem(f"{counted(len(sizes), 'checkpoint')} to start from", total))
    return items


@dataclass(frozen=True)
class NodeInputs:
    """What each node gets from a bucket."""

    num_bytes: float
    """What has to be there before a trial can begin, while the GPUs wait."""
    packed: tuple[str, ...]
    """Data sets of many image files, which are read as shards from the first step on."""
    packed_bytes: float
    num_files: int

    @property
    def seconds(self) -> float:
        """For what has to be there."""
        return self.num_bytes / BUCKET_BYTES_PER_SECOND

    @property
    def seconds_as_files(self) -> float:
        """For the images, if they were copied one by one instead."""
        return max(self.packed_bytes / BUCKET_BYTES_PER_SECOND, self.num_files / COPIED_FILES_PER_SECOND)


def node_inputs(trials: Iterable[Trial]) -> NodeInputs:
    """What trials read; of a folder of classes that isn't packed nothing, since all nodes see it."""
    configs = [trial.config for trial in trials]
    starts = dict.fromkeys((config.model, config.upstream) for config in configs if config.upstream != "scratch")
    num_bytes, packed = sum(upstream_bytes(*start) or 0.0 for start in starts), list[str]()
    for name in dict.fromkeys(config.dataset for config in configs):
        info = dataset_info(name)
        if is_folder(name):
            packed += [name] if folder_of(name).packed else []
        elif info.family == IMAGENET:
            packed.append(name)
        else:
            num_bytes += info.num_bytes or 0.0
    infos = [dataset_info(name) for name in packed]
    num_files = sum(info.num_train + info.num_validation + info.num_test for info in infos)
    return NodeInputs(num_bytes, tuple(packed), sum(info.num_bytes or 0.0 for info in infos), num_files)


def upstream_bytes(model: str, upstream: str) -> float | None:
    """Size of an upstream's file: its own if it is here, else that of the arrays that the released one holds."""
    path = checkpoint_path(model, upstream)
    if path.is_file():
        return float(path.stat().st_size)
    architecture = MODELS[model]
    width = architecture.width
    if upstream == "imagenet21k":
        pre_logits = width * (width + 1)
        return 4.0 * (architecture.num_parameters(224) + pre_logits + (width + 1) * NUM_CLASSES_21K)
    if upstream.startswith("imagenet21k+imagenet2012"):
        resolution = 224 if upstream.endswith("-224") else 384
        return 4.0 * (architecture.num_parameters(resolution) + (width + 1) * 1000)
    return None
