"""Remote folders for those who try again themselves: with short timeouts, and credentials as they are now."""

import os
from functools import lru_cache
from typing import Any

from vit_trainer.files.folder import RemoteFolder

SILENCE_SECONDS = 10.0
"""How long a request waits for the next byte."""


def remote(location: str) -> RemoteFolder:
    """The folder in a bucket, of this process: a connection that was open when it was forked is its parent's.

    Raises OSError or ValueError: there can be none.
    """
    return _remote(location, os.getpid())


def open_file(location: str, name: str) -> Any:
    """A file with `read_at(num_bytes, offset)`, for any number of threads. Raises OSError."""
    folder = remote(location)
    return folder.filesystem.open_input_file(f"{folder.path}/{name}")


def forget() -> None:
    """Connect anew the next time: credentials may be others by then."""
    _remote.cache_clear()


@lru_cache(maxsize=8)
def _remote(location: str, process: int) -> RemoteFolder:
    from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem

    filesystem, path = FileSystem.from_uri(location)
    if filesystem.type_name == "s3":  # whose own patience is minutes, and whose URIs can't say so
        _, (options, *_) = filesystem.__reduce__()
        options |= {"request_timeout": SILENCE_SECONDS, "connect_timeout": SILENCE_SECONDS}
        filesystem = S3FileSystem(**options, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=2))
    return RemoteFolder(filesystem, path.rstrip("/"), location)
