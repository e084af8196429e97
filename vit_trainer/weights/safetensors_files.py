"""What a .safetensors of ours says of itself: model, classes and so on, in its metadata. Imports no torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vit_trainer.errors import CheckpointError
from vit_trainer.files.outgoing import printable
from vit_trainer.weights.kinds import kind_of

FOLDED = "resnet folded for timm"
"""Key of the metadata that marks a hybrid's safetensors file as made for timm only."""


def metadata_of(config: Mapping[str, Any], class_names: Sequence[str] | None) -> dict[str, str]:
    """What weights say of themselves.

    Args:
        config: `model`, `dataset` and `resolution` of them, as in a trial's config.json; None where nobody knows.
        class_names: in the order of the head's outputs.
    """
    own = {key: str(config[key]) for key in ("model", "dataset", "resolution") if config[key] is not None}
    return own | ({} if class_names is None else {"class_names": json.dumps(list(class_names))})


def in_order(content: bytes) -> bytes:
    """A .safetensors file whose metadata are in the order of their keys; safetensors writes them in any."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))


def read_metadata(path: Path) -> dict[str, str]:
    """What a weights file says of itself, empty for an .npz. Raises CheckpointError: as `kind_of`, or it is damaged."""
    if kind_of(path) == "npz":
        return {}
    with opened(path) as file:
        return file.metadata() or {}


def read_parameter_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a .safetensors's tensors, from its header.

    Raises:
        CheckpointError: it is missing, truncated or damaged, a tensor isn't float32, or its ResNet is changed for timm.
    """
    with opened(path) as file:
        if FOLDED in (file.metadata() or {}):
            raise CheckpointError(f"{path} was exported for timm, which changed its ResNet: give what it was made from")
        tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        for name, tensor in tensors.items():
            if tensor.get_dtype() != "F32":
                raise CheckpointError(
                    f"{path}: {name} is {tensor.get_dtype()}, not F32: give a file of float32 weights"
                )
        return {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A .safetensors, with whatever is wrong with it as a CheckpointError of one line."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({printable(str(error), keep='')}): give another file") from error


def saved_class_names(path: Path) -> tuple[str, ...] | None:
    """A name per class of a weights file's head, in the order of its outputs; None where the file says nothing.

    Raises:
        CheckpointError: as `read_metadata`, or the names are damaged.
    """
    text = read_metadata(path).get("class_names")
    try:
        names = None if text is None else json.loads(text)
    except ValueError:
        names = 0
    if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise CheckpointError(f"the class names in {path} are damaged: give another file")
    return None if names is None else tuple(names)
