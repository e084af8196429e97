"""Files of official .npz checkpoints: where they are, checking, reading and writing them. Imports no torch."""

import hashlib
import io
import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.errors import CheckpointError, reason_of
from vit_trainer.files.folder import write_atomically
from vit_trainer.files.location import user_cache
from vit_trainer.files.outgoing import printable
from vit_trainer.weights.kinds import kind_of, refuse_others
from vit_trainer.weights.layouts import Arrays, array_shapes
from vit_trainer.weights.npz_layout import Contents, check_fits, looks_like
from vit_trainer.weights.safetensors_files import read_metadata, read_parameter_shapes

MAX_BYTES = 16 * 2**30
"""Of a whole file, unpacked; the largest released one, of ViT-H_14, has 2.6 GB."""
MINIATURES = Path(__file__).parent / "miniatures"

OFFICIAL_SOURCE = "https://storage.googleapis.com/vit_models"

RELEASED: dict[str, tuple[str, ...]] = {
    "imagenet21k": ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "ViT-H_14", "R50+ViT-B_16"),
    "imagenet21k+imagenet2012": ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "R50+ViT-B_16"),
    "imagenet21k+imagenet2012-224": ("ViT-B_16", "ViT-L_16"),
}
"""Upstreams whose files can be fetched, and the models that each was released for."""


def cache_folder() -> Path:
    """Where official checkpoints are looked for: $VIT_CHECKPOINTS, else vit_trainer in the user's cache folder."""
    if folder := os.environ.get("VIT_CHECKPOINTS"):
        return Path(folder)
    return user_cache("checkpoints")


def checkpoint_path(model: str, upstream: str) -> Path:
    """The file with a model's upstream weights; it may not exist."""
    if upstream == "digits":
        return MINIATURES / f"{model}.npz"
    folder, name = released_name(model, upstream)
    return cache_folder() / folder / name


def released_name(model: str, upstream: str) -> tuple[str, str]:
    """Folder and file name below `OFFICIAL_SOURCE` or a mirror of it.

    >>> released_name("ViT-B_16", "imagenet21k+imagenet2012-224")
    ('imagenet21k+imagenet2012', 'ViT-B_16-224.npz')
    """
    suffix = "-224" if upstream.endswith("-224") else ""
    return upstream.removesuffix("-224"), f"{model}{suffix}.npz"


def require_checkpoint(model: str, upstream: str) -> Path | None:
    """The file with a model's upstream weights, or None where it starts from scratch. Only its headers are read.

    Raises:
        CheckpointError: the file isn't there (says which one to put where), or doesn't fit the model.
    """
    if upstream == "scratch":
        return None
    path = checkpoint_path(model, upstream)
    if not path.is_file():
        if upstream == "digits":
            advice = f"python -m vit_trainer pretrain-mini {model} makes it; official models have none"
        elif model in RELEASED.get(upstream, ()):
            advice = (
                f"run python -m vit_trainer fetch {model} --upstream {upstream}, or put the official file at {path}"
            )
        else:
            advice = f"none was released; put a file in the official format at {path}"
        raise CheckpointError(f"no {upstream} checkpoint of {model}: {advice}")
    check_checkpoint(path, model)
    require_released(path, model, upstream)
    return path


def require_released(path: Path, model: str, upstream: str, *, source: str | None = None) -> None:
    """Raise CheckpointError if a file that fits the model can't be the one that was released under the upstream's name.

    Those of imagenet21k have `pre_logits`. AugReg's, which were released later for the same architectures, have none.

    Args:
        source: what to call the file in errors; its path unless given.
    """
    is_released = upstream == "imagenet21k" and model in RELEASED[upstream]
    if is_released and "pre_logits/kernel" not in checkpoint_shapes(path, source=source):
        raise CheckpointError(
            f"{source or path} isn't the released {upstream} file of {model}: it has no pre_logits, as AugReg's and "
            "others' have none; take the released one, or give this one as --checkpoint, of which trials are called "
            f"{file_upstream(path)}"
        )


def check_checkpoint(path: Path, model: str, *, source: str | None = None) -> Contents:
    """Check by its headers that a file holds a model's weights, in milliseconds whatever its size.

    Args:
        source: what to call the file in errors; its path unless given.

    Raises:
        CheckpointError: the file is missing, truncated, unsafe, or another model's: then says which one's.
    """
    source = source or str(path)
    return check_fits(checkpoint_shapes(path, MODELS[model], source=source), MODELS[model], source=source)


def checkpoint_shapes(
    path: Path, architecture: Architecture | None = None, *, source: str | None = None
) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's arrays under their official names, by its headers.

    Args:
        architecture: of which a .safetensors is taken to be; None: unknown, see `array_shapes`.
        source: what to call the file in errors; its path unless given.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or of a kind that isn't read here.
    """
    source = source or str(path)
    if kind_of(path, source=source) == "npz":
        shapes = read_shapes(path, source=source)
        refuse_others(shapes, source)
        return shapes
    parameters = read_parameter_shapes(path)
    refuse_others(parameters, source)
    return array_shapes(parameters, architecture)


def model_of(path: Path) -> str:
    """A key of MODELS, whose weights a file holds.

    Raises:
        CheckpointError: as `checkpoint_shapes`, or it is none's.
    """
    model = read_metadata(path).get("model") or looks_like(checkpoint_shapes(path))
    if model not in MODELS:
        raise CheckpointError(f"{path} looks like {model}: give a file of one of {', '.join(MODELS)}")
    return model


def file_upstream(path: Path) -> str:
    """The upstream name of one's own weights file: `npz-` or `safetensors-`, and 12 hex digits of its SHA-256.

    Raises:
        CheckpointError: the file is missing, or of a kind that isn't read here.
    """
    return f"{kind_of(path)}-{file_sha256(path)[:12]}"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a weights file in hex digits: a second or so per GB.

    Raises:
        CheckpointError: the file is missing.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = reason_of(error)
        raise CheckpointError(f"cannot read checkpoint {path}: {reason}; give an official .npz file") from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write arrays as an .npz, compressed, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_npz(path: Path, names: Collection[str] | None = None) -> Arrays:
    """Read arrays of an .npz, those of these names or every one; nothing in it is ever unpickled.

    Raises:
        CheckpointError: the file is missing, truncated, no .npz, or holds pickled objects.
    """
    # Opened here, since np.load leaves a path open when it is no archive.
    with _named_errors(path, str(path)), path.open("rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise CheckpointError(f"{path} holds one array, not an .npz archive: give an official checkpoint")
        with file:
            return {name: file[name] for name in file.files if names is None or name in names}


def read_shapes(path: Path, *, source: str | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in an .npz, from their headers alone.

    Args:
        source: what to call the file in errors; its path unless given.

    Raises:
        CheckpointError: as `read_npz`, or an array isn't float32.
    """
    source = source or str(path)
    shapes = {}
    with _named_errors(path, source), zipfile.ZipFile(path) as archive:
        if (num_bytes := sum(info.file_size for info in archive.infolist())) > MAX_BYTES:
            raise CheckpointError(
                f"{source} unpacks to {num_bytes / 1e9:.0f} GB, which no checkpoint does: give another"
            )
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            name = member.removesuffix(".npy")
            if not name.isprintable():
                raise ValueError(f"an array is called {name!r}")
            if dtype.hasobject:
                raise CheckpointError(f"{source} holds pickled objects, which could run code: refused")
            if dtype != np.float32:
                raise CheckpointError(f"{source}: {name} is {dtype}, not float32: give an official file")
            shapes[name] = shape
    return shapes


def check_whole(path: Path, *, source: str | None = None) -> None:
    """Read a whole .npz and compare every array with its checksum: a second or two per GB.

    Args:
        source: what to call the file in errors; its path unless given.

    Raises:
        CheckpointError: the file is truncated or a bit of it is wrong.
    """
    source = source or str(path)
    with _named_errors(path, source), zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")


@contextmanager
def _named_errors(path: Path, source: str) -> Iterator[None]:
    """Whatever goes wrong in reading an .npz, as one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}: put the official .npz file there") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder: give the .npz file itself") from error
    except CheckpointError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise CheckpointError(f"{source} holds pickled objects, which could run code: refused") from error
        raise _damaged(source, "damaged", error) from error
    except (MemoryError, OverflowError, SyntaxError, TypeError, struct.error, tokenize.TokenError) as error:
        raise _damaged(source, "damaged", error) from error
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(source, "truncated or no .npz archive", error) from error


def _damaged(source: str, what: str, error: Exception) -> CheckpointError:
    """In one line, also where the error names a member whose name is damaged too."""
    return CheckpointError(f"{source} is {what} ({printable(str(error), keep='')}): fetch it again")
