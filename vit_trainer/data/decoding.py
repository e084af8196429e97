"""Image files as pixels. Imports no torch."""

from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vit_trainer.errors import DataError, InputError


def read_image(path: Path) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        DataError: it can't be read; the message is the reason alone.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error
    return decode_image(content)


def decode_image(content: bytes) -> Image.Image:
    """Decode an image file's content to RGB; raises as `read_image`."""
    try:
        image = Image.open(BytesIO(content))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError as error:  # its own text holds an address, which differs each time
        raise DataError("not an image that Pillow knows") from error
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error
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
