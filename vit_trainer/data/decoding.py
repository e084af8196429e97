"""Image files as pixels. Imports no torch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TypedDict

from PIL import Image, UnidentifiedImageError

from vit_trainer.errors import DataError, InputError, reason_of


class Decoding(TypedDict, total=False):
    """How image files are read."""

    num_workers: int | None
    """Processes that decode; see `config.Execution`."""
    skip_unreadable: bool
    """Whether to go on without what is damaged or missing; see `config.Execution`."""
    compiled: bool
    """Whether a GPU resizes images of different sizes in one kernel, which is made at the first batch."""


def read_image(path: Path) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        DataError: it can't be read; the message is the reason alone.
    """
    return decoded(read_header(path))


def read_header(path: Path) -> Image.Image:
    """An image file of which nothing is decoded yet, for `decoded`; raises as `read_image`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(reason_of(error)) from error
    with _reasons():
        return Image.open(BytesIO(content))


def decode_image(content: bytes) -> Image.Image:
    """Decode an image file's content to RGB; raises as `read_image`."""
    with _reasons():
        image = Image.open(BytesIO(content))
    return decoded(image)


def decoded(image: Image.Image) -> Image.Image:
    """The pixels of an image whose header is known, as RGB; raises as `read_image`."""
    with _reasons():
        image.load()
        if isinstance(image.info.get("transparency"), bytes):
            del image.info["transparency"]  # of a palette: convert would drop it too, but warn
        return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever Pillow raises becomes a DataError."""
    try:
        yield
    except UnidentifiedImageError as error:  # its own text holds an address, which differs each time
        raise DataError("not an image that Pillow knows") from error
    except OSError as error:
        raise DataError(reason_of(error)) from error
    except Exception as error:  # damaged bytes make Pillow's decoders raise nearly anything
        raise DataError(f"{type(error).__name__}: {error}") from error


def open_image(path: Path) -> Image.Image:
    """An image file as RGB.

    Raises:
        InputError: it isn't there, or no image.
    """
    try:
        return read_image(path)
    except DataError as error:
        raise InputError(f"cannot read {path} ({error}): give image files such as JPEG or PNG") from error


def require_images(paths: Sequence[Path]) -> None:
    """Decode image files and forget them, to know of a bad one before anything else is done.

    Raises:
        InputError: none was given, or one isn't there, or no image.
    """
    if not paths:
        raise InputError("no image given: name one or more image files")
    for path in paths:
        open_image(path)
