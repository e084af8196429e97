"""Leaving: a node that its cloud is about to take back takes no new work."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import ray
from ray._private.state import state
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated import autoscaler_pb2

from sweeps.machines.spot_notices import wait_for_notice

SECONDS_TO_ANSWER = 5.0


def wait_until_taken_back() -> str:
    """Wait until this node's cloud takes it back, and have Ray place nothing more here; says so in a line.

    Where nobody takes it back it returns at once, with an empty text.
    """
    seconds = wait_for_notice()
    if seconds is None:
        return ""
    context, at = ray.get_runtime_context(), time.time() + seconds
    why = f"the cloud takes its node back at {datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"
    with suppress(ray.exceptions.RayError):  # the trial is to keep its state anyway
        GcsClient(address=context.gcs_address).drain_node(
            context.get_node_id(),
            autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION,  # type: ignore[attr-defined]
            why,
            int(1000 * at),
            timeout=SECONDS_TO_ANSWER,
        )
    return why


def call_when_taken_back(call: Callable[[str], None], others: Sequence[Any] = ()) -> None:
    """Have a function called, in a thread, once this node or one of the others is taken back, with what says so.

    Args:
        call: may be called for each.
        others: actors with a method `wait_until_taken_back`, each on its node.
    """

    def wait(until_taken_back: Callable[[], str]) -> None:
        with suppress(ray.exceptions.RayError):  # the actor is gone
            if why := until_taken_back():
                call(why)

    waits = [lambda each=each: str(ray.get(each.wait_until_taken_back.remote())) for each in others]
    for until in (wait_until_taken_back, *waits):
        threading.Thread(target=wait, args=(until,), daemon=True).start()


def leaving_nodes() -> set[str]:
    """The ids of the nodes on which Ray places nothing more."""
    return set(state.get_draining_nodes())
