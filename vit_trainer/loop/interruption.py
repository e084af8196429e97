"""Signals as a request to end: the state is kept first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_as_request(signals: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)) -> Iterator[Callable[[], bool]]:
    """A function that says whether a signal has come: Ctrl-C, or what systems send before they take a machine away.

    A second Ctrl-C acts as if this weren't here. Only the main thread may call this.
    """
    received: list[int] = []

    def take_note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    before = {number: signal.signal(number, take_note) for number in signals}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
