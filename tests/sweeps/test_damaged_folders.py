"""Run folders with every kind of damage: each reader names each once, with the same reason, and counts none of them."""

import json
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from sweeps.display.from_folders import FolderWatch
from sweeps.options import SweepOptions
from sweeps.planning.capacity import Resources
from sweeps.records.left_states import left_states
from sweeps.report import report
from sweeps.running.session import Session
from sweeps.selection.rehearsal import Rehearsal
from sweeps.selection.repeats import RepeatOptions
from sweeps.sweep import run_sweep
from sweeps.table.cells import Trial, official_cell
from sweeps.tracking.to_tensorboard import EventFiles
from tests.stores import with_mlflow_tables
from tests.sweeps.storages import finished, write_run
from tests.sweeps.sweep_process import Start, numbers
from vit_trainer.config import Execution
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import CONFIG, JOURNAL, LEASE, RESULT
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.catalogue import Catalogue, Membership

CELL = official_cell("ViT-B_16-mini", "digits-even", dropout=0.1)
STEPS = CELL.schedule.total_steps
Damage = bytes | Callable[[bytes], bytes]


def values(**changes: Any) -> Damage:
    """A file's object with these changes; None takes a value out."""

    def changed(content: bytes) -> bytes:
        merged = json.loads(content) | {key.replace("__", "/"): value for key, value in changes.items()}
        return json.dumps({key: value for key, value in merged.items() if value is not None}).encode()

    return changed


def row(**changes: Any) -> Damage:
    """The journal with its second line, a row, changed as `values` does."""
    change = values(**changes)
    assert callable(change)
    return lambda content: b"\n".join(change(x) if i == 1 else x for i, x in enumerate(content.split(b"\n")))


def line(content: bytes) -> Damage:
    """The journal with another line within."""
    return lambda journal: journal.replace(b"\n", b"\n" + content + b"\n", 1)


DAMAGES: dict[str, tuple[str, Damage, str]] = {
    "an empty result": (RESULT, b"", "it is empty"),
    "a torn result": (RESULT, b'{"status": "fin', "no JSON: "),
    "a result of bytes": (RESULT, b'{"status": "\xff\xfe"}', "no JSON: "),
    "a deep result": (RESULT, b"[" * 100_000, "no JSON: "),
    "a list": (RESULT, b"[1, 2]", "no object"),
    "no status": (RESULT, values(status=None), "status is missing"),
    "another status": (RESULT, values(status="done"), "unknown status 'done'"),
    "a number as status": (RESULT, values(status=3), "status is 3, not text"),
    "no test accuracy": (RESULT, values(test__accuracy=None), "test/accuracy is missing"),
    "no validation accuracy": (RESULT, values(val__accuracy=None), "val/accuracy is missing"),
    "an accuracy of 5": (RESULT, values(test__accuracy=5.0), "test/accuracy is 5.0, not a fraction in [0, 1]"),
    "an accuracy in percent": (RESULT, values(val__accuracy=98.5), "val/accuracy is 98.5, not a fraction"),
    "an accuracy that is no number": (RESULT, values(test__accuracy=float("nan")), "test/accuracy is NaN, not"),
    "an accuracy as text": (RESULT, values(test__accuracy="0.98"), 'test/accuracy is "0.98", not'),
    "an accuracy of true": (RESULT, values(test__accuracy=True), "test/accuracy is true, not"),
    "negative hours": (RESULT, values(gpu_hours=-1.0), "gpu_hours is -1.0, not hours from 0"),
    "endless hours": (RESULT, values(runtime_hours=float("inf")), "runtime_hours is Infinity, not hours"),
    "half a step": (RESULT, values(step=0.5), "step is 0.5, not a whole number"),
    "a step too far": (RESULT, values(step=STEPS + 1), f"it has step {STEPS + 1} of {STEPS}"),
    "a huge metric": (RESULT, values(other=10**400), '"other" is too large a number'),
    "a number without end": (RESULT, b'{"status": ' + b"1" * 5000 + b"}", "no JSON: "),
    "a row without time": (JOURNAL, row(time=None), "line 2: time is missing"),
    "a time as text": (JOURNAL, row(time="noon"), 'line 2: time is "noon", not a time'),
    "a step as text": (JOURNAL, row(step="10"), 'line 2: step is "10", not a whole number'),
    "a step below 1": (JOURNAL, row(step=0), "line 2: step is 0, not a whole number of at least 1"),
    "a row too far": (JOURNAL, row(step=STEPS + 5), f"it has step {STEPS + 5} of {STEPS}"),
    "a row's accuracy of 5": (JOURNAL, row(val__accuracy=5.0), "line 2: val/accuracy is 5.0, not a fraction"),
    "a row's accuracy as text": (JOURNAL, row(val__accuracy="good"), 'line 2: val/accuracy is "good", not'),
    "a row's negative hours": (JOURNAL, row(gpu_hours=-0.5), "line 2: gpu_hours is -0.5, not hours"),
    "a speed as text": (JOURNAL, row(mfu="fast"), 'line 2: mfu is "fast", not a number'),
    "a row that is a list": (JOURNAL, line(b"[1]"), "line 2 is no object"),
    "words among the rows": (JOURNAL, line(b"see my notes"), "line 2 is no JSON"),
    "a row of bytes": (JOURNAL, line(b'{"time": 1.0, "step": "\xff"}'), "line 2 is no JSON"),
    "an attempt from nowhere": (JOURNAL, line(b'{"time": 1.0, "attempt": 1}'), "line 2: from_step is missing"),
    "weights without a name": (
        JOURNAL,
        lambda content: re.sub(rb'"weights_sha256": "\w+"', b'"weights_sha256": 3', content),
        "line 1: weights_sha256 is 3, not text",
    ),
    "a note that is none": (JOURNAL, line(b'{"time": 1.0, "note": 3}'), "line 2: note is 3, not text"),
    "an empty config": (CONFIG, b"", "it is empty"),
    "a torn config": (CONFIG, b'{"model": "ViT', "no JSON: "),
    "another config": (CONFIG, b'{"some": "thing"}', "model is missing"),
    "a config that is a list": (CONFIG, b"[]", "no object"),
    "steps as text": (CONFIG, values(total_steps="many"), 'total_steps is "many", not a whole number'),
    "another model": (CONFIG, values(model="ViT-X"), "unknown model 'ViT-X'"),
    "another trial's config": (CONFIG, values(base_lr=0.5), "it is that of ViT-B_16-mini-digits-even-d0.1-lr0.5-s"),
    "no config": (CONFIG, b"gone", "it is missing"),
    "a folder for a journal": (JOURNAL, b"folder", "Is a directory"),
}
WHOLE: dict[str, tuple[str, Damage]] = {
    "nothing": (RESULT, lambda content: content),
    "a line on its way": (JOURNAL, lambda content: content + b'{"time": 1.0, "ste'),
    "a line that a kill tore": (JOURNAL, line(b'{"time": 1.0, "ste')),
    "a line that a power cut tore": (JOURNAL, line(b'{"time": 1.0, \0\0\0\0')),
    "zeros": (JOURNAL, line(b"\0\0\0\0")),
    "what a later version may write": (JOURNAL, row(new__metric=1.5, other={"a": [1]})),
    "what an older version wrote": (JOURNAL, lambda content: content.split(b"\n", 1)[1]),
}
SEEDS = {what: seed for seed, what in enumerate((*DAMAGES, *WHOLE))}


def trial(what: str) -> Trial:
    return Trial(CELL, 0.03, SEEDS[what])


def leave(storage: Path, what: str) -> Path:
    """A finished trial's folder, better than the whole ones, with something done to it."""
    name, damage = WHOLE[what] if what in WHOLE else DAMAGES[what][:2]
    config = trial(what).config
    better = 0.0 if what in WHOLE else 0.09
    path = Path(write_run(storage, config, *finished(config, 0.9 + better, 0.9 + better)).location) / name
    inflict(path, damage)
    if what in DAMAGES:
        lease = {"host": "elsewhere", "pid": 1, "time": 1e9}
        (path.parent / LEASE).write_text(json.dumps(lease if SEEDS[what] % 2 else [lease]))
    return path.parent


@dataclass
class Reading:
    """What a reader said of a storage."""

    counted: set[str]
    """Ids of the trials that it takes for finished."""
    lines: list[str]
    """What it says is left out."""


def said(call: Callable[[], object]) -> list[str]:
    """What a call says on stderr, and nothing of a traceback."""
    with redirect_stderr(StringIO()) as err:
        call()
    assert "Traceback" not in err.getvalue()
    return [each.removeprefix("left out: ") for each in err.getvalue().splitlines()]


def options(storage: Path, **given: Any) -> SweepOptions:
    return SweepOptions(
        storage=str(storage), base_lrs=("0.03",), seeds=tuple(SEEDS.values()), preset="mini", quiet=True, **given
    )


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each kind."""
    storage = with_mlflow_tables(tmp_path_factory.mktemp("results"))
    for what in SEEDS:
        leave(storage, what)
    entries = {trial(what).trial_id: Membership("cell", {"cell": "cell"}) for what in SEEDS}
    Catalogue(Storage(storage), "sweep").add(entries)
    return storage


def _of_session(storage: Path, **given: Any) -> Reading:
    asked = options(storage, **given) if not given else SweepOptions(**given | {"storage": str(storage)})
    session = Session("sweep", [CELL], asked, Execution(), lambda _: None)
    lines = said(lambda: asked.say_left_out(session.left_out.values()))
    return Reading(session.trials.keys() - {each.trial_id for each in session.pending}, lines)


def _of_plan(storage: Path) -> Reading:
    with redirect_stdout(StringIO()) as out:
        lines = said(lambda: run_sweep("sweep", [CELL], options(storage, plan=True), Execution()))
    assert f"{len(SEEDS)} trials, {len(WHOLE)} of them done" in out.getvalue()
    return Reading(whole(), lines)


def whole() -> set[str]:
    return {trial(what).trial_id for what in WHOLE}


def _of_report(storage: Path) -> Reading:
    lines = said(lambda: report(storage=str(storage)))
    (cell,) = json.loads((storage / "report" / "table.json").read_text())
    assert cell["accuracy"] == pytest.approx(0.9)
    assert cell["num_finished"] == len(WHOLE)
    page = (storage / "report" / "report.md").read_text().replace("\\", "")
    for what in DAMAGES:
        assert page.count(f"runs/{trial(what).trial_id}/") == 1
    return Reading(whole(), lines)


def _of_watch(storage: Path) -> Reading:
    standing = FolderWatch(str(storage)).read()
    lines = [each.removeprefix("left out: ") for each in standing.complaints]
    return Reading({each.trial_id for each in standing.trials if each.status == "finished"}, lines)


def _of_sync(storage: Path) -> Reading:
    from mlflow import MlflowClient

    from vit_trainer.tracking.sync import sync

    uri = Storage(storage).tracking_uri
    synced = sync(Storage(storage), uri)
    client = MlflowClient(uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    (cell,) = [run for run in runs if "cell_run" in run.data.tags]
    assert cell.data.metrics["test/accuracy"] == pytest.approx(0.9)
    ids = {run.data.tags["trial_id"] for run in runs if run is not cell}
    return Reading(ids, synced.left_out)


def _of_seeds(storage: Path) -> Reading:
    asked = RepeatOptions(storage=str(storage))
    lines = said(lambda: asked.explained([CELL]))
    assert said(lambda: asked.explained([CELL])) == []
    return Reading({each.trial_id for each in asked._finished}, lines)


READERS: dict[str, Callable[[Path], Reading]] = {
    "session": _of_session,
    "search": lambda storage: _of_session(storage, search="optuna", seeds=(0,), num_trials=1),
    "plan": _of_plan,
    "report": _of_report,
    "watch": _of_watch,
    "sync": _of_sync,
    "seeds": _of_seeds,
}


@pytest.fixture(scope="module")
def readings(storage: Path) -> dict[str, Reading]:
    """What each reader said; all have read the same storage, and left it as it was."""
    before = content(storage / "runs")
    found = {name: read(storage) for name, read in READERS.items()}
    files = EventFiles(storage / "tensorboard")
    for what in SEEDS:
        files.update(Storage(storage).run_dir(trial(what).trial_id))
    files.close()
    assert {path.parent.name for path in (storage / "tensorboard").rglob("events*")} == whole()
    assert left_states(Storage(storage)) == []
    assert content(storage / "runs") == before
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", DAMAGES)
def test_each_reader_names_what_is_damaged_once_and_counts_none_of_it(
    readings: dict[str, Reading], reader: str, what: str
) -> None:
    reading, trial_id, (name, _, reason) = readings[reader], trial(what).trial_id, DAMAGES[what]
    (said_of_it,) = [each for each in reading.lines if f"runs/{trial_id}/" in each]
    assert said_of_it.startswith(f"runs/{trial_id}/{name} is damaged: {reason}")
    assert "\n" not in said_of_it
    assert trial_id not in reading.counted
    assert said_of_it in readings["session"].lines


@pytest.mark.parametrize("reader", READERS)
def test_what_is_whole_is_counted_by_each_reader(readings: dict[str, Reading], reader: str) -> None:
    own = {trial("nothing").trial_id} & whole() if reader != "search" else set()
    assert own <= readings[reader].counted <= whole()
    if reader != "search":  # which counts one seed alone
        assert readings[reader].counted == whole()
    assert len(readings[reader].lines) == len(DAMAGES)


def test_what_cannot_be_read_is_named_and_never_run_again(tmp_path: Path) -> None:
    path = leave(tmp_path, "nothing") / RESULT
    path.unlink()
    path.symlink_to(path)  # refused to root too
    reason = f"runs/{path.parent.name} cannot be read (Too many levels of symbolic links)"
    assert FolderWatch(str(tmp_path)).read().complaints == (f"left out: {reason}",)
    assert said(lambda: report(storage=str(tmp_path))) == [reason]
    for read in (_of_session, _of_plan):
        with pytest.raises(InputError, match=re.escape(reason) + ": make it readable, or move it away"):
            read(tmp_path)


@pytest.mark.parametrize("damage", ["torn", "deep", "other words", "another program's", "a folder"])
def test_a_damaged_log_of_optuna_is_set_aside_and_made_anew(tmp_path: Path, damage: str) -> None:
    for rate in (0.01, 0.003):
        config = Trial(CELL, rate, 0).config
        write_run(tmp_path, config, *finished(config, 0.9, 0.9))
    asked = SweepOptions(storage=str(tmp_path), search="optuna", num_trials=2, quiet=True)
    log = tmp_path / "optuna.log"
    assert Session("sweep", [CELL], asked, Execution(), lambda _: None).num_done == 2
    whole = log.read_bytes()
    damaged = {
        "torn": whole[:-20],
        "deep": whole + b"[" * 100_000 + b"\n",
        "other words": whole.replace(b'"seed"', b'"sown"'),
        "another program's": b'{"op_code": 0}\n',
    }
    log.unlink()
    if damage in damaged:
        log.write_bytes(damaged[damage])
    else:
        log.mkdir()
    sessions = []
    (line,) = said(lambda: sessions.append(Session("sweep", [CELL], asked, Execution(), lambda _: None)))
    kept = "it is kept as optuna.log.damaged-1, and made anew from the run folders"
    assert line == f"optuna.log is damaged or no journal of Optuna's: {kept}"
    assert (sessions[0].num_done, sessions[0].ask(Resources((0,), (1,)))) == (2, None)
    aside = tmp_path / "optuna.log.damaged-1"
    assert aside.is_dir() if damage == "a folder" else aside.read_bytes().startswith(damaged[damage])


def test_a_search_asks_for_a_damaged_trial_again(tmp_path: Path) -> None:
    asked = SweepOptions(storage=str(tmp_path), search="optuna", num_trials=2, quiet=True)

    def begun() -> Session:
        return Session("sweep", [CELL], asked, Execution(), lambda _: None)

    trials = [Trial(CELL, rate, 0) for rate in (0.01, 0.003)]
    first, second = (write_run(tmp_path, each.config, *finished(each.config, 0.9, 0.9)) for each in trials)
    assert (begun().num_done, begun().ask(Resources((0,), (1,)))) == (2, None)
    first.folder.write(RESULT, b"[]")
    session = begun()
    assert [each.trial_id for each in session.pending] == [first.trial_id]
    leg = session.ask(Resources((0,), (1,)))
    assert leg is not None
    assert leg.trial.trial_id == first.trial_id
    assert session.run_dir(second.trial_id).result() is not None


def test_a_rehearsal_with_damage_is_not_over(tmp_path: Path) -> None:
    asked = SweepOptions(storage=str(tmp_path), early_stopping="rehearsal", base_lrs=("0.03", "0.01"), keep=1)
    rehearsal = Rehearsal("sweep", [CELL], asked)
    paths = [write_run(tmp_path, each.config, *finished(each.config, 0.9, 0.9)) for each in rehearsal.trials]
    assert rehearsal.is_over
    paths[0].folder.write(RESULT, b"[]")
    assert not rehearsal.is_over
    assert rehearsal.accuracies(CELL) == {0.03: None, 0.01: 0.9}


def zeroed(content: bytes) -> bytes:
    """With zeros where a power cut may leave them."""
    middle = len(content) // 2
    return content[:middle] + bytes(40) + content[middle + 40 :]


MUTATIONS: list[tuple[str, Damage]] = [
    (RESULT, zeroed),
    (RESULT, b"gone"),
    (JOURNAL, lambda content: content.replace(b'"step": 10,', b'"step": "ten",')),
    (JOURNAL, b"folder"),
    (CONFIG, values(base_lr=0.5)),
]
"""Each for a trial of its own."""
OF_SWEEPS: dict[str, Damage] = {
    "commands.jsonl": lambda content: content + b'3\n{"cells": [{"model": "ViT-X"}]}\n',
    "slots.jsonl": zeroed,
    "tracking.json": b"[1",
    "../../probes.json": b"folder",
    "../../mlflow.db": lambda content: content[:5000],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_runs_what_is_damaged_anew_and_overwrites_nothing(tmp_path: Path, two_slots: str, start: Start) -> None:
    rates = [f"{0.001 * (i + 1):g}" for i in range(len(MUTATIONS) + 1)]
    flags = ["--base-lrs", *rates, "--checkpoint-every-minutes", "10"]
    code, first, err = start(tmp_path, *flags, address=two_slots).finish()
    assert code == 0, err
    before = numbers(tmp_path)
    whole, *folders = (tmp_path / "runs" / name for name in before)
    for folder, (name, damage) in zip(folders, MUTATIONS, strict=True):
        inflict(folder / name, damage)
    of_sweep = tmp_path / "sweeps" / "paper_grid-mini"
    for name, damage in OF_SWEEPS.items():
        inflict(of_sweep / name, damage)
    damaged = {folder: content(folder) for folder in (whole, *folders)}
    code, out, err = start(tmp_path, *flags, address=two_slots).finish()
    assert code == 0, err
    assert "6 trials, 1 of them done" in out
    assert "; 4 of the others are damaged and run anew, what is there is kept" in out
    said = [line.removeprefix("left out: ") for line in err.splitlines() if line.startswith("left out: ")]
    own = zip(folders, MUTATIONS, strict=True)
    files = [f"runs/{folder.name}/{name} is damaged" for folder, (name, damage) in own if damage != b"gone"]
    files += [f"sweeps/paper_grid-mini/{name}" for name in list(OF_SWEEPS)[:3]]
    assert sorted(line.partition(":")[0] for line in said) == sorted(files)
    assert f"{tmp_path}/mlflow.db, for it is damaged" in err
    assert "Traceback" not in err
    assert numbers(tmp_path) == before
    assert table_in(out) == table_in(first)
    assert content(whole) == damaged[whole]
    for folder, (name, damage) in zip(folders, MUTATIONS, strict=True):
        kept = folder / "damaged-1" / name
        if damage == b"folder":
            assert kept.is_dir()
        elif damage != b"gone":
            assert kept.read_bytes() == damaged[folder][name]


def table_in(out: str) -> list[str]:
    """The line with the cell's number."""
    return [line for line in out.splitlines() if line.startswith("ViT-B_32-mini ")]


def inflict(path: Path, damage: Damage) -> None:
    was = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if damage == b"folder":
        path.mkdir()
    elif damage != b"gone":
        path.write_bytes(damage if isinstance(damage, bytes) else damage(was))
