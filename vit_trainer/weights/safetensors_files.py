"""What a .safetensors of ours says of itself: model, classes and so on, in its metadata. Standard library only."""

import json
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_trainer.errors import CheckpointError, reason_of
from vit_trainer.files.outgoing import printable
from vit_trainer.weights.kinds import kind_of

FOLDED = "resnet folded for timm"
"""Key of the metadata that marks a hybrid's safetensors file as made for timm only."""
MAX_HEADER = 100_000_000
"""Bytes, as safetensors has it."""


def metadata_of(config: Mapping[str, Any], class_names: Sequence[str] | None) -> dict[str, str]:
    """What weights say of themselves.

    Args:
        config: `model`, `dataset` and `resolution` of them, as in a trial's config.json; None where nobody knows.
        class_names: in the order of the head's outputs.
    """
    own = {key: str(config[key]) for key in ("model", "dataset", "resolution") if config[key] is not None}
    return own | ({} if class_names is None else {"class_names": json.dumps(list(class_names))})


def read_header(path: Path) -> dict[str, Any]:
    """The header of a .safetensors: names of tensors with `dtype` and `shape`, and texts by name in `__metadata__`.

    Raises:
        CheckpointError: the file is missing, truncated or no .safetensors.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if length < MAX_HEADER else None
            size = os.fstat(file.fileno()).st_size
        header["__metadata__"] = {str(key): str(text) for key, text in header.get("__metadata__", {}).items()}
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        for tensor in tensors:
            tensor["shape"] = tuple(map(operator.index, tensor["shape"]))
        num_bytes = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        if size != num_bytes:
            raise ValueError(f"it has {size} bytes, not {num_bytes}")
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({reason_of(error)}): give a .npz or .safetensors file") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({printable(str(error), keep='')}): give another file") from error
    return dict(header)


def read_metadata(path: Path) -> dict[str, str]:
    """What a weights file says of itself, empty for an .npz. Raises CheckpointError: as `kind_of` and `read_header`."""
    return dict(read_header(path)["__metadata__"]) if kind_of(path) == "safetensors" else {}


def read_parameter_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a .safetensors's tensors.

    Raises:
        CheckpointError: as `read_header`, a tensor isn't float32, or a hybrid's ResNet was changed for timm.
    """
    header = read_header(path)
    if FOLDED in header.pop("__metadata__"):
        raise CheckpointError(f"{path} was exported for timm, which changed its ResNet: give what it was made from")
    for name, tensor in header.items():
        if (dtype := tensor.get("dtype")) != "F32":
            raise CheckpointError(f"{path}: {name} is {dtype}, not F32: give a file of float32 weights")
    return {name: tensor["shape"] for name, tensor in header.items()}


def saved_class_names(path: Path) -> tuple[str, ...] | None:
    """A name per class of a weights file's head, in the order of its outputs; None where the file says nothing.

    Raises:
        CheckpointError: as `read_header`, or the names are damaged.
    """
    text = read_metadata(path).get("class_names")
    try:
        names = None if text is None else json.loads(text)
    except ValueError:
        names = 0
    if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise CheckpointError(f"the class names in {path} are damaged: give another file")
    return None if names is None else tuple(names)
