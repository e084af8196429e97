"""Signals as a request to end: the state is kept first."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_OF_ONE_PRESS = 0.5
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what systems send before they take a machine away, and the end of a terminal or of its connection."""


@contextmanager
def signals_as_request(
    signals: tuple[int, ...] = REQUESTS, acknowledge: Callable[[], None] | None = None
) -> Iterator[Callable[[], bool]]:
    """A function that says whether a signal has come; processes that are forked meanwhile take no other note of it.

    A later Ctrl-C acts as if this weren't here; not one in the same moment, since torchrun and others pass on what
    their whole group has got. What nohup has this process ignore stays ignored. Only the main thread may call this.

    Args:
        acknowledge: called at the first signal, in a thread of its own.
    """
    received: list[float] = []
    process = os.getpid()

    def take_note(number: int, frame: FrameType | None) -> None:
        if not received and acknowledge is not None and os.getpid() == process:
            threading.Thread(target=acknowledge, daemon=True).start()
        received.append(time.monotonic())
        if number == signal.SIGINT and received[-1] - received[0] > SECONDS_OF_ONE_PRESS:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    kept = [number for number in signals if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in kept}
    for number in kept:
        signal.signal(number, take_note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminals_end_unseen() -> Iterator[None]:
    """Processes that are started within this never hear of their terminal's end; this one does, after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
