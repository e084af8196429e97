"""Hours: what trials took and held, what early stopping saved and faults lost.

Hours are GPU-hours, or hours of a slot where trials run on CPU cores.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeps.records.slots import Hold, closed
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


def kept_rows(lines: Iterable[Row]) -> list[Row]:
    """A journal's rows without those that a later attempt, from a checkpoint before them, has still to write again."""
    rows: list[Row] = []
    for line in lines:
        if "step" in line:
            rows.append(line)
        elif "attempt" in line:
            rows = [row for row in rows if row["step"] <= line["from_step"]]
    return rows


def hours_lost(lines: Iterable[Row], holds: Sequence[Hold] = ()) -> float:
    """Hours that a process ended for nothing: steps that had to be run again, and what it took to begin again.

    A lower bound. Earlier versions' attempts don't tell how much time their checkpoint holds: of these only rows that
    were written again are counted, and of a checkpoint between rows the next row's hours count as its own.

    Args:
        lines: of one trial's journal in the order written, as `RunDir.lines` gives them: rows, notes, and the
            beginning of each attempt with the step of the checkpoint that it went on from.
        holds: of the trial. Within one, another attempt began because the one before had died.
    """
    lines = list(lines)
    ends = closed(holds, [line["time"] for line in lines])
    lost = 0.0
    rows: dict[int, Row] = {}
    last: Row = {}
    last_time = 0.0
    for line in lines:
        if "step" in line:
            rows[line["step"]] = line
        elif "attempt" in line:
            kept = line["from_step"]
            undone = [rows.pop(step) for step in sorted(rows) if step > kept]
            if "from_seconds" in line and "from_seconds" in last:
                is_held = any(hold.since <= last["time"] and line["time"] <= until for hold, until in ends)
                until = line["time"] if is_held else last_time
                seconds = last["from_seconds"] + until - last["time"] - line["from_seconds"]
                lost += max(0.0, seconds) / 3600 * (last["num_processes"] if last["device"] == "cuda" else 1)
            elif undone:
                base = 0.0 if kept == 0 else hours_of(rows.get(kept, undone[0]))
                lost += hours_of(undone[-1]) - base
            last = line
        last_time = line["time"]
    return lost


def hours_billed(lines: Iterable[Row], holds: Sequence[Hold]) -> float:
    """Hours that a trial held slots: those that are paid for, while `hours_of` is what training and evaluation took.

    Of what no sweep wrote down (`train` alone, an earlier version), the hours of steps and of those run again.

    Args:
        lines: as for `hours_lost`.
    """
    lines = list(lines)
    ends = closed(holds, [line["time"] for line in lines])
    before = [line for line in lines if not holds or line["time"] < holds[0].since]
    rows = kept_rows(before)
    held = sum((until - hold.since) * hold.num_slots for hold, until in ends) / 3600
    return held + hours_lost(before) + (hours_of(rows[-1]) if rows else 0.0)
