"""Golden folders: what the official JAX code computed, and the weights, images and labels that it was given.

Weights and inputs are made from seeds, each array from its own legacy RandomState stream (frozen by NEP 19), so that
the same numbers can be made anywhere. golden_values/README.md tells how the results were made. Imports no torch.
"""

import dataclasses
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vit_trainer.architectures import Architecture
from vit_trainer.errors import InputError
from vit_trainer.weights.layouts import Arrays
from vit_trainer.weights.npz_files import read_npz
from vit_trainer.weights.npz_layout import POSITION_EMBEDDING, tensor_map

SHIPPED = Path(__file__).parent / "golden_values"
"""The golden folder that comes with the project."""


@dataclass(frozen=True)
class ForwardFacts:
    """What the forward passes were given."""

    batch: int
    """Images per forward pass."""
    image_seed: int
    """Seed of `make_images`."""


@dataclass(frozen=True)
class FullFacts:
    """What the forward passes of full-size models were given."""

    batch: int = 2
    """Images per forward pass."""
    image_seed: int = 7
    """Seed of `make_images`."""
    weights_seed: int = 0
    """Seed of `make_params`."""
    pretrain_resolution: int = 224
    """Side in pixels whose grid the position embeddings were made for; they are resized to another resolution."""


@dataclass(frozen=True)
class UpdateFacts:
    """What the optimiser's steps were given; step s sees images of seed image_seed + s, labels of label_seed + s."""

    steps: int
    warmup_steps: int
    base_lr: float
    batch: int
    image_seed: int
    label_seed: int
    grad_clip: float
    """Largest global norm of a gradient."""


@dataclass(frozen=True)
class FinetuneFacts:
    """The whole fine-tuning path: from a checkpoint with `pre_logits` to other classes at another resolution."""

    architecture: str
    """A name in the folder's architectures."""
    checkpoint: str
    """File name of the checkpoint in the folder."""
    pretrain_resolution: int
    """Pixels."""
    pretrain_classes: int
    representation_size: int
    """Features of `pre_logits`."""
    resolution: int
    """Pixels."""
    num_classes: int
    weights_seed: int | None = None
    """Seed of `make_params`, with which the checkpoint is made again where its file isn't there."""


Facts = TypeVar("Facts", ForwardFacts, FullFacts, UpdateFacts, FinetuneFacts)


class GoldenFolder:
    """A folder with a meta.json and .npz files, any of which may be missing."""

    def __init__(self, path: Path) -> None:
        """Read the folder's meta.json.

        Raises:
            InputError: there is none, or it doesn't say what it must.
        """
        self.path = path
        self._meta_path = path / "meta.json"
        try:
            self._meta = json.loads(self._meta_path.read_bytes())
        except OSError as error:
            raise InputError(
                f"no golden folder at {path} (cannot read meta.json: {error.strerror}): give a folder with a meta.json"
            ) from error
        except ValueError as error:
            raise self._malformed(str(error)) from error
        if not isinstance(self._meta, dict) or not isinstance(self._meta.get("architectures"), dict):
            raise self._malformed("it has no object `architectures`")
        self.architectures = {name: self._architecture(name, f) for name, f in self._meta["architectures"].items()}
        """Architectures by the names that the folder's files begin with."""

    def arrays(self, stem: str) -> Arrays | None:
        """Every array of `<stem>.npz`, or None where the folder lacks it.

        Raises:
            InputError: the file is damaged.
        """
        path = self.path / f"{stem}.npz"
        return read_npz(path) if path.exists() else None

    def checkpoint(self, name: str) -> Arrays | None:
        """The weights of an architecture: its file, or made again where meta.json names their seed; else None."""
        arrays, seeds = self.arrays(f"{name}_ckpt"), self._meta.get("weights_seed")
        if arrays is not None or not isinstance(seeds, dict) or name not in seeds:
            return arrays
        seed, grid = seeds[name], self.architectures[name].grid(self.resolution(name))
        if not isinstance(seed, int) or seed < 0:
            raise self._malformed(f"`weights_seed.{name}` is {seed!r}, not a seed")
        return make_params(self.architectures[name], grid, self.num_classes, seed=seed)

    def pretrained(self, facts: FinetuneFacts) -> Arrays | None:
        """The checkpoint that the fine-tuning path starts from: its file, or made again; else None."""
        arrays = self.arrays(facts.checkpoint.removesuffix(".npz"))
        if arrays is not None or facts.weights_seed is None:
            return arrays
        architecture = self.architectures[facts.architecture]
        grid = architecture.grid(facts.pretrain_resolution)
        size, seed = facts.representation_size, facts.weights_seed
        return make_params(architecture, grid, facts.pretrain_classes, representation_size=size, seed=seed)

    def resolution(self, name: str) -> int:
        """Side in pixels of an architecture's images."""
        resolutions = self._meta.get("resolution")
        given = resolutions.get(name) if isinstance(resolutions, dict) else None
        resolution = self._whole_number(given, f"resolution.{name}")
        if resolution < (stride := self.architectures[name].stride):
            raise self._malformed(f"`resolution.{name}` is {resolution}, less than the model's stride of {stride}")
        return resolution

    @property
    def num_classes(self) -> int:
        """Outputs of the heads, but for the fine-tuning path."""
        return self._whole_number(self._meta.get("num_classes"), "num_classes")

    def facts(self, section: str, kind: type[Facts]) -> Facts | None:
        """A section of meta.json, or None where it has none."""
        if section not in self._meta:
            return None
        given, names = self._meta[section], {field.name for field in dataclasses.fields(kind)}
        try:
            facts = kind(**{name: value for name, value in given.items() if name in names})
        except (AttributeError, TypeError) as error:
            raise self._malformed(f"`{section}`: {error}") from error
        for field in dataclasses.fields(kind):
            value = getattr(facts, field.name)
            if field.type is not str and value is not None and not isinstance(value, int | float):
                raise self._malformed(f"`{section}.{field.name}` is {value!r}, not a number")
        return facts

    def _whole_number(self, value: Any, name: str) -> int:
        if not isinstance(value, int) or value < 1:
            raise self._malformed(f"`{name}` is {value!r}, not a whole number of at least 1")
        return value

    def _architecture(self, name: str, fields: Any) -> Architecture:
        try:
            stages = fields.get("resnet_stages")
            architecture = Architecture(**(fields | {"resnet_stages": tuple(stages) if stages else None}))
        except (AttributeError, TypeError) as error:
            raise self._malformed(f"`architectures.{name}`: {error}") from error
        for field in ("patch_size", "width", "depth", "num_heads", "mlp_dim"):
            self._whole_number(getattr(architecture, field), f"architectures.{name}.{field}")
        if architecture.width % architecture.num_heads:
            raise self._malformed(f"`architectures.{name}.width` is not a multiple of num_heads")
        return architecture

    def _malformed(self, why: str) -> InputError:
        return InputError(f"{self._meta_path} is malformed ({why}): give a folder laid out like {SHIPPED.name}")


def array_shapes(
    architecture: Architecture, grid: int, num_classes: int, representation_size: int | None = None
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every array in a released checkpoint, with position embeddings for grid x grid tokens."""
    pre_logits = representation_size is not None
    open_sizes = {  # what the architecture leaves open, in the order of each shape's Nones
        POSITION_EMBEDDING: (grid * grid + 1,),
        "pre_logits/kernel": (representation_size,),
        "pre_logits/bias": (representation_size,),
        "head/kernel": (representation_size, num_classes) if pre_logits else (num_classes,),
        "head/bias": (num_classes,),
    }
    for pair in tensor_map(architecture, pre_logits=pre_logits):
        chosen = iter(open_sizes.get(pair.array, ()))
        sizes = [next(chosen) if size is None else size for size in pair.shape]
        yield pair.array, tuple(size for size in sizes if size is not None)


def make_params(
    architecture: Architecture, grid: int, num_classes: int, *, representation_size: int | None = None, seed: int = 0
) -> Arrays:
    """Random weights in the released format, of sizes that keep activations near 1."""
    arrays: Arrays = {}
    for name, shape in array_shapes(architecture, grid, num_classes, representation_size):
        values = np.random.RandomState(zlib.crc32(name.encode()) ^ seed).standard_normal(shape)
        if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
            values *= 1.5 / np.sqrt(shape[0])
        elif name.endswith("/kernel"):
            values *= 1.0 / np.sqrt(np.prod(shape[:-1]))
        elif name.endswith("/scale"):
            values = 1 + 0.2 * values
        else:
            values *= {"cls": 0.5, "pos_embedding": 0.3, "bias": 0.1}[name.rpartition("/")[2]]
        arrays[name] = values.astype(np.float32)
    return arrays


def make_images(count: int, resolution: int, seed: int) -> NDArray[np.float32]:
    """(count, 3, R, R) float32 in [-1, 1]: noise. Drawn with the channels last, as the official code takes them."""
    images = np.random.RandomState(seed).uniform(-1, 1, (count, resolution, resolution, 3))
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)


def make_labels(count: int, num_classes: int, seed: int) -> NDArray[np.int64]:
    """(count,) class numbers."""
    return np.random.RandomState(seed).randint(0, num_classes, count).astype(np.int64)
