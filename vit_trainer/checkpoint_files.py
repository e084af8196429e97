"""Files of official .npz checkpoints: where they are, reading and writing them. Imports no torch."""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_trainer.errors import CheckpointError
from vit_trainer.run_dir import write_atomically

Arrays = dict[str, NDArray[np.float32]]
"""Array names of the released files, such as `embedding/kernel`, and their values."""

MINIATURES = Path(__file__).parent / "miniatures"


def cache_folder() -> Path:
    """Where official checkpoints are looked for: $VIT_CHECKPOINTS, else vit_trainer in the user's cache folder."""
    if folder := os.environ.get("VIT_CHECKPOINTS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vit_trainer" / "checkpoints"


def checkpoint_path(model: str, upstream: str) -> Path:
    """The file with a model's upstream weights; it may not exist."""
    if upstream == "digits":
        return MINIATURES / f"{model}.npz"
    folder, suffix = (upstream.removesuffix("-224"), "-224") if upstream.endswith("-224") else (upstream, "")
    return cache_folder() / folder / f"{model}{suffix}.npz"


def require_checkpoint(model: str, upstream: str) -> Path | None:
    """The file with a model's upstream weights, or None where it starts from scratch.

    Raises:
        CheckpointError: the file isn't there; says which one to put where.
    """
    if upstream == "scratch":
        return None
    path = checkpoint_path(model, upstream)
    if not path.is_file():
        raise CheckpointError(f"no {upstream} checkpoint of {model}: put the official file at {path}")
    return path


def file_upstream(path: Path) -> str:
    """The upstream name of one's own weights file: `npz-` and the first 12 hex digits of its SHA-256.

    Raises:
        CheckpointError: the file is missing.
    """
    try:
        with path.open("rb") as file:
            return f"npz-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror}; give an official .npz file") from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write arrays as an .npz, compressed, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_npz(path: Path) -> Arrays:
    """Read every array of an .npz; nothing in it is ever unpickled.

    Raises:
        CheckpointError: the file is missing, truncated, no .npz, or holds pickled objects.
    """
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise CheckpointError(f"{path} is truncated or no .npz archive: fetch it again")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}: put the official .npz file there") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder: give the .npz file itself") from error
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise CheckpointError(f"{path} holds pickled objects, which could run code: refused") from error
        raise CheckpointError(f"{path} is damaged ({error}): fetch it again") from error
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise CheckpointError(f"{path} is truncated or no .npz archive ({error}): fetch it again") from error
