"""The checker that lies in a bundle: what is untouched holds, and what is tampered with, with new hashes, is found."""

import ast
import csv
import hashlib
import io
import json
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.bundle.merge import merge
from sweeps.bundle.pack import pack
from sweeps.planning.halving import Halving
from sweeps.records.commands import record_command
from sweeps.records.decisions import Decision, record_decision
from sweeps.records.unpacked import root_of
from sweeps.reporting.write import _csv
from sweeps.selection.asha_rule import Rungs
from sweeps.selection.promotion import Race
from sweeps.table.cells import Trial, official_cell
from sweeps.table.published import PUBLISHED, is_published
from sweeps.table.verdict import MARGINS
from tests.sweeps.storages import ATTEMPT
from vit_trainer.files.predictions import NUM_KEPT, Predictions
from vit_trainer.files.run_dir import PREDICTIONS, RunDir
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.catalogue import Catalogue, Membership

CHECKER = Path(__file__).parents[3] / "sweeps" / "bundle" / "check_evidence.py"
SWEEP, NUM_IMAGES, START = "paper_grid", 1000, 1.7e9
Files = dict[str, bytes]


class Made:
    """A storage with times, hours, holds and decisions that go together, as sweeps leave it."""

    def __init__(self, path: Path) -> None:
        self.storage, self.now = Storage(str(path)), START

    def run(
        self, trial: Trial, curve: dict[int, float], end: str | None, num_correct: int = 0, cause: str | None = None
    ) -> None:
        """One trial's folder, its hold, and predictions if it finished."""
        config = trial.config
        run_dir = RunDir(Path(self.storage.location) / "runs" / config.trial_id)
        run_dir.open_for_writing(config.to_dict())
        environment = run_dir.write_environment({"packages": {"torch": "2.7.0"}})
        lines: list[dict[str, Any]] = [
            ATTEMPT | {"micro_batch_size": 64, "from_seconds": 0.0, "environment": environment, "time": self.now}
        ]
        since = self.now
        self._slots(config.trial_id, 1)
        for step, value in curve.items():
            self.now = since + step
            hours = {"runtime_hours": step / 3600, "gpu_hours": step / 3600}
            lines.append({"time": self.now, "step": step, "val/accuracy": value, "train/loss": 1.0, **hours})
        if end is not None:
            step = max(curve, default=0)
            result = {"status": end, "step": step, "runtime_hours": step / 3600, "gpu_hours": step / 3600}
            result |= {"val/accuracy": curve[step]} if curve else {}
            result |= {"test/accuracy": num_correct / NUM_IMAGES} if end == "finished" else {}
            if end == "failed":  # between rows
                result = {"status": end, "step": step + 50}
            run_dir.write_result(result | ({"cause": cause} if cause else {}))
        self.now += 10
        self._slots(config.trial_id, 0)
        run_dir.close()
        run_dir.folder.write("journal.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
        if end == "finished":
            run_dir.folder.write(PREDICTIONS, _predictions(num_correct).to_bytes())

    def _slots(self, trial_id: str, num: int) -> None:
        line = {"time": self.now, "trial": trial_id, "slots": num}
        self.storage.sweep(SWEEP).append("slots.jsonl", (json.dumps(line) + "\n").encode())
        self.now += 100 * (not num)

    def race(self, trials: list[Trial], curves: dict[Trial, dict[int, float]], num_correct: dict[Trial, int]) -> None:
        """A cell's candidates, as the sweep's own rule has them go on and stop."""
        race = Race(trials[0].cell.name, trials, Halving(), is_published)
        while not race.is_done:
            leg = race.legs[0]
            for step, value in curves[leg.trial].items():
                race.reported(leg.trial, {"step": step, "val/accuracy": value})
                if leg.until is not None and step >= leg.until:
                    break
            if leg.until is None:
                race.ended(leg.trial, "finished")
        going_on = {d.trial_id: d for d in race.decisions()}
        for decision in going_on.values():
            record_decision(self.storage, SWEEP, decision)
        for trial in trials:
            if race._statuses.get(trial) == "finished":
                self.run(trial, curves[trial], "finished", num_correct[trial])
                continue
            decision = going_on.get(trial.trial_id)
            cause = decision.rule if decision else "its learning rate was not among those that went on"
            first = dict(list(curves[trial].items())[:1]) if decision else {}
            self.run(trial, first, "stopped", cause=cause)
            if decision:
                record_decision(self.storage, SWEEP, Decision(**{**vars(decision), "action": "stops"}))
        entries = {
            trial.trial_id: Membership(trial.cell.name, {"cell": trial.cell.name}, 0.9, 0.03) for trial in trials
        }
        Catalogue(self.storage, SWEEP).add(entries)


def _predictions(num_correct: int) -> Predictions:
    labels = (np.arange(NUM_IMAGES) % 10).astype(np.uint16)
    classes = (labels[:, None] + np.arange(NUM_KEPT)) % 10
    classes[num_correct:] = np.roll(classes[num_correct:], 1, axis=1)
    names = np.array([f"{i:05}".encode() for i in range(NUM_IMAGES)])
    return Predictions(classes.astype(np.uint16), np.full(NUM_IMAGES, 0.9, np.float16), labels, names)


def curve_to(last: float, total: int) -> dict[int, float]:
    return {total * i // 4: round(last - 0.01 * (4 - i), 4) for i in range(1, 5)}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Two cells with figures: several seeds and stopped ones by a race; one by ASHA; one failed; one that waits."""
    made = Made(tmp_path_factory.mktemp("published"))
    first, second = official_cell("ViT-B_16", "cifar10"), official_cell("ViT-L_16", "cifar10", dropout=0.1)
    total = first.schedule.total_steps
    trials = [Trial(first, rate, seed) for rate in (0.03, 0.01, 0.003, 0.001) for seed in (0, 1)]
    curves = {t: curve_to(0.95 + t.base_lr + 0.001 * t.seed, total) for t in trials}
    right = {t: 990 - 10 * (t.base_lr < 0.02) - t.seed for t in trials}
    made.race(trials, curves, right)
    rungs = Rungs(second.name, total_steps=total, reduction_factor=2, grace_fraction=0.25)
    for rate in (0.03, 0.01, 0.003):
        trial, curve = Trial(second, rate, 0), curve_to(0.9 + rate, total)
        rungs.live |= {trial.trial_id, "another"}
        told: dict[int, float] = {}
        end, cause = "finished", None
        for step, value in curve.items():
            told[step] = value
            decision = rungs.decide(trial.trial_id, step, value)
            if decision is not None:
                record_decision(made.storage, SWEEP, decision)
                if decision.action == "stops":
                    end, cause = "stopped", decision.rule
                    break
        made.run(trial, told, end, 985, cause)
    made.run(Trial(second, 0.001, 0), {100: 0.5}, "failed", cause="a bug")
    made.run(Trial(second, 0.0003, 0), {100: 0.5}, None)
    record_command(made.storage, SWEEP, [first, second], [])
    made.storage.sweep(SWEEP).append("parity.jsonl", b'{"node": "node-1", "outcome": "30 of 30 rungs hold"}\n')
    return packed(made.storage, tmp_path_factory.mktemp("bundle") / "e.zip")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Cells without figures, as the miniature's grid leaves them."""
    made = Made(tmp_path_factory.mktemp("miniature"))
    for i, dataset in enumerate(("digits-even", "digits-odd")):
        cell = official_cell("ViT-B_16-mini", dataset)
        trials = [Trial(cell, rate, 0) for rate in (0.01, 0.003)]
        curves = {t: curve_to(0.9 + t.base_lr * (-1) ** i, cell.schedule.total_steps) for t in trials}
        made.race(trials, curves, dict.fromkeys(trials, 900 + i))
    return packed(made.storage, tmp_path_factory.mktemp("bundle") / "e.zip")


def packed(storage: Storage, path: Path) -> Files:
    pack(storage, path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(files: Files, path: Path, *, hashed: bool = True) -> Path:
    """A bundle of these files, with the manifest that goes with them."""
    if hashed:
        hashes = {n: hashlib.sha256(content).hexdigest() for n, content in files.items() if n != "manifest.json"}
        files = files | {"manifest.json": json.dumps({"format": 1, "files": hashes, "root": root_of(hashes)}).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def checked(bundle: Path) -> tuple[int, str]:
    """Exit code and output of the checker, called here."""
    said, argv = io.StringIO(), sys.argv
    sys.argv = [str(CHECKER), str(bundle)]
    try:
        with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as ended:
            runpy.run_path(str(CHECKER), run_name="__main__")
    finally:
        sys.argv = argv
    return int(ended.value.code or 0), said.getvalue()


def test_what_is_untouched_holds(published: Files, miniature: Files, tmp_path: Path) -> None:
    for files in (published, miniature):
        code, said = checked(written(files, tmp_path / "e.zip", hashed=False))
        assert code == 0, said
        assert ", 0 differs, 0 can't be checked" in said
    rules = [json.loads(line)["rule"] for line in published[f"sweeps/{SWEEP}/decisions.jsonl"].splitlines()]
    assert {rule[:4] for rule in rules} == {"rung", "ASHA"}
    table = json.loads(published["report/table.json"])
    assert [row["num_seeds"] for row in table] == [2, 1]
    assert all(row["verdict"] for row in table)
    assert [row["num_stopped"] + row["num_failed"] + row["num_unfinished"] for row in table] == [4, 4]


def test_a_rehearsals_decisions_cannot_be_checked(published: Files, tmp_path: Path) -> None:
    trial = path_of(published, f"{WAITS}/config.json").split("/")[1]
    line = {
        "trial_id": trial,
        "group": "cifar10",
        "rung": 500,
        "step": 500,
        "value": 0.5,
        "compared": [],
        "cutoff": None,
    }
    line |= {"action": "goes on", "rule": "rehearsal of 500 steps: val/accuracy 0.5 is the best"}
    files = published | {f"sweeps/rehearsal/{DECISIONS.rpartition('/')[2]}": (json.dumps(line) + "\n").encode()}
    code, said = checked(written(files, tmp_path / "e.zip"))
    assert (code, "all decisions are at rungs: can't be checked: 1 are" in said) == (0, True)


def test_train_alone_goes_on_after_a_sweep_and_a_kill_tears_a_line(published: Files, tmp_path: Path) -> None:
    name = path_of(published, f"{WAITS}/journal.jsonl")
    begun, row = (json.loads(line) for line in published[name].splitlines())
    again = begun | {"attempt": 2, "from_step": 100, "from_seconds": 100.0, "time": row["time"] + 50_000}
    lines = [begun, row, again, row | {"time": row["time"] + 50_001}]
    journal = "".join(json.dumps(line) + "\n" for line in lines) + '{"time": 17'
    storage = tmp_path / "results"
    for path, content in published.items():
        if path.startswith(("runs/", "sweeps/")):
            (storage / path).parent.mkdir(parents=True, exist_ok=True)
            (storage / path).write_bytes(journal.encode() if path == name else content)
    code, said = checked(written(packed(Storage(str(storage)), tmp_path / "e.zip"), tmp_path / "again.zip"))
    assert code == 0, said


@pytest.mark.slow
def test_what_a_second_site_decided_follows_from_its_own_journals(tmp_path: Path) -> None:
    cell, bundles = official_cell("ViT-B_16", "cifar10"), []
    for site, shift in enumerate((0.0, 0.0013)):
        made = Made(tmp_path / f"site{site}")
        trials = [Trial(cell, rate, seed) for rate in (0.03, 0.01, 0.003) for seed in (0, 1)]
        curves = {t: curve_to(0.95 + t.base_lr + 0.001 * t.seed + shift, cell.schedule.total_steps) for t in trials}
        made.race(trials, curves, {t: 990 - site - t.seed for t in trials})
        bundles.append(str(tmp_path / f"{site}.zip"))
        pack(made.storage, Path(bundles[-1]))
    merge(bundles, str(tmp_path / "merged"))
    files = packed(Storage(str(tmp_path / "merged")), tmp_path / "merged.zip")
    code, said = checked(tmp_path / "merged.zip")
    assert code == 0, said
    assert "8 decisions follow from journals: holds" in said
    in_json("repeats/*-lr0.03-s0-*/journal.jsonl", 1, "val/accuracy", to=0.5)(files)
    code, said = checked(written(files, tmp_path / "e.zip"))
    assert (code, "isn't its journal's" in said) == (1, True)


def test_it_needs_python_and_numpy_alone(published: Files, tmp_path: Path) -> None:
    assert len(CHECKER.read_text().splitlines()) < 400, "it is to be read in one sitting"
    imports = [
        node for node in ast.walk(ast.parse(CHECKER.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {
        name.partition(".")[0]
        for node in imports
        for name in ([each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert names <= {*sys.stdlib_module_names, "numpy"}
    bundle = written(published, tmp_path / "e.zip")
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    for arguments in ([str(CHECKER), str(bundle)], [str(folder / CHECKER.name)]):
        done = subprocess.run(
            [sys.executable, "-I", *arguments], check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_knows_the_published_figures_and_margins() -> None:
    known = runpy.run_path(str(CHECKER))
    assert known["MARGINS"] == MARGINS
    figures = b"".join(each.read_bytes() for each in sorted(PUBLISHED.glob("*.csv")))
    assert known["PUBLISHED"] == hashlib.sha256(figures).hexdigest(), (
        "write this into check_evidence.py: the figures have changed"
    )


# Tampering. Whoever does it writes a new manifest too, and a new list of files.

GOOD, OTHER, ASHA = (
    "runs/ViT-B_16-cifar10-d0-lr0.03-s0-*",
    "runs/ViT-B_16-cifar10-d0-lr0.03-s1-*",
    "runs/ViT-L_16*lr0.03-*",
)
STOPPED, FAILED, WAITS = "runs/ViT-B_16*lr0.003-s0-*", "runs/ViT-L_16*lr0.001-*", "runs/ViT-L_16*lr0.0003-*"
DECISIONS, SLOTS, TRACKING = (f"sweeps/{SWEEP}/{name}" for name in ("decisions.jsonl", "slots.jsonl", "tracking.json"))
TABLE, ROWS, TRIALS, FACTS = "report/table.json", "report/table.csv", "report/trials.csv", "facts.json"
PAGE, COMMANDS = "report/report.html", f"sweeps/{SWEEP}/commands.jsonl"
Change = Callable[[Files], None]


def path_of(files: Files, pattern: str) -> str:
    (found,) = (name for name in files if fnmatch(name, pattern))
    return found


def in_json(pattern: str, *places: str | int, to: Any) -> Change:
    """One value of a JSON file, or of one of its lines, is another; None: it is gone."""

    def change(files: Files) -> None:
        name = path_of(files, pattern)
        by_line = name.endswith(".jsonl")
        whole = [json.loads(line) for line in files[name].splitlines()] if by_line else json.loads(files[name])
        holder = whole
        for place in places[:-1]:
            holder = holder[place]
        if to is None:
            del holder[places[-1]]
        else:
            before = holder[places[-1]]
            holder[places[-1]] = to(before) if callable(to) else to
            assert holder[places[-1]] != before
        text = "".join(json.dumps(line) + "\n" for line in whole) if by_line else json.dumps(whole, indent=1)
        files[name] = text.encode()

    return change


def in_arrays(pattern: str, array: str, to: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(files: Files) -> None:
        name = path_of(files, pattern)
        kept = dict(np.load(io.BytesIO(files[name])))
        kept[array] = to(kept[array])
        content = io.BytesIO()
        np.savez_compressed(content, **kept)
        files[name] = content.getvalue()

    return change


def in_text(pattern: str, old: str, new: str, count: int = -1) -> Change:
    def change(files: Files) -> None:
        name = path_of(files, pattern)
        text = files[name].decode()
        assert old in text
        files[name] = text.replace(old, new, count).encode()

    return change


def everywhere(old: str, new: str, *, but: tuple[str, ...] = (), within: str = "*") -> Change:
    """A text is another in all files that say it."""

    def change(files: Files) -> None:
        for name in [name for name in files if fnmatch(name, within) and name not in but]:
            if old.encode() in files[name] and not name.endswith((".npz", ".png", ".py")):
                files[name] = files[name].replace(old.encode(), new.encode())

    return change


def without(*patterns: str) -> Change:
    def change(files: Files) -> None:
        for pattern in patterns:
            for name in [name for name in files if fnmatch(name, pattern)]:
                del files[name]

    return change


def swapped(one: str, other: str, *names: str) -> Change:
    def change(files: Files) -> None:
        for name in names:
            a, b = path_of(files, f"{one}/{name}"), path_of(files, f"{other}/{name}")
            files[a], files[b] = files[b], files[a]

    return change


def both(*changes: Change) -> Change:
    return lambda files: [change(files) for change in changes] and None


def without_lines(pattern: str, word: str) -> Change:
    def change(files: Files) -> None:
        name = path_of(files, pattern)
        kept = [line for line in files[name].splitlines(keepends=True) if word.encode() not in line]
        assert len(kept) < len(files[name].splitlines())
        files[name] = b"".join(kept)

    return change


def without_trial(pattern: str, *but: str) -> Change:
    """A trial is dropped with its traces, but in some files."""

    def change(files: Files) -> None:
        trial = path_of(files, f"{pattern}/config.json").split("/")[1]
        without(f"runs/{trial}/*")(files)
        for name in {DECISIONS, SLOTS, TRIALS} - set(but):
            without_lines(name, trial)(files) if trial.encode() in files[name] else None
        for name, key in ((FACTS, "begun"), (TRACKING, trial)):
            whole = json.loads(files[name])
            if name not in but:
                whole[key].remove(trial) if name == FACTS else whole.pop(key, None)
            files[name] = json.dumps(whole).encode()

    return change


def better(values: np.ndarray) -> np.ndarray:
    """Two more images right: of predictions, their first class is that of the labels."""
    values = values.copy()
    values[-2:, 0] = np.arange(NUM_IMAGES - 2, NUM_IMAGES) % 10
    return values


NEW_ACCURACY = both(
    in_json(f"{GOOD}/result.json", "test/accuracy", to=0.992),
    everywhere("0.99 0.989", "0.992 0.989", within="report/*"),
)
FIGURE = "published/official.csv"
TAMPERED: dict[str, tuple[Change, str]] = {
    # Runs.
    "an accuracy": (in_json(f"{GOOD}/result.json", "test/accuracy", to=0.992), "its result says 0.992"),
    "an accuracy, with the table": (NEW_ACCURACY, "its result says 0.992"),
    "an accuracy that is none": (in_json(f"{GOOD}/result.json", "test/accuracy", to="0.99"), "no number"),
    "an accuracy beyond 1": (in_json(f"{GOOD}/result.json", "test/accuracy", to=1.2), "no number"),
    "a validation accuracy": (in_json(f"{GOOD}/result.json", "val/accuracy", to=0.99), "journal's last row"),
    "a validation in result and journal": (
        both(
            in_json(f"{GOOD}/result.json", "val/accuracy", to=0.99),
            in_json(f"{GOOD}/journal.jsonl", 4, "val/accuracy", to=0.99),
        ),
        "choice of 2 cells: differs",
    ),
    "a prediction": (in_arrays(f"{GOOD}/predictions.npz", "classes", better), "0.992000 of its predictions"),
    "a label of predictions": (in_arrays(f"{GOOD}/predictions.npz", "labels", lambda v: (v + 1) % 10), "labels"),
    "a label of the test set": (in_arrays("labels/*", "labels", lambda v: np.append(v[1:], v[:1])), "labels"),
    "labels of all": (
        both(
            *(
                in_arrays(name, "labels", lambda v: np.append(v[1:], v[:1]))
                for name in ("labels/*", f"{GOOD}/predictions.npz")
            )
        ),
        "labels or images aren't those",
    ),
    "the order of images": (in_arrays("labels/*", "names", lambda v: v[::-1]), "images aren't those"),
    "half of the test set": (
        in_arrays(f"{GOOD}/predictions.npz", "labels", lambda v: v[:500]),
        "boolean index did not match",
    ),
    "images that count for none": (
        in_arrays(f"{GOOD}/predictions.npz", "labels", lambda v: np.where(np.arange(NUM_IMAGES) < 990, v, 65535)),
        "1.000000 of its predictions",
    ),
    "predictions": (without(f"{GOOD}/predictions.npz"), GOOD[5:-2]),
    "a config value": (in_json(f"{GOOD}/config.json", "resolution", to=224), "hash of its config: differs"),
    "a seed": (in_json(f"{GOOD}/config.json", "seed", to=7), "hash of its config: differs"),
    "a learning rate": (in_json(f"{GOOD}/config.json", "base_lr", to=0.02), "hash of its config: differs"),
    "seeds swapped": (swapped(GOOD, OTHER, "config.json"), "hash of its config: differs"),
    "results swapped": (swapped(GOOD, OTHER, "result.json"), "its predictions are right"),
    "results and predictions swapped": (swapped(GOOD, OTHER, "result.json", "predictions.npz"), "journal's last row"),
    "all but seeds swapped": (
        swapped(GOOD, OTHER, "result.json", "predictions.npz", "journal.jsonl"),
        "choice of 2 cells: differs",
    ),
    "a journal row": (in_json(f"{GOOD}/journal.jsonl", 1, "val/accuracy", to=0.99), "isn't its journal's"),
    "a journal's last row": (in_json(f"{GOOD}/journal.jsonl", 4, "val/accuracy", to=0.99), "journal's last row"),
    "a row that is gone": (in_json(f"{GOOD}/journal.jsonl", 4, to=None), "journal's last row"),
    "a row at a rung that is gone": (in_json(f"{GOOD}/journal.jsonl", 1, to=None), "isn't its journal's"),
    "a row's time": (in_json(f"{GOOD}/journal.jsonl", 1, "time", to=START - 1e6), "goes back in time"),
    "a row's wall time": (in_json(f"{GOOD}/journal.jsonl", 4, "runtime_hours", to=9.0), "longer than there was time"),
    "a result's hours": (in_json(f"{GOOD}/result.json", "gpu_hours", to=0.001), "journal's last row"),
    "a result's wall time": (
        in_json(f"{GOOD}/result.json", "runtime_hours", to=0.001),
        "counts and hours of 2 cells: differs",
    ),
    "a result's step": (in_json(f"{GOOD}/result.json", "step", to=5000), "journal's last row"),
    "an attempt's time": (in_json(f"{GOOD}/journal.jsonl", 0, "time", to=lambda v: v + 4000), "goes back in time"),
    "an attempt's weights": (
        in_json(f"{GOOD}/journal.jsonl", 0, "weights_sha256", to="cd" * 32),
        "that are named are here: differs",
    ),
    "an attempt's commit": (
        in_json(f"{GOOD}/journal.jsonl", 0, "commit", to="cd" * 20),
        "that are named are here: differs",
    ),
    "a journal that is gone": (without(f"{GOOD}/journal.jsonl"), "differs"),
    "a result that is gone": (without(f"{GOOD}/result.json"), "counts and hours of 2 cells: differs"),
    "a finished one that has failed": (
        in_json(f"{OTHER}/result.json", "status", to="failed"),
        "counts and hours of 2 cells: differs",
    ),
    "a stopped one that has failed": (
        in_json(f"{STOPPED}/result.json", "status", to="failed"),
        "counts and hours of 2 cells: differs",
    ),
    "a status that is none": (
        in_json(f"{GOOD}/result.json", "status", to="won"),
        "counts and hours of 2 cells: differs",
    ),
    "why one was stopped": (
        in_json(f"{STOPPED}/result.json", "cause", to="a bug"),
        "stopped by what was decided: differs",
    ),
    # What was decided and held.
    "a decision": (in_json(DECISIONS, 0, "action", to="stays paused"), "stays paused, with"),
    "a decision's value": (in_json(DECISIONS, 0, "value", to=0.9999), "isn't its journal's"),
    "a decision's trial": (in_json(DECISIONS, 2, "trial_id", to="ViT-B_16-none"), "ViT-B_16-none"),
    "what was compared": (in_json(DECISIONS, 0, "compared", 0, to=0.5), "compared with what no candidate had"),
    "a cutoff": (in_json(DECISIONS, 0, "cutoff", to=0.5), "its rule says else than its values"),
    "a cutoff of ASHA": (in_json(DECISIONS, -1, "cutoff", to=0.1), "its rule says else than its values"),
    "how many go on": (in_text(DECISIONS, "the best 2 go on", "the best 1 goes on"), "at 2500: "),
    "a rung": (in_json(DECISIONS, 0, "rung", to=5000), "differs"),
    "a group": (in_json(DECISIONS, 0, "group", to="another cell"), "differs"),
    "a decision that is gone": (without_lines(DECISIONS, "lr0.001-s0"), "compared with what no candidate had"),
    "all decisions": (without(DECISIONS), "stopped by what was decided: differs"),
    # Trials left out.
    "a failed trial": (without(f"{FAILED}/*"), "that are named are here: differs"),
    "a failed trial with its traces but slots": (without_trial(FAILED, SLOTS), "that are named are here: differs"),
    "a trial with its traces but plans": (without_trial(STOPPED, TRACKING), "that are named are here: differs"),
    "a trial with its traces but facts": (without_trial(WAITS, FACTS), "that are named are here: differs"),
    "a trial with its traces but decisions": (without_trial(STOPPED, DECISIONS), "that are named are here: differs"),
    "a failed trial with all its traces": (without_trial(FAILED), "counts and hours of 2 cells: differs"),
    "a trial that was put in": (
        lambda files: files.update(
            {f"runs/new/{n}": files[path_of(files, f"{WAITS}/{n}")] for n in ("config.json", "journal.jsonl")}
        ),
        "that are named are here: differs",
    ),
    # Figures, and the report.
    "a figure": (in_text(FIGURE, "0.9894", "0.9990"), "figures that this checker knows: differs"),
    "a published repeat": (
        in_text("published/replicates.csv", "0.9902", "0.9702"),
        "figures that this checker knows: differs",
    ),
    "a margin": (in_json(TABLE, 0, "margin", to=0.02), "verdicts of 2 cells: differs"),
    "a verdict": (in_json(TABLE, 1, "verdict", to="above"), "verdicts of 2 cells: differs"),
    "a difference": (in_json(TABLE, 0, "difference", to=0.0), "verdicts of 2 cells: differs"),
    "an interval": (in_json(TABLE, 0, "interval_95_low", to=0.0), "verdicts of 2 cells: differs"),
    "a joint verdict": (
        in_json(TABLE, 0, "differs_in_whole_table", to=lambda v: not v),
        "joint verdict of 2 cells: differs",
    ),
    "a published figure in the table": (in_json(TABLE, 0, "published_accuracy", to=0.9), "figures of 2 cells: differs"),
    "a mean": (in_json(TABLE, 0, "accuracy", to=0.99), "choice of 2 cells: differs"),
    "a choice": (in_json(TABLE, 0, "chosen_base_lr", to=0.01), "choice of 2 cells: differs"),
    "the name of a cell": (in_json(TABLE, 0, "cell", to="ViT-B_16/cifar10/0.1"), "choice of 2 cells: differs"),
    "a count": (in_json(TABLE, 1, "num_failed", to=0), "counts and hours of 2 cells: differs"),
    "hours": (in_json(TABLE, 0, "hours", to=0.5), "counts and hours of 2 cells: differs"),
    "hours saved": (in_json(TABLE, 0, "saved_hours", to=99.0), "counts and hours of 2 cells: differs"),
    "a row of the table": (in_json(TABLE, 1, to=None), "candidate of a row"),
    "a row twice": (in_json(TABLE, 1, to=lambda row: row | {"dropout": 0.0, "model": "ViT-B_16"}), "differs"),
    "a cell of table.csv": (in_text(ROWS, "0.9895", "0.9995"), "table.csv of 2 cells: differs"),
    "an accuracy in the report's page": (
        in_text(PAGE, "<b>98.95</b>", "<b>99.95</b>"),
        "report.html of 2 cells: differs",
    ),
    "an accuracy cell by cell": (in_text(PAGE, "<div>98.95", "<div>99.95"), "report.html of 2 cells: differs"),
    "accuracies swapped": (
        both(
            in_text(PAGE, "<b>98.95</b>", "<b>98.5</b>"),
            in_text(PAGE, "<div>98.95 ", "<div>98.50 "),
            in_text(PAGE, "<div>98.50</div>", "<div>98.95</div>"),
        ),
        "report.html of 2 cells: differs",
    ),
    "a verdict in the report's page": (
        in_text(PAGE, "<div>▼ below", "<div>✓ reproduced", 1),
        "report.html of 2 cells: differs",
    ),
    "a row of the report's page": (in_text(PAGE, 'data-label="accuracy"', "", 1), "report.html of 2 cells: differs"),
    # Facts, and the bundle itself.
    "the weights in facts": (in_text(FACTS, "ab" * 32, "cd" * 32), "that are named are here: differs"),
    "the trials in facts": (in_json(FACTS, "begun", 0, to=None), "that are named are here: differs"),
    "a package of an environment": (in_text("environments/*", "2.7.0", "2.8.0"), "hashes that they are called by"),
    "no JSON": (lambda files: files.update({TABLE: b"{"}), "check table: differs"),
    "no table": (without(TABLE), "check table: differs"),
    "no facts": (without(FACTS), "check runs: differs"),
    "no run at all": (without("runs/*"), "differs"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_is_tampered_with_is_found(name: str, published: Files, tmp_path: Path) -> None:
    change, said = TAMPERED[name]
    files = dict(published)
    change(files)
    assert files != published
    code, output = checked(written(files, tmp_path / "e.zip"))
    assert code in (1, 2), output
    assert said in output, output
    assert "Traceback" not in output


UNFOLLOWED: dict[str, tuple[Change, str]] = {
    "a row's step": (in_json(f"{GOOD}/journal.jsonl", 2, "step", to=7600), "rows but at rungs and the last"),
    "a row's accuracy": (in_json(f"{GOOD}/journal.jsonl", 2, "val/accuracy", to=0.1), "rows but at rungs and the last"),
    "a row's hours": (in_json(f"{GOOD}/journal.jsonl", 2, "gpu_hours", to=0.01), "rows but at rungs and the last"),
    "a loss": (in_json(f"{GOOD}/journal.jsonl", 4, "train/loss", to=0.01), "losses"),
    "an attempt's number": (in_json(f"{GOOD}/journal.jsonl", 0, "attempt", to=2), "attempts"),
    "an attempt's first step": (in_json(f"{GOOD}/journal.jsonl", 0, "from_step", to=5000), "attempts"),
    "an attempt's processes": (in_json(f"{GOOD}/journal.jsonl", 0, "num_processes", to=3), "attempts"),
    "an attempt that is gone": (in_json(f"{GOOD}/journal.jsonl", 0, to=None), "attempts"),
    "how long slots were held": (in_json(SLOTS, 1, "time", to=lambda v: v - 500), "slots"),
    "how many slots were held": (in_json(SLOTS, 0, "slots", to=2), "slots"),
    "billed hours": (in_json(TABLE, 0, "billed_hours", to=0.0), "billed"),
    "how many seeds would decide": (in_json(TABLE, 0, "more_seeds_needed", to=7), "seeds needed"),
    "a deviation": (in_json(FACTS, "deviations", 0, to="None."), "words"),
    "a note of a page": (in_text(PAGE, "Written", "Not written"), "pages"),
    "a cell of trials.csv": (in_text(TRIALS, "finished", "failed", 1), "trials.csv"),
    "a row of trials.csv": (without_lines(TRIALS, "failed"), "trials.csv"),
    "a chart": (lambda files: files.update({path_of(files, "report/learning*.png"): b""}), "charts"),
}
"""What nothing follows from, and what the checker prints of it, always."""


@pytest.mark.parametrize("name", UNFOLLOWED)
def test_what_nothing_follows_from_is_said(name: str, published: Files, tmp_path: Path) -> None:
    change, said = UNFOLLOWED[name]
    files = dict(published)
    change(files)
    assert files != published
    if files[TABLE] != published[TABLE]:
        files[ROWS] = _csv(json.loads(files[TABLE])).encode()
    code, output = checked(written(files, tmp_path / "e.zip"))
    assert code == 0, "this is found: it goes to TAMPERED"
    assert said in " ".join(output[output.index("Out of reach: ") :].split())


OUT_OF_REACH = {
    "two seeds of one candidate swapped, the report written anew": "seeds are exchangeable",
    "a failed trial, with all its traces, the report written anew": "nothing is left that names it",
    "predictions that no model made, with labels, journal and report that agree": "it is what a better model leaves",
    "a finished trial that is called failed, in the report too": "it is what a fault in the last step leaves",
    "a planned trial that is said not to have begun": "an interrupted sweep leaves the same; it is printed by its name",
    "a cell that was asked for, with all trials": "an interrupted sweep leaves the same; it is printed by its name",
    "predictions left out, with what names the environment": "earlier versions kept none; it is printed by its name",
    "the checker in the bundle": "whoever takes it from the project is told that it is another",
}
"""What a consistent author can do, and why nothing in the bundle contradicts it."""


def test_what_is_out_of_reach_is_said_where_it_can_be(published: Files, tmp_path: Path) -> None:
    assert all(OUT_OF_REACH.values())
    trial = path_of(published, f"{FAILED}/config.json").split("/")[1]
    tracked = json.loads(published[TRACKING]) | {"a planned one": {}}
    facts = json.loads(published[FACTS])
    change: dict[str, tuple[Files, str]] = {
        "planned": (
            {
                TRACKING: json.dumps(tracked).encode(),
                FACTS: json.dumps(facts | {"not_here": ["a planned one"]}).encode(),
            },
            "can't be checked: not begun: ['a planned one']",
        ),
        "asked for": (
            {COMMANDS: published[COMMANDS].replace(b'"resolution": 384', b'"resolution": 224', 1)},
            "can't be checked: not begun: ['imagenet21k ViT-B_16 cifar10 224 10000']",
        ),
        "checker": ({CHECKER.name: b"print('1 holds')"}, "the checker in it is this one: can't be checked"),
    }
    for files, said in change.values():
        code, output = checked(written(published | files, tmp_path / "e.zip"))
        assert code == 0, output
        assert said in output
    files = dict(published)
    without_predictions = both(
        without(f"{GOOD}/predictions.npz"), in_json(f"{GOOD}/journal.jsonl", 0, "environment", to=None)
    )
    without_predictions(files)
    code, output = checked(written(files, tmp_path / "e.zip"))
    assert (code, "no predictions of ViT-B_16-cifar10-d0-lr0.03-s0" in output) == (0, True)
    assert trial not in output


UNCLAIMED = {
    "facts.json code.packed_by": "who packed it can't be seen from what was packed",
    "facts.json code.uncommitted_at_packing": "a diff, for reading",
    "facts.json datasets*": "data sets are elsewhere; test labels are compared",
    "facts.json checkpoints.*": "of which model's weights a hash is; that they were used",
    "facts.json deviations*": "words; the table has each cell's values",
    "facts.json left_out*": "what could not be read isn't here",
    "facts.json not_here*": "printed by name",
    "facts.json recipes*": "compared are published/official.csv",
    "table.json *": "see UNCLAIMED_COLUMNS",
    "trials.csv *": "for reading",
    "slots.jsonl *": "which trials held slots, not how many or how long",
    "journal.jsonl #*": "of attempts and of rows but the last and those at rungs: see UNFOLLOWED",
    "result.json step": "of failed ones, at which step between rows",
    "result.json cause": "of failed ones, in words",
    "result.json val/accuracy": "of stopped ones: their journals count at rungs",
    "result.json *_hours": "more than in the last row: of failed ones, and where not the larger",
    "commands.jsonl *": "what was asked for: printed if it isn't here",
    "decisions.jsonl #.group": "where nothing was compared",
    "decisions.jsonl #.rule": "words of ASHA's, beside values that are compared",
    "parity.jsonl *": "a comparison on their hardware",
    "tracking.json *.*": "how MLflow's runs are called and grouped",
}
"""Files and fields that may be others without a claim being so, and why."""
UNCLAIMED_COLUMNS = [
    "cause",
    "images_per_second",
    "input_wait_fraction",
    "mfu",
    "peak_memory_gib",
    "lost_hours",
    "billed_hours",
    "more_seeds_needed",
    "predicted_hours",
    "dollars",
    "command",
    "trial_command",
    "device",
    "official_accuracy",
    "paper_accuracy",
    "reimplementation_accuracy",
    "quoted_accuracy",
    "published_left_open",
    "published_base_lr_basis",
    "judged_num_stopped_seeds",
    "spread_runs",
    "published_wall_hours",
    "published_card",
]
"""Speeds and costs, words, and what others than the figure compared with have published."""
TEXTS = ("README.md", "ro-crate-metadata.json", "report/*.md", "report/*.html", "report/*.png")
"""Files for reading and for archives."""
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    0.5,
    10**400,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "text",
    "x\n\ud800\x1b",
    [],
    {},
]


def leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def parsed(name: str, content: bytes) -> Any:
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(content.decode())))
    return [json.loads(line) for line in content.splitlines()] if name.endswith(".jsonl") else json.loads(content)


def unparsed(name: str, values: Any) -> bytes:
    if name.endswith(".jsonl"):
        return "".join(json.dumps(line) + "\n" for line in values).encode()
    return (_csv(values) if name.endswith(".csv") else json.dumps(values)).encode(errors="backslashreplace")


def mutated(files: Files, name: str, place: int, value: Any) -> tuple[Files, str] | None:
    """One field of a file is another, what it says as a rule being said elsewhere too; and which field that is."""
    whole = parsed(name, files[name])
    places = [path for path in leaves(whole) if len(path) > 1 or not name.endswith(".csv")]
    *path, last = places[place % len(places)]
    holder = whole
    for key in path:
        holder = holder[key]
    before = holder[last]
    after = before + value if value == "x" and isinstance(before, str) else value
    after = before * 1.5 + 1 if value == "x" and isinstance(before, int | float) else after
    if after == before or not (after or before) or (name.endswith(".csv") and str(after) == before):
        return None
    holder[last] = after
    changed = {name: unparsed(name, whole)}
    if name == TABLE and all(isinstance(row, dict) for row in whole):
        changed[ROWS] = _csv(whole).encode(errors="backslashreplace")
    return files | changed, ".".join("#" if isinstance(key, int) else key for key in (*path, last))


def _is_unclaimed(name: str, field: str) -> bool:
    file, column = name.rpartition("/")[2], field.rpartition(".")[2]
    if file == "table.json":
        return column in UNCLAIMED_COLUMNS
    return any(fnmatch(f"{file} {field}", pattern) for pattern in UNCLAIMED)


def try_mutations(files: Files, folder: Path, examples: int) -> None:
    names = [name for name in files if name.endswith((".json", ".jsonl", ".csv"))]
    names = [name for name in names if not any(fnmatch(name, each) for each in TEXTS)]
    names = [name for name in names if name != "manifest.json"]

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(st.sampled_from(names), st.integers(0, 10_000), st.sampled_from([*VALUES, *["x"] * 10]))
    def mutate(name: str, place: int, value: Any) -> None:
        if (changed := mutated(files, name, place, value)) is None:
            return
        code, said = checked(written(changed[0], folder / "e.zip"))
        assert code in (0, 1, 2)
        assert "Traceback" not in said
        assert said.isascii()
        assert code or _is_unclaimed(name, changed[1]), (name, changed[1], value)

    mutate()


def test_any_field_that_is_another_is_found_or_carries_no_claim(published: Files, tmp_path: Path) -> None:
    try_mutations(published, tmp_path, 60)


@pytest.mark.slow
def test_many_more_fields(published: Files, tmp_path: Path) -> None:
    try_mutations(published, tmp_path, 1000)


@settings(derandomize=True, deadline=None, max_examples=30, database=None)
@given(st.data())
def test_any_damage_to_any_file_ends_without_a_traceback(published: Files, folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([each for each in published if not each.startswith("report/")]))
    content = published[name]
    place, size = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 50))
    damaged = content[:place] + data.draw(st.binary(max_size=20)) + content[place + size :]
    code, said = checked(written(published | {name: damaged}, folder / "e.zip", hashed=data.draw(st.booleans())))
    assert code in (0, 1, 2)
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def test_what_is_no_bundle_is_refused_in_one_line(published: Files, tmp_path: Path) -> None:
    bomb, twice, text = tmp_path / "bomb.zip", tmp_path / "twice.zip", tmp_path / "text.zip"
    text.write_text("no zip")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(33):
            archive.writestr(f"runs/{i}", bytes(2**20))
    whole = bomb.read_bytes()  # each says that it unpacks to 2 GiB
    bomb.write_bytes(whole.replace((2**20).to_bytes(4, "little"), (2**31 - 1).to_bytes(4, "little")))
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("manifest.json", published["manifest.json"])
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("manifest.json", published["manifest.json"])
    for path in (bomb, twice, text, tmp_path / "none"):
        code, said = checked(path)
        assert (code, said.count("\n"), "no bundle of evidence" in said) == (2, 1, True)
    zeros = io.BytesIO()
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("labels.npy", "w") as file:
        for _ in range(30):
            file.write(bytes(2**20))
    name = path_of(published, f"{GOOD}/predictions.npz")
    code, said = checked(written(published | {name: zeros.getvalue()}, tmp_path / "e.zip"))
    assert (code, "ViT-B_16-cifar10-d0-lr0.03-s0" in said) == (1, True)


def test_a_hash_with_and_without_its_file(published: Files, tmp_path: Path) -> None:
    name = path_of(published, f"{GOOD}/result.json")
    code, said = checked(written(published | {name: published[name] + b" "}, tmp_path / "e.zip", hashed=False))
    assert code == 1
    assert f"{name} was changed" in said
    manifest = json.loads(published["manifest.json"])
    manifest["files"][name] = hashlib.sha256(published[name] + b" ").hexdigest()
    changed = published | {name: published[name] + b" ", "manifest.json": json.dumps(manifest).encode()}
    code, said = checked(written(changed, tmp_path / "e.zip", hashed=False))
    assert (code, "the manifest has" in said) == (1, True)
