"""Remote folders for those who try again themselves: with short timeouts, and credentials as they are now."""

import os
import random
import time
from collections.abc import Callable
from functools import lru_cache
from threading import Event
from typing import Any, TypeVar

from vit_trainer.errors import DataError, DataOutageError
from vit_trainer.files.folder import RemoteFolder

T = TypeVar("T")
PATIENCE_VARIABLE = "VIT_SHARD_PATIENCE"
PATIENCE_SECONDS = 120.0
"""How long a bucket may not answer before the run keeps its state and ends, unless the environment says otherwise."""
SILENCE_SECONDS = 10.0
"""How long a request waits for the next byte."""


asked_to_end = Event()
"""Whether to be patient no longer."""


class NoAnswerError(DataError):
    """A bucket doesn't answer, or refuses."""


def patience() -> float:
    """In seconds."""
    return float(os.environ.get(PATIENCE_VARIABLE) or PATIENCE_SECONDS)


def patiently(call: Callable[[], T]) -> T:
    """What a call comes to, which is asked again where there was no answer.

    Raises:
        DataOutageError: there was none for long.
    """
    deadline, pause = time.monotonic() + patience(), 0.25
    while True:
        try:
            return call()
        except NoAnswerError as error:
            forget()
            if time.monotonic() + pause > deadline or asked_to_end.is_set():
                advice = "the state is kept; see to the bucket, the network and the credentials"
                raise DataOutageError(f"{error}: {advice}") from error
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, 10.0)


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
