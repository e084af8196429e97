"""What a .safetensors of ours says of itself: model, classes and so on, in its metadata. Standard library only."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_trainer.errors import CheckpointError, reason_of
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
    """The header of a .safetensors: names of tensors with `dtype` and `shape`, and `__metadata__`.

    Raises:
        CheckpointError: the file is missing or no .safetensors.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < MAX_HEADER else None
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({reason_of(error)}): give a .npz or .safetensors file") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): give another file") from error
    if not isinstance(header, dict) or not all(isinstance(each, dict) for each in header.values()):
        raise CheckpointError(f"{path} is damaged (its header is no safetensors file's): give another file")
    return header


def read_metadata(path: Path) -> dict[str, str]:
    """What a weights file says of itself, empty for an .npz. Raises CheckpointError: as `kind_of` and `read_header`."""
    return dict(read_header(path).get("__metadata__", {})) if kind_of(path) == "safetensors" else {}


def read_parameter_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a .safetensors's tensors.

    Raises:
        CheckpointError: as `read_header`, a tensor isn't float32, or a hybrid's ResNet was changed for timm.
    """
    header = read_header(path)
    if FOLDED in header.pop("__metadata__", {}):
        raise CheckpointError(f"{path} was exported for timm, which changed its ResNet: give the .npz it was made from")
    for name, tensor in header.items():
        if (dtype := tensor.get("dtype")) != "F32":
            raise CheckpointError(f"{path}: {name} is {dtype}, not F32: give a file of float32 weights")
    return {name: tuple(tensor.get("shape", ())) for name, tensor in header.items()}


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
