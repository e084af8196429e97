"""Remote: a packed folder in a bucket, for those who try again themselves."""

import os
from functools import lru_cache
from typing import Any

SILENCE_SECONDS = 10.0
"""How long a request waits for the next byte."""


class Remote:
    """A folder in a bucket, for reading: with short timeouts, since whoever reads tries again."""

    def __init__(self, location: str) -> None:
        from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem

        self.location = location
        filesystem, self._path = FileSystem.from_uri(location)
        if filesystem.type_name == "s3":  # whose own patience is minutes, and whose URIs can't say so
            _, (options, *_) = filesystem.__reduce__()
            options |= {"request_timeout": SILENCE_SECONDS, "connect_timeout": SILENCE_SECONDS}
            filesystem = S3FileSystem(**options, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=2))
        self._filesystem = filesystem

    def open(self, name: str) -> Any:
        """A file with `read_at(num_bytes, offset)`, for any number of threads. Raises OSError."""
        return self._filesystem.open_input_file(f"{self._path.rstrip('/')}/{name}")


def remote(location: str) -> Remote:
    """The folder in a bucket, of this process: a connection that was open when it was forked is its parent's."""
    return _remote(location, os.getpid())


def forget() -> None:
    """Connect anew the next time: credentials may be others by then."""
    _remote.cache_clear()


@lru_cache(maxsize=8)
def _remote(location: str, process: int) -> Remote:
    return Remote(location)
