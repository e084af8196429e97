"""Hours: what trials took, what early stopping saved and faults lost.

Hours are GPU-hours, or hours of a slot where trials run on CPU cores.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vit_trainer.files.run_dir import Result, Row


def hours_of(row: Mapping[str, Any]) -> float:
    """Hours until a journal's row or in a result; 0 where none are recorded."""
    return float(row.get("gpu_hours") or row.get("runtime_hours") or 0.0)


def hours_not_run(result: Result | None, journal: Sequence[Row], total_steps: int) -> float:
    """Hours that a stopped trial would have gone on for: its steps not run, at its own measured speed; else 0.

    A lower bound: it wasn't tested either.
    """
    if result is None or result["status"] != "stopped" or not journal:
        return 0.0
    last = journal[-1]
    return hours_of(last) / int(last["step"]) * (total_steps - int(last["step"]))


def hours_lost(lines: Iterable[Row]) -> float:
    """Hours of steps that had to be run again, because a process ended between checkpoints.

    A lower bound: what an attempt did after its last row, and starting again, leave no trace. Of a checkpoint
    between rows, the next row's hours count as its own.

    Args:
        lines: of one trial's journal in the order written, as `RunDir.lines` gives them: rows, notes, and the
            beginning of each attempt with the step of the checkpoint that it went on from.
    """
    lost = 0.0
    rows: dict[int, Row] = {}
    for line in lines:
        if "step" in line:
            rows[line["step"]] = line
        elif "attempt" in line:
            kept = line["from_step"]
            undone = [rows.pop(step) for step in sorted(rows) if step > kept]
            if undone:
                base = 0.0 if kept == 0 else hours_of(rows.get(kept, undone[0]))
                lost += hours_of(undone[-1]) - base
    return lost
