"""What every test shares: a Ray of its own, as many threads as a trial has, and a bucket for who asks."""

import atexit
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib import request

import pytest

os.environ["RAY_ADDRESS"] = "local"  # never join a cluster that happens to run on this machine
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # no test depends on the network, nor waits for it at the end
os.environ["RAY_AUTH_MODE"] = "disabled"  # else a Ray that one test starts has later ones ask older clusters for tokens
# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.disable()  # until everything is imported


BEGUN = pytest.StashKey[tuple[ExitStack, dict[str, Any]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin early what modules ask for: their context managers `begun_early`.

    Tests use one core, and some need processes that take many seconds to start: these do so on another.
    """
    # What the imports made stays until the end: no collection of garbage need look through it again.
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # libraries complain of types that outlive the interpreter
    stack, begun = session.config.stash.setdefault(BEGUN, (ExitStack(), {}))
    if not session.config.option.collectonly:
        for module in {module for item in session.items if (module := getattr(item, "module", None)) is not None}:
            if hasattr(module, "begun_early"):
                begun[module.__name__] = stack.enter_context(module.begun_early())


def pytest_sessionfinish(session: pytest.Session) -> None:
    if BEGUN in session.config.stash:
        session.config.stash[BEGUN][0].close()


@pytest.fixture(scope="module")
def begun(request: pytest.FixtureRequest) -> Any:
    """What this module's `begun_early` gives."""
    return request.config.stash[BEGUN][1][request.module.__name__]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URI of a folder in a bucket, on an S3 server of our own."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    # The buckets of a process are one memory for all its servers: what a module before this one stored is dropped.
    request.urlopen(request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST"), timeout=30).close()
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    address = f"endpoint_override=127.0.0.1%3A{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    from pyarrow.fs import FileSystem

    filesystem, path = FileSystem.from_uri(f"s3://sweeps?{address}")
    filesystem.create_dir(path)
    yield f"s3://sweeps/results?{address}"
    os.environ.clear()
    os.environ.update(before)
    server.stop()
