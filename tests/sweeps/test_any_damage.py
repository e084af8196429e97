"""Any damage to any file of a storage: no reader ends with a traceback, and none counts what isn't true."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sweeps.checks.explanations import explain_cell
from sweeps.display.from_folders import FolderWatch
from sweeps.display.live_table import Screen
from sweeps.options import SweepOptions
from sweeps.planning.capacity import Resources
from sweeps.records.commands import record_command
from sweeps.records.decisions import Decision, record_decision
from sweeps.records.left_states import left_states
from sweeps.records.parity import NodeParity, record_parity
from sweeps.records.results import gather
from sweeps.records.slots import record_slots
from sweeps.reporting.rows import rows_of, trial_rows_of
from sweeps.reporting.statement import statement
from sweeps.running.session import Session
from sweeps.selection.repeats import RepeatOptions
from sweeps.sweep import run_sweep
from sweeps.table.cells import Trial, official_cell
from tests.sweeps.storages import ATTEMPT, finished, write_run
from vit_trainer.config import Execution
from vit_trainer.files.predictions import Predictions
from vit_trainer.files.run_dir import CHECKPOINT, LEASE, PREDICTIONS
from vit_trainer.files.storage import PROBES, Storage
from vit_trainer.loop.probe import ProbeResult
from vit_trainer.tracking.catalogue import Catalogue, Membership, catalogues

SWEEP = "paper_grid-mini"
CELLS = [official_cell("ViT-B_16-mini", dataset, dropout=0.1) for dataset in ("digits-even", "digits-odd")]
RATES = (0.03, 0.01)
TRIALS = [Trial(cell, rate, 0) for cell in CELLS for rate in RATES]
OPTIONS: dict[str, Any] = {"base_lrs": tuple(map(str, RATES)), "preset": "mini", "quiet": True}
TRUE = {TRIALS[i].trial_id: 0.8 + i / 100 for i in (0, 2)}
"""Accuracies of those that have finished."""


def write_storage(path: Path) -> None:
    """A sweep of four trials: two finished, one stopped, and one that waits with its checkpoint."""
    storage = Storage(path)
    for i, trial in enumerate(TRIALS):
        config = trial.config
        curve, result = finished(config, 0.9 + i / 100, 0.8 + i / 100)
        if i == 1:
            curve, result = curve[:2], {"status": "stopped", "val/accuracy": curve[1][1], "cause": "a rung"}
        speeds = {"images_per_second": 100.0, "mfu": 0.1, "peak_memory_gib": 1.0, "input_wait_fraction": 0.0}
        attempt = ATTEMPT | {"device": "cpu", "device_name": "some CPU", "from_seconds": 0.0}
        run_dir = write_run(
            path, config, curve[:3] if i == 3 else curve, None if i == 3 else result, speeds=speeds, attempt=attempt
        )
        if result["status"] == "finished" and i != 3:
            run_dir.folder.write(PREDICTIONS, _predictions(i).to_bytes())
        record_slots(storage, SWEEP, trial.trial_id, 1)
        record_slots(storage, SWEEP, trial.trial_id, 0)
    run_dir.folder.write(CHECKPOINT, b"a state")
    run_dir.folder.write(LEASE, json.dumps({"writer": "a", "host": "elsewhere", "pid": 1, "time": 1e9}).encode())
    record_command(storage, SWEEP, CELLS, [])
    for trial, value in zip(TRIALS, (0.7, 0.6, 0.7, None), strict=True):
        decided = {"rung": 20, "step": 20, "value": value, "compared": (0.7,), "cutoff": 0.7, "rule": "a rule"}
        action = "goes on" if value == 0.7 else "stays paused"
        record_decision(storage, SWEEP, Decision(trial.trial_id, trial.cell.name, action=action, **decided))
    record_parity(storage, SWEEP, [NodeParity("node-1", "some CPU", "30 of 30 rungs hold", ("logits",))])
    entries = {trial.trial_id: Membership(trial.cell.name, {"cell": trial.cell.name}, 0.9, 0.03) for trial in TRIALS}
    Catalogue(storage, SWEEP).add(entries)
    probed = asdict(ProbeResult(100.0, 300.0, None, 64, "some CPU", 10, 60.0))
    storage.folder.write(PROBES, json.dumps({"ViT-B_16-mini 32px with dropout on some CPU, torch 2": probed}).encode())


def _predictions(seed: int) -> Predictions:
    random = np.random.default_rng(seed)
    classes = random.integers(0, 5, (20, 5)).astype(np.uint16)
    confidences = random.random((20, 5)).astype(np.float16)
    return Predictions(classes, confidences, classes[:, 0], np.zeros(0, "S1"))


# What is done to files.

VALUES = [None, True, -1, 0, 1, 0.5, 10**400, 2**70, 1e308, math.inf, math.nan, "", "text", "\x1b[2J\n", [], {}, [[1]]]
VALUES += [{"a": {"b": [None]}}, ["x"] * 3, "9" * 50]


@dataclass(frozen=True)
class Damage:
    """What is done to a file."""

    name: str
    what: str
    place: int
    size: int
    other: Any
    """A value for one of the file's, or to be appended; a file to be swapped with."""


@st.composite
def damages(draw: st.DrawFn, names: list[str]) -> Damage:
    what = draw(st.sampled_from(["cut", "zeros", "flip", "swap", "delete", "folder", "append", *["value"] * 4]))
    other = draw(st.sampled_from(names if what == "swap" else VALUES))
    return Damage(draw(st.sampled_from(names)), what, draw(st.integers(0, 4000)), draw(st.integers(1, 200)), other)


def inflict(storage: Path, damage: Damage) -> set[str]:
    """Returns the files that aren't what they were."""
    path = storage / damage.name
    if not path.is_file():
        return {damage.name}
    content, size = path.read_bytes(), damage.size
    place = damage.place % (len(content) or 1)
    before, part, after = content[:place], content[place : place + size], content[place + size :]
    if damage.what == "swap":
        other = storage / damage.other
        if other.is_file():
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
        return {damage.name, damage.other}
    if damage.what in ("delete", "folder"):
        path.unlink()
        if damage.what == "folder":
            (path / "within").mkdir(parents=True)
        return {damage.name}
    given = json.dumps(damage.other).encode()
    changed = {"cut": before, "zeros": before + bytes(len(part)) + after, "append": content + given}
    changed["flip"] = before + bytes(byte ^ (1 << size % 8) for byte in part) + after
    changed["value"] = replaced(content, damage.place + size, damage.other) or before + given + after
    path.write_bytes(changed[damage.what])
    return {damage.name}


def replaced(content: bytes, place: int, value: Any) -> bytes | None:
    """JSON, or lines of it, with one value of all replaced; None: it is none."""
    try:
        values = [json.loads(line) for line in (content.splitlines() if b"\n{" in content else [content])]
    except ValueError:
        return None
    places = list(places_in(values))
    holder, key = places[place % len(places)]
    holder[key] = value
    return b"\n".join(json.dumps(each).encode() for each in values) + b"\n"


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place within a list or object, as what holds it and its key there."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from places_in(each)


# Who reads them.


def of_session(storage: Path) -> dict[str, Any]:
    session = Session(SWEEP, CELLS, SweepOptions(storage=str(storage), **OPTIONS), Execution(), lambda _: None)
    Console(file=StringIO()).print(session.display.table())
    results = {trial_id: session.display.result(trial_id) for trial_id in session.trials}
    return {key: each["test/accuracy"] for key, each in results.items() if each and each["status"] == "finished"}


def of_report(storage: Path) -> dict[str, Any]:
    for sweep in (SWEEP, None):
        results = gather(Storage(storage), sweep)
        json.dumps([rows_of(results), trial_rows_of(results), statement(results)])
        assert not any("\n" in complaint for complaint in results.complaints)
    for record in results.cells:
        list(explain_cell(record, results))
    return {each.trial_id: each.result["test/accuracy"] for each in results.trials if each.status == "finished"}


def of_watch(storage: Path) -> dict[str, Any]:
    standing = FolderWatch(str(storage), clock=lambda: 2e9).read()
    Console(file=StringIO(), width=100).print(Screen(standing))
    found = [each.trial_id for each in standing.trials if each.status == "finished"]
    return {key: (Storage(storage).run_dir(key).result() or {})["test/accuracy"] for key in found}


def of_others(storage: Path) -> dict[str, Any]:
    """Those that count nothing, and a sweep that repeats what has finished."""
    left_states(Storage(storage), idle_hours=0.0)
    catalogues(Storage(storage))
    run_sweep(SWEEP, CELLS, SweepOptions(storage=str(storage), plan=True, **OPTIONS), Execution())
    options = RepeatOptions(storage=str(storage), quiet=True)
    options.explained(CELLS)
    return {each.trial_id: each.result["test/accuracy"] for each in options._finished}


READERS: list[Callable[[Path], dict[str, Any]]] = [of_session, of_report, of_watch, of_others]


def check(original: Path, storage: Path, chosen: Sequence[Damage]) -> None:
    """After these damages each reader counts what is whole as it is, and says nothing in several lines."""
    touched = {name for each in chosen for name in inflict(storage, each)}
    try:
        with redirect_stderr(StringIO()) as err, redirect_stdout(StringIO()):
            counted = [reader(storage) for reader in READERS]
    finally:
        for name in touched:
            path = storage / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            shutil.copy(original / name, path)
    assert all(line.startswith("left out: ") for line in err.getvalue().splitlines())
    touched_trials = {name.split("/")[1] for name in touched if name.startswith("runs/")}
    whole = {key: value for key, value in TRUE.items() if key not in touched_trials}
    for found in counted:
        assert {key: value for key, value in found.items() if key not in touched_trials} == whole
        assert all(0 <= value <= 1 for value in found.values())
        assert found == counted[0]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("any-damage") / "original"
    write_storage(path)
    return path


@pytest.mark.parametrize("num_examples", [60, pytest.param(800, marks=pytest.mark.slow)])
def test_no_reader_stumbles_over_any_damage_or_counts_what_is_not_true(
    original: Path, tmp_path: Path, num_examples: int
) -> None:
    names = sorted(str(path.relative_to(original)) for path in original.rglob("*") if path.is_file())
    storage = shutil.copytree(original, tmp_path / "storage")

    @settings(max_examples=num_examples, deadline=None, derandomize=True, database=None)
    @given(st.lists(damages(names), min_size=1, max_size=2))
    def damaged(chosen: list[Damage]) -> None:
        check(original, storage, chosen)

    damaged()
    assert {name: (storage / name).read_bytes() for name in names} == {
        name: (original / name).read_bytes() for name in names
    }


@pytest.mark.parametrize("num_examples", [30, pytest.param(500, marks=pytest.mark.slow)])
def test_a_search_goes_on_whatever_has_become_of_its_log(original: Path, tmp_path: Path, num_examples: int) -> None:
    storage = shutil.copytree(original, tmp_path / "storage")
    options = SweepOptions(storage=str(storage), search="optuna", num_trials=3, quiet=True)

    def searched() -> Session:
        session = Session("search", CELLS[:1], options, Execution(), lambda _: None)
        leg = session.ask(Resources((0,), (2,)))
        assert leg is not None
        assert leg.trial.config.total_steps == CELLS[0].schedule.total_steps
        return session

    assert searched().num_done == 2
    log = storage / "optuna.log"
    whole = log.read_bytes()

    @settings(max_examples=num_examples, deadline=None, derandomize=True, database=None)
    @given(damages([log.name]))
    def damaged(chosen: Damage) -> None:
        shutil.rmtree(log) if log.is_dir() else log.unlink(missing_ok=True)
        log.write_bytes(whole)
        inflict(storage, chosen)
        assert searched().num_done == 2

    damaged()
    kept = list(storage.glob("optuna.log.damaged-*"))
    assert kept
