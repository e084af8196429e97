"""HangWatch: ends a gang of which a process isn't heard of any more, and says where its processes stood."""

import faulthandler
import math
import mmap
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vit_trainer.loop.liveness import announce_in

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_FOR_OTHER_NODES = 4.0
"""Until processes are killed, which others of the gang may notice: by then these have been found to hang too."""
SECONDS_TO_ANSWER = 10.0
"""How long a process then still has for writing its stack; on a machine that is busy, several seconds."""
MOST_FRAMES = 12
"""Of a stack that is told; the innermost."""
LOWEST = "in _run_process\n"
"""What the main thread's stack has, and no other's."""
PLUMBING = "module.py"
"""PyTorch's, between a layer and the next."""


class HangWatch:
    """Watches the processes of a gang on this node. Made before they are forked, since they share its memory."""

    def __init__(self, first_rank: int, num_processes: int) -> None:
        self.cause = ""
        """Why it has ended the gang, in one line with all stacks; empty if it hasn't."""
        self._first_rank = first_rank
        self._promises = memoryview(mmap.mmap(-1, 16 * num_processes)).cast("d")
        self._stacks: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(num_processes)]  # noqa: SIM115
        self._ended = threading.Event()

    def announce(self, place: int) -> None:
        """In a forked process: have it say when it will be heard of again, and write its stack when it is asked to."""
        faulthandler.register(signal.SIGUSR2, self._stacks[place], all_threads=True)
        announce_in(self._promises[2 * place : 2 * place + 2])

    @contextmanager
    def over(self, pids: list[int]) -> Iterator[None]:
        """Watch these processes, in their order, while the context lasts."""
        thread = threading.Thread(target=self._watch, args=(pids,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self, pids: list[int]) -> None:
        due, left = [0.0] * len(pids), [math.inf] * len(pids)
        before = time.monotonic()
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            now = time.monotonic()
            for i, until in enumerate(self._promises[::2]):
                if until != due[i]:
                    due[i], left[i] = until, until - now
                else:  # time in which this process stood still too, as in a container that is paused, doesn't count
                    left[i] -= min(now - before, 2 * SECONDS_BETWEEN_LOOKS)
            before = now
            if min(left) < 0:
                self._end(pids, left.index(min(left)))
                return

    def _end(self, pids: list[int], late: int) -> None:
        for pid in pids:
            _send(pid, signal.SIGUSR2)
        if self._ended.wait(SECONDS_FOR_OTHER_NODES):
            return
        for pid in pids:
            _send(pid, signal.SIGCONT)  # one that was stopped answers too
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while not all(map(_is_whole, self._stacks)) and time.monotonic() < deadline:
            time.sleep(0.01)
        stacks = [f"rank {self._first_rank + i} in {_told(stack)}" for i, stack in enumerate(self._stacks)]
        self.cause = f"rank {self._first_rank + late} took no step for too long: {'; '.join(stacks)}"
        for pid in pids:
            _send(pid, signal.SIGKILL)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _read(stack: IO[bytes]) -> str:
    descriptor = stack.fileno()
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def _is_whole(stack: IO[bytes]) -> bool:
    return LOWEST in _read(stack)


def _told(stack: IO[bytes]) -> str:
    """The main thread's stack in one line, innermost first, without what lies below train()."""
    threads = _read(stack).split("\n\n")
    main = next((thread for thread in threads if LOWEST in thread), threads[-1])
    found = re.findall(r'File "(.+?)", line (\d+) in (\S+)', main.partition("launcher.py")[0])
    frames = [f"{name} ({Path(file).name}:{line})" for file, line, name in found if Path(file).name != PLUMBING]
    return " < ".join(frames[:MOST_FRAMES]) or "no Python code that would answer"
