"""Commands: which command ran which cells, a line in the storage for each session of a sweep."""

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from sweeps.table.cells import Cell, Trial
from vit_trainer.files.outgoing import shown_command
from vit_trainer.files.schema import config_of, instance_of
from vit_trainer.files.storage import COMMANDS, Storage


@dataclass(frozen=True)
class Command:
    """One session of a sweep."""

    sweep: str
    """Name of the sweep."""
    time: float
    """When it began, Unix seconds."""
    host: str
    """Host that its driver ran on."""
    line: str
    """Its command line as for a shell, without secrets."""
    cells: tuple[Cell, ...]
    """Cells with trials that weren't done when it began; data sets by their ids."""
    searched: tuple[str, ...]
    """Which of dropout and warmup_steps each trial of these cells has its own of."""
    dollars_per_gpu_hour: float | None = None
    """What its plan reckoned with; None: nothing was known."""

    def cell_for(self, cell: Cell) -> Cell | None:
        """The cell of this session that the trials of `cell` were candidates of, or None."""
        return next((own for own in self.cells if self._comparable(own) == self._comparable(cell)), None)

    def _comparable(self, cell: Cell) -> tuple[object, ...]:
        schedule = cell.schedule
        return (
            *(cell.upstream, cell.model, cell.dataset, cell.resolution),
            *(schedule.total_steps, schedule.global_batch_size),
            None if "dropout" in self.searched else cell.dropout,
            None if "warmup_steps" in self.searched else schedule.warmup_steps,
        )


def candidate_of(trial: Trial, cell: Cell) -> Trial:
    """The trial as a candidate of a cell; what was searched there is its own."""
    own = trial.cell
    return replace(
        trial,
        cell=cell,
        dropout=own.dropout if cell.dropout is None else None,
        warmup_steps=own.schedule.warmup_steps if own.schedule != cell.schedule else None,
    )


def record_command(
    storage: Storage, sweep: str, cells: Iterable[Cell], searched: Iterable[str], dollars: float | None = None
) -> None:
    """Write down this process's command line; cells, searched and dollars: see `Command`.

    Raises:
        OSError: what the storage refuses.
    """
    line = {
        "time": time.time(),
        "host": socket.gethostname(),
        "line": shown_command(),
        "cells": [asdict(cell.as_recorded) for cell in cells],
        "searched": list(searched),
        **({} if dollars is None else {"dollars_per_gpu_hour": dollars}),
    }
    storage.sweep(sweep).append(COMMANDS, (json.dumps(line) + "\n").encode())


def read_commands(storage: Storage, sweep: str) -> tuple[list[Command], int]:
    """The sessions of a sweep in their order, and the number of lines that can't be read."""
    return storage.sweep_lines(sweep, COMMANDS, partial(_command, sweep))


def _command(sweep: str, values: Any) -> Command:
    """Raises ValueError for what no session has written."""
    command = instance_of(Command, {**values, "sweep": sweep} if isinstance(values, dict) else values)
    for cell in command.cells:
        config_of({**vars(cell), **vars(cell.schedule), "dropout": cell.dropout or 0.0, "base_lr": 1.0, "seed": 0})
    return command
