"""kind_of(): what kind of file holds weights, or is taken for one, by its first bytes. Standard library only."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from vit_trainer.errors import CheckpointError, reason_of

Kind = Literal["npz", "safetensors"]

_SAVED = 'save its state_dict() as .safetensors (safetensors.torch.save_file(model.state_dict(), "model.safetensors"))'
_AGAIN = "download the file itself again"
FIRST_BYTES = (
    (rb"\Z", f"is empty: {_AGAIN}"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file that it stands for: run git lfs pull there"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml)", f"is a web page or an error message of a server: {_AGAIN}"),
    (rb"PK\x03\x04.{0,400}(/data\.pkl|/\.format_version)", f"is PyTorch's, pickled, which could run code: {_SAVED}"),
    (rb"\x80[\x02-\x05]", f"is a pickle, such as older PyTorch's, which could run code: {_SAVED}"),
    (rb"GGUF", "is a GGUF, of language models: give a Vision Transformer's .npz or .safetensors"),
    (rb"\x89HDF", "is an HDF5 file, such as Keras's: give a .npz or timm's .safetensors of that model"),
    (rb"\x08[\x03-\x14][\x12\x3a]", "is an ONNX, for inference alone: give the .safetensors that it was made from"),
    (rb"([\x81-\x8f]|\xde..|\xdf....)[\xa0-\xbf\xd9]", "is Flax's msgpack: save its parameters as an official .npz"),
    (rb"\s*[{\[]", "is JSON, such as a model's config or the index of several files: give the .npz or .safetensors"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|.{257}ustar", "is an archive or compressed: unpack it"),
)
"""Patterns of beginnings, and what to say of a file that has one. Of formats that may stand for weights elsewhere."""

NAMES = (
    ("params/", "is big_vision's, whose arrays have other names (params/…): give the official .npz of this model"),
    ("opt/target/", "is a training state (opt/target/…): write those arrays to an .npz without opt/target/"),
    ("vit.embeddings.", "is Hugging Face transformers' (vit.embeddings.…): give timm's of this model, or the .npz"),
    ("embeddings.", "is Hugging Face transformers' (embeddings.…): give timm's of this model, or the .npz"),
    ("vision_model.", "is a CLIP or SigLIP (vision_model.…), another architecture: give a ViT's"),
    ("visual.", "is a CLIP (visual.…), another architecture: give a ViT's"),
    ("momentum/", "is the state of a training: give the trial's model.safetensors, which --save-weights leaves"),
)
"""How names of arrays begin elsewhere."""


def kind_of(path: Path, *, source: str | None = None) -> Kind:
    """Whether a file is an .npz or a .safetensors, by its first bytes; where they say nothing, by its name.

    Args:
        source: what to call it in errors; its path unless given.

    Raises:
        CheckpointError: it isn't there, or is of another kind; says of which, and what to do.
    """
    source = source or str(path)
    if path.is_dir():
        inside = next(iter(sorted(path.glob("*.safetensors")) or sorted(path.glob("*.npz"))), None)
        raise CheckpointError(f"{source} is a folder: give {inside or 'the .npz or .safetensors file itself'}")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {source}: put the .npz or .safetensors file there") from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {source} ({reason_of(error)}): make it readable") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    for pattern, kind in FIRST_BYTES:
        if re.match(pattern, head, re.DOTALL):
            raise CheckpointError(f"{source} {kind}")
    return "safetensors" if path.suffix == ".safetensors" else "npz"


def refuse_others(names: Collection[str], source: str) -> None:
    """Raise CheckpointError if names of arrays are those of another program's files."""
    for start, kind in NAMES:
        if any(name.startswith(start) for name in names):
            raise CheckpointError(f"{source} {kind}")
