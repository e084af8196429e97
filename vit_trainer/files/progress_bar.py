"""How long work goes on: ProgressBar a download, `tracked` one thing after another, `at_work` the rest."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
    track,
)

from vit_trainer.files.outgoing import canvas

T = TypeVar("T")


class ProgressBar:
    """Shows a download on stderr: a bar in a terminal, nothing that moves elsewhere."""

    def __init__(self, title: str) -> None:
        self._console = _console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=None, start=False)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def waiting(self, path: Path) -> None:
        """Say why nothing moves."""
        self._console.print(f"another process is downloading {path}: waiting for it", soft_wrap=True, highlight=False)

    def received(self, num_bytes: int, total_bytes: int | None) -> None:
        """Move the bar; the speed counts from where this download began."""
        if not self._progress.tasks[0].started:
            self._progress.start()
            self._progress.start_task(self._task)
        self._progress.update(self._task, completed=num_bytes, total=total_bytes)


def tracked(items: Sequence[T], title: str) -> Iterator[T]:
    """The items, with a bar on stderr where that is a terminal."""
    console = _console()
    yield from track(items, title, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def at_work(title: str) -> Iterator[None]:
    """Says on stderr, where that is a terminal, what is being done."""
    console = _console()
    with console.status(title) if console.is_terminal else nullcontext():
        yield


def _console() -> Console:
    return Console(file=canvas(sys.stderr), stderr=True)
