"""Liveness: within what time a process will be heard of again, so that whoever started it can tell that it hangs.

And how processes of a gang wait for each other without looking as if they did. Imports PyTorch only for that.
"""

import os
import time
from functools import cache
from itertools import count
from typing import Any

from vit_trainer.errors import RunInterruptedError

START_SECONDS = 3600.0
"""For what is done once: data, weights, compilation, the first steps and the first evaluation; also for last writes."""
USUAL_STEPS = 20
"""So many usual steps without a sign are too long, where `Execution.hang_minutes` are less."""

_places: "list[memoryview[float]]" = []


def announce_in(place: "memoryview[float]") -> None:
    """Have this process say by when it will be heard of again, in memory that another process sees.

    Args:
        place: (2,) float64: a time as time.monotonic() gives it, and how many seconds were promised.
    """
    _places.append(place)
    expect(START_SECONDS)


def expect(seconds: float) -> None:
    """Promise another sign within so many seconds."""
    for place in _places:
        place[0], place[1] = time.monotonic() + seconds, seconds


def expect_as_before() -> None:
    """The same promise from now on, while something outside is waited for, which may take as long as it takes."""
    for place in _places:
        place[0] = time.monotonic() + place[1]


def wait_for_all(num_processes: int) -> None:
    """Wait on the host until every process of a gang is here, for as long as it takes.

    One of them may wait for the outside: a slow bucket, a download, the word after a report. In a collective, NCCL
    would give up after 10 minutes and take all processes with it.

    Raises:
        RunInterruptedError: whoever started this process is gone, and then the others may never come.
    """
    if num_processes == 1:
        return
    store, numbers = _store()
    name = f"vit_trainer/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{next(numbers)}"
    seconds, parent = 0.0005, os.getppid()
    store.add(name, 1)
    while store.add(name, 0) < num_processes:
        if os.getppid() != parent:
            raise RunInterruptedError("whoever started the trial is gone, and so may be others of its processes")
        time.sleep(seconds)
        seconds = min(2 * seconds, 0.5)
        expect_as_before()


@cache
def _store() -> "tuple[Any, count[int]]":
    """A connection of our own to the TCPStore where the processes have met, and numbers."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False), count()


class Pace:
    """What a loop's usual step takes, and so how soon the next sign is to come."""

    def __init__(self, least_seconds: float) -> None:
        """least_seconds: what is no hang yet, however fast the steps are."""
        self._least = least_seconds
        self.begin()

    def begin(self) -> None:
        """The first steps and the first evaluation may take long: they are compiled."""
        self._num_steps, self._seconds, self._since = 0, 0.0, 0.0
        self._in_row = self._has_evaluated = False
        self.alive()

    def step_ends(self) -> None:
        self._num_steps += 1
        if self._num_steps > 2:
            self._seconds += time.monotonic() - self._since
        self.alive()

    def row_begins(self) -> None:
        self._in_row = True
        self.alive()

    def row_ends(self, *, validated: bool) -> None:
        self._in_row, self._has_evaluated = False, self._has_evaluated or validated
        self.alive()

    def alive(self) -> None:
        """Something has ended, a batch of an evaluation for example."""
        self._since = time.monotonic()
        usual = self._seconds / max(1, self._num_steps - 2)
        compiles = self._num_steps <= 2 or (self._in_row and not self._has_evaluated)
        expect(START_SECONDS if compiles else max(self._least, USUAL_STEPS * usual))
