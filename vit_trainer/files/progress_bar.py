"""ProgressBar: how a download goes on."""

import sys
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from vit_trainer.files.outgoing import canvas


class ProgressBar:
    """Shows a download on stderr: a bar in a terminal, nothing that moves elsewhere."""

    def __init__(self, title: str) -> None:
        self._console = Console(file=canvas(sys.stderr), stderr=True)
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
