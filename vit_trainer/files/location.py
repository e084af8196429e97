"""Location: what was typed for a place becomes a path or a URI, here alone. Standard library only."""

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from vit_trainer.errors import InputError, reason_of

_NEARLY_URI = re.compile(r"(?:s3|gs|gcs|file|hdfs|abfss?|https?):|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_LONGEST_WITHIN = "x" * 120
"""As long as what this project puts into a folder may be called, folders within it included."""


def is_uri(location: str) -> bool:
    """Whether a location is a URI such as s3://bucket/folder, not a path."""
    return "://" in location


def split_uri(uri: str, what: str) -> SplitResult:
    """The parts of a URI, with a port that is one.

    Args:
        what: what to call it in errors.

    Raises:
        InputError: a bracket that isn't closed, a port that is no number, a web address with what has to be escaped.
    """
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises unless it is a number
        if parts.scheme in ("http", "https") and (not uri.isascii() or re.search(r"\s", uri)):
            raise ValueError("spaces and other letters than ASCII's are written as %20 and so on")
    except ValueError as error:
        raise InputError(f"{what} {uri!r} is no valid address ({error}): correct it") from error
    return parts


def user_cache(name: str) -> Path:
    """A folder of ours in the user's cache folder; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vit_trainer" / name


def local_path(given: str | Path, what: str) -> Path:
    """The path of a file or folder of this machine, ~ expanded; it need not exist.

    Raises:
        InputError: it is empty, a URI or nearly one, can't be a path, or is no file that ends, such as a device.
    """
    text = str(given)
    if not text.strip():
        raise InputError(f"{what} is empty, as a variable that isn't set: give a path, or leave it out")
    if isinstance(given, str) and _NEARLY_URI.match(text):
        raise InputError(
            f"{what} {text} is no path: write {text.partition(':')[0]}://… where a URI may stand, or ./{text} if a "
            "folder is called so"
        )
    try:
        if re.search(r"[\x00-\x1f\x7f]", text):
            raise ValueError("it holds control characters")
        path = Path(text).expanduser()
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError("a device or pipe")
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{what} {text} cannot be used ({reason_of(error)}): give another path") from error
    return path


def folder_location(given: str | Path, what: str = "storage") -> Path | str:
    """The absolute path of a folder of this machine, or the URI of one in a bucket; it need not exist.

    A file:// URI becomes its path.

    Raises:
        InputError: as `local_path`; or the path is a file's, lies under one, or is too long for what is to lie in it;
            or the URI names another machine's file, or has parts that nothing here looks at.
    """
    text = str(given)
    if is_uri(text) and not text.startswith("file:"):
        if "#" in text:
            raise InputError(f"{what} {text} has a #, after which nothing is looked at: write it as %23")
        return text
    if is_uri(text):
        parts = split_uri(text, what)
        if parts.netloc not in ("", "localhost") or "?" in text or "#" in text or "%2f" in text.lower():
            raise InputError(
                f"{what} {text} is no folder of this machine: give such as file:///folder, with %3F for ? and %23 for #"
            )
        given = unquote(parts.path)
    path = local_path(given, what)
    try:
        path = path.resolve()
        os.stat(path / _LONGEST_WITHIN)
    except FileNotFoundError:
        pass
    except NotADirectoryError as error:
        file = next(each for each in (path, *path.parents) if each.exists())
        raise InputError(f"{what} {given} cannot be a folder, since {file} is a file: give another path") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{what} {given} cannot be used ({reason_of(error)}): give another path") from error
    return path
