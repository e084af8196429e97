"""Image files as pixels. Imports no torch."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vit_trainer.errors import DataError, InputError, reason_of

MOST_PIXELS = 178_956_970
"""Of an image, unless the environment says otherwise: Pillow's limit, half a gigabyte once decoded."""
LIMIT = "VIT_MOST_PIXELS"
Image.MAX_IMAGE_PIXELS = None  # it would warn at half of it


class Decoding(TypedDict, total=False):
    """How image files are read."""

    num_workers: int | None
    """Processes that decode; see `config.Execution`."""
    skip_unreadable: bool
    """Whether to go on without what is damaged or missing; see `config.Execution`."""
    compiled: bool
    """Whether a GPU resizes images of different sizes in one kernel, which is made at the first batch."""


def read_image(path: Path, *, as_stored: bool = False) -> Image.Image:
    """Decode an image file to RGB, see `decoded`.

    Raises:
        DataError: it can't be read; the message is the reason alone.
    """
    return decode_image(content_of(path), as_stored=as_stored)


def content_of(path: Path) -> bytes:
    """An image file's content; raises as `read_image`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(reason_of(error)) from error


def decode_image(content: bytes, *, as_stored: bool = False) -> Image.Image:
    """Decode an image file's content to RGB; as `read_image`."""
    return decoded(header_of(content), as_stored=as_stored)


def header_of(content: bytes) -> Image.Image:
    """An image of which nothing is decoded yet, for `decoded`; raises as `read_image`."""
    with _reasons():
        image = Image.open(BytesIO(content))
        most = os.environ.get(LIMIT) or str(MOST_PIXELS)
        if not most.isdecimal():
            raise OSError(f"{LIMIT} is {most!r}: give a number of pixels such as {MOST_PIXELS}")
        if image.width * image.height > int(most):
            raise OSError(
                f"{image.width} x {image.height} are more than {int(most):,} pixels: make it smaller, or allow them by "
                f"{LIMIT}={image.width * image.height} in the environment"
            )
        return image


def size_of(image: Image.Image, *, as_stored: bool = False) -> tuple[int, int]:
    """Width and height that an image will have once it is decoded, by what its header says."""
    width, height = image.size
    if as_stored or image.format == "TIFF":  # whose pixels Pillow turns by itself
        return width, height
    exif = Image.Exif()
    with suppress(Exception):  # see `_turned`
        exif.load(image.info.get("exif", b""))
    return (height, width) if exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8) else (width, height)


def decoded(image: Image.Image, *, as_stored: bool = False) -> Image.Image:
    """The pixels of an image whose header is known, as RGB; raises as `read_image`.

    Photographs are turned as their EXIF block says, 16-bit grey is scaled to 8 bits, and what has 32 bits or floats
    is refused, since nobody knows what is white there. Of several frames, the first counts. Transparency is left out:
    what comes to light are the colours that are stored there.

    Args:
        as_stored: don't turn it, and convert it as Pillow does, which makes 255 of all 16-bit levels above. So the
            official code reads ImageNet and the Oxford data sets, and version 1 of this project read any folder.
    """
    with _reasons():
        image.load()
        if isinstance(image.info.get("transparency"), bytes):
            del image.info["transparency"]  # of a palette: convert would drop it too, but warn
        if not as_stored:
            image = _in_8_bits(_turned(image))
        return image if image.mode == "RGB" else image.convert("RGB")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


def _turned(image: Image.Image) -> Image.Image:
    """An image as one took it; without the blocks that say how, so that nobody turns it again."""
    orientation = None
    with suppress(Exception):  # what a damaged block says is nothing
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation not in _TURNS:
        return image
    image = image.transpose(_TURNS[orientation])
    for block in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image.info.pop(block, None)
    return image


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey in 8 bits, which spread over all of its range."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise OSError(f"its pixels are {kind}, of which nobody knows what is white: save it with 8 or 16 bits")
    return image


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
