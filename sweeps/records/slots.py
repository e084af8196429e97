"""Slots: since when and until when trials held GPUs (or CPU cores), two lines each time in a sweep's folder.

Held is what is paid for: imports, data and compilation, and what a fault undoes, count as well as steps.
"""

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vit_trainer.files.schema import instance_of
from vit_trainer.files.storage import SLOTS, Storage


@dataclass(frozen=True)
class Hold:
    """Slots that a trial held; times are Unix seconds."""

    since: float
    until: float | None
    """None: it holds them still, or whoever could have said so was killed."""
    num_slots: int


@dataclass(frozen=True)
class _Line:
    time: float
    trial: str
    slots: int


def closed(holds: Sequence[Hold], times: Iterable[float]) -> list[tuple[Hold, float]]:
    """Each hold with its end: where none was told, the trial's last sign of life before it held some again.

    Args:
        times: of the trial's signs of life, Unix seconds.
    """
    known, ends = list(times), []
    for i, hold in enumerate(holds):
        again = holds[i + 1].since if i + 1 < len(holds) else math.inf
        last = max((at for at in known if hold.since <= at < again), default=hold.since)
        ends.append((hold, last if hold.until is None else hold.until))
    return ends


def record_slots(storage: Storage, sweep: str, trial_id: str, num_slots: int) -> None:
    """Write down that a trial holds so many slots from now on, 0 for none.

    Raises:
        OSError: what the storage refuses.
    """
    line = {"time": time.time(), "trial": trial_id, "slots": num_slots}
    storage.sweep(sweep).append(SLOTS, (json.dumps(line) + "\n").encode())


def slot_lines(storage: Storage, sweep: str) -> tuple[list[_Line], int]:
    """What a sweep wrote down, and the number of lines that can't be read."""
    return storage.sweep_lines(sweep, SLOTS, _line)


def _line(values: Any) -> _Line:
    line = instance_of(_Line, values)
    if not (0 <= line.time < 1e12 and 0 <= line.slots < 1e6):
        raise ValueError(f"no time, or no number of slots: {line}")
    return line


def read_slots(storage: Storage, sweeps: Iterable[str] | None = None) -> dict[str, list[Hold]]:
    """What trials have held, by their ids, in the order of time; lines that can't be read are passed over.

    Args:
        sweeps: names; None: all of the storage, since sweeps share trials.
    """
    names = storage.sweep_names() if sweeps is None else sweeps
    lines = [(line.time, line.trial, line.slots) for name in names for line in slot_lines(storage, name)[0]]
    holds: dict[str, list[Hold]] = {}
    for at, trial_id, num_slots in sorted(lines):
        own = holds.setdefault(trial_id, [])
        if num_slots:
            own.append(Hold(at, None, num_slots))
        elif own and own[-1].until is None:
            own[-1] = replace(own[-1], until=at)
    return holds
