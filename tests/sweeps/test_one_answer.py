"""Whoever shows a cell shows the same candidate, accuracy and number of seeds, read here from what they wrote.

Cells are filled at random with finished, stopped, failed and unfinished trials, as real run folders. What is expected
is found here, in whole numbers of images; what is read are tables in a terminal, table.json, report.html, MLflow's REST
interface and the words of seeds.py.
"""

import io
import json
import random
import re
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeps.display.from_folders import FolderWatch
from sweeps.display.live_table import Screen
from sweeps.options import SweepOptions
from sweeps.selection.repeats import RepeatOptions
from sweeps.sweep import run_sweep
from sweeps.table.cells import PAPER, Cell, Trial, cells_of, name_of_cell
from sweeps.tracking.to_mlflow import SweepShipper
from tests.stores import MlflowServer
from tests.sweeps.storages import finished, write_run
from vit_trainer.config import Execution
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.sync import sync

RATES, SEEDS, NUM_IMAGES = (0.003, 0.01, 0.03), (0, 1, 2), 10_000
STOPPED_RATE = 0.06
"""What the last command of each storage was about: early stopping ended it in every cell."""
CELLS = [cell for cell in cells_of(PAPER) if cell.dataset != "imagenet2012"]
Drawn = dict[Cell, dict[float, dict[int, tuple[str, int, int]]]]
"""(status, right validation images, right test images of NUM_IMAGES) by cell, learning rate and seed."""
Answer = tuple[float | None, str, int]
"""Learning rate of the chosen candidate, its accuracy in percent with two decimals, and its number of seeds."""
NOTHING: Answer = (None, "-", 0)


@contextmanager
def begun_early() -> Iterator[MlflowServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = MlflowServer(Path(folder))
        server.launch()
        try:
            yield server
        finally:
            server.kill()


# What is drawn, and what should come of it.


def draw(chance: random.Random, cells: list[Cell], before: Drawn) -> Drawn:
    """Few values on the validation images, so that means are often equal; what had finished before stays."""
    drawn: Drawn = {cell: {rate: {} for rate in RATES} for cell in cells}
    for cell in cells:
        weights = chance.choice(((6, 1, 1, 1, 1), (2, 1, 1, 1, 3), (1, 3, 1, 1, 4)))
        for rate in RATES:
            for seed in SEEDS:
                (status,) = chance.choices(("finished", "stopped", "failed", "unfinished", "not begun"), weights)
                known = before[cell][rate][seed] if before else ("not begun", 0, 0)
                new = (status, chance.randint(9_700, 9_703), 6 * chance.randint(1_600, 1_650))
                drawn[cell][rate][seed] = known if known[0] == "finished" or status == "not begun" else new
    return drawn


def expected(rates: Mapping[float, Mapping[int, tuple[str, int, int]]]) -> Answer:
    """By trying whom each seed would compare, and adding up what is right on all seeds that these share."""
    right = {
        rate: {seed: (validation, test) for seed, (status, validation, test) in own.items() if status == "finished"}
        for rate, own in rates.items()
    }
    rivals = [[rate for rate in RATES if seed in right[rate]] for seed in SEEDS]
    compared = next((each for size in (3, 2, 1) for each in rivals if len(each) == size), [])
    if not compared:
        return NOTHING
    shared = [seed for seed in SEEDS if all(seed in right[rate] for rate in compared)]
    sums = [sum(right[rate][seed][0] for seed in shared) for rate in compared]
    best = compared[sums.index(max(sums))]
    tests = [test for _, test in right[best].values()]
    return best, f"{100 * sum(tests) / len(tests) / NUM_IMAGES:.2f}", len(tests)


def write(storage: Path, drawn: Drawn) -> None:
    """The run folders, those of a former draw written anew."""
    for cell, rates in drawn.items():
        for rate, seeds in {**rates, STOPPED_RATE: {0: ("stopped", 0, 0)}}.items():
            for seed, (status, validation, test) in seeds.items():
                config = Trial(cell, rate, seed).config
                curve, result = finished(config, validation / NUM_IMAGES, test / NUM_IMAGES)
                if status in ("stopped", "failed"):  # better than whatever finished, as far as it came
                    curve, result = [(500, 0.999)], {"status": status, "cause": "drawn", "val/accuracy": 0.999}
                if status == "unfinished":
                    curve, result = [(500, 0.999)], {}
                if status != "not begun":
                    write_run(storage, config, curve, result or None)


# What is read.


def by_place(lines: list[list[str]], columns: list[tuple[str, str]]) -> dict[Cell, str]:
    """The texts of a table with a model in each row and (data set, dropout) in each column.

    Args:
        lines: the parts of each; the first is empty but where a row begins.
    """
    cells = {(cell.model, cell.dataset, f"dropout {cell.dropout:g}"): cell for cell in CELLS}
    texts: dict[Cell, str] = {}
    model = ""
    for label, *parts in lines:
        model = label or model
        for column, part in zip(columns, parts, strict=True):
            if part:
                cell = cells[(model, *column)]
                texts[cell] = f"{texts[cell]}\n{part}" if cell in texts else part
    return texts


def in_screen(lines: list[str]) -> dict[Cell, str]:
    """The text of each cell of a table in a terminal, from the line with its data sets on."""
    datasets, dropouts, _, *rest = lines
    starts = [0, *(place.start() for place in re.finditer(r"\S+", datasets)), None]

    def parts(line: str) -> list[str]:
        return [line[start:end].strip() for start, end in pairwise(starts)]

    return by_place([parts(line) for line in rest], list(zip(parts(datasets)[1:], parts(dropouts)[1:], strict=True)))


def in_terminal(output: str) -> dict[Cell, Answer]:
    """From the table that a command ends with."""
    lines = output.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("model "))
    end = next(i for i, line in enumerate(lines) if line.startswith("test accuracy, %"))
    answers = {}
    for cell, text in in_screen(lines[first - 1 : end]).items():
        found = re.match(r"(\d+\.\d\d)[*★]*(?:\s±\d+\.\d\d x(\d+))?(?:\s.*)?\slr(\S+)(?:\s\S+)?$", text)
        answers[cell] = (float(found[3]), found[1], int(found[2] or 1)) if found else NOTHING
        assert found or text in ("-", "failed")
    return answers


def while_watched(storage: Path) -> dict[Cell, Answer]:
    """From the table of watch.py, which may say nothing of a cell of which nothing is finished."""
    console = Console(file=io.StringIO(), width=400, record=True)
    console.print(Screen(FolderWatch(str(storage)).read()))
    lines = console.export_text().splitlines()
    texts = in_screen(lines[: next(i for i, line in enumerate(lines) if line.startswith("running:"))])
    found = {cell: re.match(r"(\d+\.\d\d)\*? .*\blr(\S+)(?: x(\d+))?", text) for cell, text in texts.items()}
    return {cell: (float(match[2]), match[1], int(match[3] or 1)) for cell, match in found.items() if match}


class Tables(HTMLParser):
    """The texts of a page's tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._is_open = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._is_open = True
        elif tag == "br":
            self.handle_data("\n")

    def handle_endtag(self, tag: str) -> None:
        self._is_open = self._is_open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_open:
            self.tables[-1][-1][-1] += data


def in_html(page: str) -> dict[Cell, Answer]:
    """From report.html, cell by cell."""
    names = {f"{cell.model}, {cell.dataset}, dropout {cell.dropout:g}": cell for cell in CELLS}
    (table,) = (table for table in Tables(page).tables if {"accuracy", "candidates"} <= set(table[0]))
    (rate,) = (i for i, text in enumerate(table[0]) if text.split() == ["chosen", "base_lr"])
    accuracy = table[0].index("accuracy")
    rows = {names[row[0].strip()]: row for row in table[1:]}
    chosen = {cell: row[rate].split() for cell, row in rows.items()}  # 0.003, or 0.003 2 seeds
    return {
        cell: (float(words[0]), rows[cell][accuracy].split()[0], int((words[1:] or ["1"])[0])) if words else NOTHING
        for cell, words in chosen.items()
    }


def in_json(content: str) -> dict[Cell, Answer]:
    """From table.json."""
    cells = {name_of_cell(cell): cell for cell in CELLS}
    return {
        cells[row["cell"]]: (row["chosen_base_lr"], f"{100 * row['accuracy']:.2f}", row["num_seeds"])
        if row["num_seeds"]
        else NOTHING
        for row in json.loads(content)
    }


def in_mlflow(address: str, experiment: str) -> dict[Cell, Answer]:
    """From what MLflow's server says of the runs of cells, and of the trial that each names."""
    found = ask(address, f"experiments/get-by-name?experiment_name={experiment}")["experiment"]
    query = {"experiment_ids": [found["experiment_id"]], "max_results": 5_000}
    runs = [
        {
            kind: {each["key"]: each["value"] for each in run["data"].get(kind, [])}
            for kind in ("tags", "params", "metrics")
        }
        for run in ask(address, "runs/search", query)["runs"]
    ]
    rates = {run["tags"]["trial_id"]: float(run["params"]["base_lr"]) for run in runs if "trial_id" in run["tags"]}
    cells = {cell.name: cell for cell in CELLS}
    answers = {}
    for run in runs:
        if "cell_run" in run["tags"]:
            metrics = run["metrics"]
            answers[cells[run["tags"]["cell_run"]]] = (
                (rates[run["tags"]["best_trial"]], f"{100 * metrics['test/accuracy']:.2f}", int(metrics["num_seeds"]))
                if "num_seeds" in metrics
                else NOTHING
            )
    return answers


def ask(address: str, call: str, content: Mapping[str, Any] | None = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{call}", data, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())


def asked_for_seeds(storage: Path, cells: list[Cell]) -> dict[Cell, float | None]:
    """The learning rates that seeds.py would repeat first; None where it has nothing to go by."""
    lines = RepeatOptions(storage=str(storage)).explained(cells)
    found = [re.search(r": base_lr ([\d.]+),.* the best of \d+ that finished", line) for line in lines]
    return {cell: float(match[1]) if match else None for cell, match in zip(cells, found, strict=True)}


# The property.


def check(
    storage: Path, server: MlflowServer, cells: list[Cell], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Draws twice: what had not finished the first time may have come to something else the second time."""
    server.wait()
    ask(server.address, "experiments/search?max_results=1")  # its first answer takes seconds
    name, chance = f"drawn-{seed}", random.Random(seed)
    options = SweepOptions(storage=str(storage), tracking_uri=server.address, base_lrs=(str(STOPPED_RATE),), seeds=(0,))
    drawn: Drawn = {}
    for _ in range(2):
        drawn = draw(chance, cells, drawn)
        write(storage, drawn)
        shipper = SweepShipper(name, options)  # an earlier command's
        trials = [Trial(cell, rate, seed) for cell in cells for rate in RATES for seed in SEEDS]
        shipper.ship_all(chance.sample(trials, len(trials)))
        shipper.close(Storage(storage).report(name))
        assert run_sweep(name, cells, options, Execution()) == 0
        answers = {cell: expected(rates) for cell, rates in drawn.items()}
        report = storage / "sweeps" / name / "report"
        assert in_json((report / "table.json").read_text()) == answers
        assert in_html((report / "report.html").read_text()) == answers
        output, errors = capsys.readouterr()
        assert in_terminal(output) == answers
        if "did not get everything" in errors:  # a machine with much else to do: the rest goes as that line says
            sync(Storage(storage), server.address)
        assert in_mlflow(server.address, name) == answers
        assert while_watched(storage) == {cell: answer for cell, answer in answers.items() if answer != NOTHING}
        assert asked_for_seeds(storage, cells) == {cell: rate for cell, (rate, _, _) in answers.items()}


@pytest.mark.parametrize("seed", range(1))
def test_everyone_shows_the_same(
    tmp_path: Path, begun: MlflowServer, seed: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    check(tmp_path, begun, CELLS[:3], seed, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_everyone_shows_the_same_of_many(
    tmp_path: Path, begun: MlflowServer, seed: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    check(tmp_path, begun, CELLS, seed, capsys)
