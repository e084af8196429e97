"""Own Ray: one that a sweep starts on this machine for itself, which no other joins."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import psutil
import ray
from ray._private import ray_constants, worker

from sweeps.cluster.address import folder_of_ray
from vit_trainer.errors import InputError, reason_of
from vit_trainer.loop.interruption import terminals_end_unseen

log = logging.getLogger(__name__)

RAY_LOGS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""What a trial prints is in Ray's log folder; why it failed is in its result.json."""
MAX_BYTES_OF_FOLDER = 40
"""Of Ray's folder: the paths of its sockets may have 107, and are up to 64 longer."""


def init(**options: Any) -> None:
    """`ray.init`, for a sweep."""
    # Ray ends a driver that has lost its cluster for that long; whoever watches the sweep ends it in good order before.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "300")
    # Of what Ray prints by itself the first of some 40 lines, if there is one.
    worker.print_to_stdstream = lambda data, **_: log.warning("%s", "".join(data["lines"][:1]).partition("\n")[0])
    try:
        ray.init(**RAY_LOGS, **options)
    except SystemExit:  # Ray's for SIGTERM
        raise KeyboardInterrupt from None


def start_ray() -> None:
    """Start a Ray that listens on loopback only, and whose token is for its user's eyes.

    A start that timed out is tried once more.

    Raises:
        InputError: it can't start.
    """
    print("Ray starts on this machine", file=sys.stderr, flush=True)
    os.environ.pop("RAY_ADDRESS", None)  # "local" would send the new Ray's own processes astray
    for is_last in (False, True):
        others = set(psutil.Process().children())
        try:
            _make_token()
            with _on_loopback(), terminals_end_unseen():
                init(address="local", include_dashboard=False, _temp_dir=str(_short_folder()))
            return
        except Exception as error:
            for process in set(psutil.Process().children()) - others:
                process.kill()
            if is_last or "timed out" not in str(error):
                why = f"Ray can't start on this machine ({reason_of(error)})"
                raise InputError(f"{why}: see to that, or name a running cluster in RAY_ADDRESS") from error


def _short_folder() -> Path:
    """Ray's folder; where that is too long for the names of sockets, one in /tmp."""
    folder = folder_of_ray()
    if len(os.fsencode(folder)) <= MAX_BYTES_OF_FOLDER:
        return folder
    folder = Path(f"/tmp/ray-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is another user's, and {folder_of_ray()} is too long for the names of sockets")
    folder.chmod(0o700)
    return folder / "ray"  # which Ray opens to all


def _make_token() -> None:
    """Ray's token, which Ray itself would have all users read."""
    path = Path.home() / ".ray" / "auth_token"
    is_elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path.exists() and not is_elsewhere and os.environ.get("RAY_AUTH_MODE", "token") == "token":
        path.parent.mkdir(exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent) as file:  # mode 600
            file.write(secrets.token_hex(32))
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    with suppress(OSError):
        path.chmod(0o600)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Has a new Ray take 127.0.0.1 for its node's address, as it does on a Mac; then all of it listens there alone."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
