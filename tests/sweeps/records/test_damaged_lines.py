"""Lines of a sweep's files that no sweep has written: counted, told once, and passed over by whoever reads them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from sweeps.display.from_folders import FolderWatch
from sweeps.records.commands import record_command
from sweeps.records.results import damaged_lines, gather
from sweeps.records.slots import record_slots
from sweeps.table.cells import Trial, official_cell
from tests.sweeps.storages import finished, write_run
from vit_trainer.files.storage import COMMANDS, DECISIONS, PARITY, SLOTS, TRACKING, Storage

CELL = official_cell("ViT-B_16-mini", "digits-even", dropout=0.1)
COMMAND = {"time": 1.0, "host": "a", "line": "b", "searched": []}
OTHERS = {
    "another model": COMMAND | {"cells": [asdict(CELL) | {"model": "ViT-X"}]},
    "a cell without steps": COMMAND | {"cells": [asdict(CELL) | {"schedule": {"total_steps": 0, "warmup_steps": 0}}]},
    "a cell that is a number": COMMAND | {"cells": [3]},
    "endless slots": {"time": 1.0, "trial": "a", "slots": 1e999},
    "slots below 0": {"time": 1.0, "trial": "a", "slots": -1},
    "a time as text": {"time": "1.0", "trial": "a", "slots": 1},
    "a time that never comes": {"time": 1e999, "trial": "a", "slots": 1},
    "a decision of numbers": {"trial_id": 1, "group": 2, "rung": 3, "step": 4, "value": 5, "compared": 6, "rule": 7},
    "failures as text": {"node": "a", "environment": "b", "outcome": "c", "failures": "d"},
}
LINES = {what: json.dumps(values).encode() for what, values in OTHERS.items()}
LINES |= {each.decode(): each for each in (b"3", b"null", b"[]", b"{}", b"words", b'"text"')}
LINES |= {"deep": b"[" * 100_000, "bytes": b'{"a": "\xff"}', "digits": b"1" * 5000}


@pytest.mark.parametrize("what", LINES)
def test_each_is_counted_and_none_is_stumbled_over(tmp_path: Path, what: str) -> None:
    storage, trial = Storage(tmp_path), Trial(CELL, 0.03, 0)
    write_run(tmp_path, trial.config, *finished(trial.config, 0.9, 0.8))
    record_command(storage, "sweep", [CELL], [])
    record_slots(storage, "sweep", trial.trial_id, 1)
    for name in (COMMANDS, DECISIONS, PARITY, SLOTS):
        storage.sweep("sweep").append(name, LINES[what] + b"\n")
    storage.sweep("sweep").write(TRACKING, LINES[what] if what != "{}" else b"[]")
    said = tuple(f"sweeps/sweep/{name}: 1 damaged line" for name in (COMMANDS, DECISIONS, PARITY, SLOTS, TRACKING))
    assert tuple(damaged_lines(storage, "sweep")) == said
    results = gather(storage)
    assert results.complaints == said
    assert [record.accuracy for record in results.cells] == [0.8]
    assert results.cells[0].commands
    assert FolderWatch(str(tmp_path)).read().complaints == tuple(f"left out: {each}" for each in (said[0], said[3]))


def test_folders_and_files_in_each_others_places(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for name in (COMMANDS, DECISIONS, PARITY, SLOTS, TRACKING):
        (tmp_path / "sweeps" / "sweep" / name).mkdir(parents=True)
    (tmp_path / "sweeps" / "notes.txt").touch()
    assert len(damaged_lines(storage, "sweep")) == 5
    assert damaged_lines(storage, "notes.txt") == []
    assert len(gather(storage).complaints) == 5
