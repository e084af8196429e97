"""Reports of storages as sweeps leave them, with figures that the tests make up."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps.records.commands import record_command
from sweeps.records.decisions import Decision
from sweeps.records.parity import NodeParity, record_parity
from sweeps.records.results import gather
from sweeps.report import report
from sweeps.reporting.write import files_of, write_report
from sweeps.table.cells import PAPER, cells_of, name_of_cell
from sweeps.table.published import TABLES, figures_for, published_figures
from tests.sweeps.storages import ATTEMPT, finished, write_run
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.folder import open_folder
from vit_trainer.files.predictions import NO_CLASS, Predictions
from vit_trainer.files.run_dir import PREDICTIONS
from vit_trainer.files.storage import COMMANDS, DECISIONS, Storage

SCRIPT = Path(__file__).parents[3] / "sweeps" / "report.py"
IS_CUT = "element => element.scrollWidth > element.clientWidth"
PUBLISHED = 0.9902
"""ViT-B_16 on cifar10 with dropout 0.0, in the official table."""
SPEEDS = {"images_per_second": 1049.6, "mfu": 0.3532, "peak_memory_gib": 25.46, "input_wait_fraction": 0.0034}


def config(base_lr: float = 0.03, **values: object) -> FinetuneConfig:
    return FinetuneConfig.official("ViT-B_16", "cifar10", base_lr=base_lr, **values)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two cells: one with a chosen, a stopped and a failed candidate, one that isn't done; and what is none of ours."""
    storage = tmp_path / "results"
    write_run(storage, config(0.01), *finished(config(0.01), 0.985, PUBLISHED + 0.0002), speeds=SPEEDS)
    write_run(storage, config(0.03), *finished(config(0.03), 0.980, 0.9999))  # better on test, which must not count
    stopped = config(0.003)
    rule = "ASHA at step 2500: val/accuracy 0.5000 is below the cutoff 0.9000 of 0.9000"
    write_run(storage, stopped, [(2500, 0.5)], {"status": "stopped", "cause": rule, "val/accuracy": 0.5})
    write_run(storage, config(0.001), [], {"status": "failed", "cause": "<script>alert('no')</script> | a_b"})
    write_run(storage, config(0.03, dropout=0.1), [(1250, 0.7)], None)
    decision = Decision(stopped.trial_id, "a cell", 2500, 2500, 0.5, (0.9,), 0.9, "stops", rule)
    open_folder(storage / "sweeps" / "paper_grid-paper").append(
        DECISIONS, (json.dumps(decision.to_dict()) + "\ntorn").encode()
    )
    damaged = storage / "runs" / config(0.03, seed=1).trial_id
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    (storage / "runs" / "holiday-pictures").mkdir()
    return storage


class Elements(HTMLParser):
    """Every element of a page, and the text of all."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_the_table_says_what_was_achieved_and_what_was_published(storage: Path) -> None:
    report(storage=str(storage))
    folder = storage / "report"
    rows = json.loads((folder / "table.json").read_text())
    assert [(row["model"], row["dataset"], row["dropout"]) for row in rows] == [
        ("ViT-B_16", "cifar10", 0.0),
        ("ViT-B_16", "cifar10", 0.1),
    ]
    done, open_ = rows
    assert done["published_accuracy"] == PUBLISHED
    assert done["accuracy"] == pytest.approx(PUBLISHED + 0.0002)  # of the candidate that validation chose
    assert done["difference"] == pytest.approx(0.0002)
    assert done["interval_95_low"] < 0.0002 < done["interval_95_high"]
    assert done["verdict"] in ("reproduced", "inconclusive")
    assert done["chosen_base_lr"] == done["published_base_lr"] == done["judged_base_lr"] == 0.01
    assert (done["spread_degrees_of_freedom"], done["spread_runs"]) == (13, "19 published")
    assert (done["accuracies"], done["accuracy_deviation"]) == (str(PUBLISHED + 0.0002), None)
    assert (done["num_finished"], done["num_stopped"], done["num_failed"]) == (2, 1, 1)
    assert done["trial_command"] == "python -m vit_trainer train --model ViT-B_16 --dataset cifar10"
    assert {name: done[name] for name in SPEEDS} == SPEEDS
    assert {open_[name] for name in SPEEDS} == {None}, "an older version's trial"
    assert (open_["accuracy"], open_["verdict"], open_["num_unfinished"]) == (None, None, 1)

    read = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows] == read

    markdown = (folder / "report.md").read_text()
    assert "99.04<br>published 99.02, +0.02" in markdown
    assert "99.99" not in markdown
    assert "below the cutoff 0.9000 of 0.9000" in markdown
    assert "| ViT-B\\_16, cifar10, dropout 0 | 1,050 | 35.3% | 25.5 GiB | 0.3% | A100-40GB |" in markdown
    for name in ("learning-curves.png", "accuracy-against-hours.png"):
        assert f"]({name})" in markdown
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_read_is_named_and_left_alone(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}
    report(storage=str(storage))
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 3
    for complaint, name in zip(complaints, (DECISIONS, config(0.03, seed=1).trial_id, "holiday-pictures"), strict=True):
        assert complaint.startswith("left out: ")
        assert name in complaint
        assert name in Elements((storage / "report" / "report.html").read_text()).text
    assert before == {path: path.read_bytes() for path in before}


def test_the_last_time_that_each_card_was_compared_with_the_official_code_is_shown(storage: Path) -> None:
    cards = [NodeParity(f"10.0.0.{i}", "NVIDIA H100", "29 of 30 rungs hold", ("pixels: crop",)) for i in (1, 2)]
    record_parity(Storage(str(storage)), "paper_grid-paper", cards)
    record_parity(Storage(str(storage)), "paper_grid-paper", [NodeParity("10.0.0.2", "NVIDIA H100", "all hold")])
    write_report(Storage(str(storage)))
    text = (storage / "report" / "report.md").read_text()
    assert "| 10.0.0.1 | NVIDIA H100 | 29 of 30 rungs hold; pixels: crop |" in text
    assert "| 10.0.0.2 | NVIDIA H100 | all hold |" in text
    assert text.count("NVIDIA H100") == 2


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(storage: Path) -> None:
    report(storage=str(storage))
    page = Elements((storage / "report" / "report.html").read_text())
    assert not {"script", "iframe", "object", "img"} & set(page.tags)
    assert all(address.startswith(("data:", "#", "trials.html#", "./checklist.html")) for address in page.addresses)
    assert "<script>alert('no')</script> | a_b" in page.text
    assert page.tags.count("svg") == 3  # a chart per cell, and one of accuracy against hours
    markdown = (storage / "report" / "report.md").read_text()
    assert "<script>" not in markdown
    assert "\\| a\\_b" in markdown


def test_nothing_of_a_strangers_storage_reaches_a_terminal_or_a_spreadsheet_as_more_than_text(storage: Path) -> None:
    hostile = "\x1b[2J\x1b]0;title\x07\x9b1A\u202e\x00"
    (storage / "runs" / "evil\x1b[2J\n0 of 0 trials failed").mkdir()
    attempt = ATTEMPT | {"host": f"node{hostile}", "device_name": f"=A100{hostile}"}
    write_run(storage, config(0.01, seed=2), [], {"status": "failed", "cause": f"fault{hostile}"}, attempt=attempt)
    write_run(storage, config(0.01, seed=3), [], None, attempt=attempt)
    record_command(Storage(storage), "paper_grid-paper", cells_of(PAPER), ())
    (file,) = storage.rglob(COMMANDS)
    command = json.loads(file.read_text())
    # As an older commit wrote it.
    command["line"] = "=HYPERLINK(1) --notify https://chat.com/t0KeN --tracking-uri http://t0KeN@host"
    file.write_text(json.dumps(command) + "\n")
    outputs = []
    for words in ([str(SCRIPT)], [str(SCRIPT.with_name("watch.py")), "--once"]):
        command = [sys.executable, *words, "--storage", str(storage)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        outputs += [done.stdout, done.stderr]
    names = ("report.md", "report.html", "table.csv", "table.json")
    outputs += [(storage / "report" / name).read_text() for name in names]
    for output in outputs:
        assert not re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]|\n0 of 0|t0KeN", output)
    assert "node\\x1b[2J" in outputs[5]
    assert "left out: runs/evil\\x1b[2J\\n0 of 0 trials failed: " in outputs[1]
    cells = [cell for row in csv.reader(outputs[6].splitlines()) for cell in row]
    assert [cell for cell in cells if cell.startswith("'=HYPERLINK(1) --notify https://chat.com/*** ")]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


def test_the_same_storage_makes_the_same_report_elsewhere(storage: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    report(storage=str(storage), output=str(elsewhere))
    assert {path.name for path in elsewhere.iterdir()} == {
        *("report.md", "report.html", "trials.html", "checklist.html", "table.csv", "trials.csv", "table.json"),
        *("learning-curves.png", "accuracy-against-hours.png"),
    }
    assert not (storage / "report").exists()


def test_every_published_cell_gets_a_verdict_beside_all_that_was_published_for_it(tmp_path: Path) -> None:
    papers = [figure.cell for figure in published_figures("paper")]
    grid = list(dict.fromkeys([*cells_of(PAPER), *papers]))
    assert len(grid) == 30 + 25 - 12
    for cell in grid:
        assert cell.dropout is not None
        own = FinetuneConfig.official(cell.model, cell.dataset, dropout=cell.dropout)
        write_run(tmp_path, own, *finished(own, 0.9, 0.9))
    report(storage=str(tmp_path))
    rows = {row["cell"]: row for row in json.loads((tmp_path / "report" / "table.json").read_text())}
    assert len(rows) == len(grid)
    assert all(row["verdict"] for row in rows.values())
    for cell in grid:
        row, figures = rows[name_of_cell(cell)], {figure.table: figure.accuracy for figure in figures_for(cell)}
        assert {table: row[f"{table}_accuracy"] for table in TABLES} == {table: figures.get(table) for table in TABLES}
        about = "official" if "official" in figures else "paper"
        assert (row["published_table"], row["published_accuracy"]) == (about, figures[about])
        assert row["difference"] == pytest.approx(0.9 - figures[about])
    all_three = rows["ViT-B_16/cifar100/0.1"]
    assert [all_three[f"{table}_accuracy"] for table in TABLES] == [0.9192, 0.9167, 0.9228]
    assert rows["ViT-H_14/cifar100/0.1"]["paper_accuracy"] == 0.9382
    assert rows["ViT-L_16/oxford_pets/0.1"]["spread_runs"] == "3 published"
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "90.00<br>published 91.92, -1.92<br>▼ below<br>paper 91.67, -1.67<br>reimplementation 92.28, -2" in markdown
    assert "| 91.92 at 0.03<br>91.67 paper<br>92.28 at 0.03 reimplementation | -1.92<br>" in markdown
    assert "90.00<br>published (paper) 93.82, -3.82<br>▼ below<br>" in markdown
    assert "| 93.82 (paper) | -3.82<br>" in markdown
    assert "several figures are published for a cell, the verdict is about the first" in markdown
    page = Elements((tmp_path / "report" / "report.html").read_text())
    assert page.tags.count("figure") == len(grid) + 5
    assert "Different from what was published (Holm's test, 5% for all 43 cells together): R50+ViT-B_16" in page.text
    assert {row["mean_is_within_margin"] for row in rows.values()} == {False}


def test_a_verdict_is_about_the_published_rate_with_the_tuned_result_beside_it(tmp_path: Path) -> None:
    tuned = {0: 0.9930, 1: 0.9934, 2: 0.9932}
    for seed, accuracy in tuned.items():
        write_run(tmp_path, config(0.03, seed=seed), *finished(config(0.03, seed=seed), 0.99, accuracy))
        write_run(tmp_path, config(0.01, seed=seed), *finished(config(0.01, seed=seed), 0.98, accuracy - 0.003))
    (row,), markdown = read_report(tmp_path)
    assert (row["accuracy"], row["chosen_base_lr"], row["num_seeds"]) == (pytest.approx(0.9932), 0.03, 3)
    assert row["accuracies"].split() == [str(accuracy) for accuracy in tuned.values()]
    assert row["accuracy_deviation"] == pytest.approx(0.0002)
    assert (row["published_base_lr"], row["judged_base_lr"]) == (0.01, 0.01)
    assert [float(accuracy) for accuracy in row["judged_accuracies"].split()] == pytest.approx([0.99, 0.9904, 0.9902])
    assert row["difference"] == pytest.approx(0.9902 - PUBLISHED)
    assert (row["verdict"], row["differs_in_whole_table"], row["mean_is_within_margin"]) == ("reproduced", False, True)
    assert (row["spread_runs"], row["spread_degrees_of_freedom"]) == ("19 published, 6 of ours", 13 + 2 + 2)
    assert "99.32<br>± 0.02, 3 seeds<br>published 99.02<br>lr 0.01: 99.02, +0.00<br>✓ reproduced" in markdown
    assert "| 99.32 ± 0.02<br>99.30<br>99.34<br>99.32 |" in markdown
    assert "No cell is shown to differ from what was published (Holm's test, 5% for this one cell)." in markdown
    assert "Mean difference, in points: within the margin on cifar10 (+0.00)." in markdown
    said = write_report(Storage(tmp_path))[0].splitlines()
    assert [line.split(":")[0] for line in said[1:]] == ["Mean difference, in points", "One by one", "Report"]
    assert said[0] in markdown


def test_seeds_that_early_stopping_left_say_nothing_about_the_spread(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, config(0.01, seed=seed), *finished(config(0.01, seed=seed), 0.98, 0.98 + seed / 100))
    write_run(tmp_path, config(0.01, seed=2), [(2500, 0.5)], {"status": "stopped", "val/accuracy": 0.5})
    (row,), markdown = read_report(tmp_path)
    assert (row["num_seeds"], row["num_stopped_seeds"], row["spread_runs"]) == (2, 1, "19 published")
    assert "98.50<br>± 0.71, 2 seeds<br>1 more seed stopped<br>published 99.02, -0.52" in markdown
    assert markdown.count("early stopping ended 1 of the chosen candidate's seeds") == 1


def test_a_candidate_that_shares_no_seed_with_the_others_is_said_to_have_had_no_part(tmp_path: Path) -> None:
    for each, validation in ((config(0.01), 0.97), (config(0.03), 0.98), (config(0.003, seed=1), 0.99)):
        write_run(tmp_path, each, *finished(each, validation, validation))
    ((row,), text) = read_report(tmp_path)
    assert (row["chosen_base_lr"], row["num_seeds"]) == (0.03, 1)
    assert "no seed has finished with all candidates, so that 1 had no part in the choice; compared were those" in text


def test_beside_a_figure_that_was_tuned_the_verdict_is_about_the_tuned_result(tmp_path: Path) -> None:
    for base_lr, validation, test in ((0.03, 0.94, 0.9390), (0.01, 0.93, 0.9300)):
        own = FinetuneConfig.official("ViT-H_14", "cifar100", base_lr=base_lr, dropout=0.1)
        write_run(tmp_path, own, *finished(own, validation, test))
    (row,), markdown = read_report(tmp_path)
    assert (row["published_base_lr"], row["judged_base_lr"]) == (None, 0.03)
    assert row["difference"] == pytest.approx(0.9390 - 0.9382)
    assert "93.90<br>published (paper) 93.82, +0.08<br>✓ reproduced" in markdown
    assert "learning rate tuned, as its appendix B says: the best of four on images held out. What is comp" in markdown
    assert "Published by https://arxiv.org/abs/2010.11929: another recipe: once its rate was chosen it tr" in markdown


def read_report(storage: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of table.json and the page as Markdown."""
    files = files_of(gather(Storage(storage)))
    return json.loads(files["table.json"]), files["report.md"].decode()


def test_an_empty_storage_is_said_to_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(storage=str(tmp_path))
    assert f"No trial has begun in {tmp_path}" in capsys.readouterr().out
    assert "nothing to report" in (tmp_path / "report" / "report.html").read_text()
    assert json.loads((tmp_path / "report" / "table.json").read_text()) == []


def test_trials_that_took_no_step_are_reported_too(tmp_path: Path) -> None:
    write_run(tmp_path, config(), [], {"status": "failed", "cause": "OSError: no space left"})
    report(storage=str(tmp_path))
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "OSError: no space left" in markdown
    assert "were predicted to take" not in markdown


def test_a_sweep_does_not_end_for_its_report(storage: Path) -> None:
    (storage / "report").write_text("a file in the way")
    line, _ = write_report(Storage(storage))
    assert line.startswith("No report could be written (")
    assert "python sweeps/report.py does it" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "nowhere"], "storage nowhere is no folder: give the --storage of a sweep"),
        (["--storage", ".", "--output", "/dev/null/report"], "output /dev/null/report cannot be a folder"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_trial_has_a_row_and_a_page_of_its_own(storage: Path) -> None:
    report(storage=str(storage))
    folder = storage / "report"
    rows = {row["trial_id"]: row for row in csv.DictReader((folder / "trials.csv").read_text().splitlines())}
    chosen, stopped, failed, unfinished = (
        rows[each.trial_id] for each in (config(0.01), config(0.003), config(0.001), config(0.03, dropout=0.1))
    )
    assert len(rows) == 5
    assert (chosen["is_chosen"], chosen["test_accuracy"], chosen["seed"]) == ("True", str(PUBLISHED + 0.0002), "0")
    assert (stopped["status"], stopped["step"], stopped["test_accuracy"]) == ("stopped", "2500", "")
    assert (unfinished["status"], unfinished["validation_accuracy"]) == ("unfinished", "0.7")
    assert "script" in failed["cause"]
    page = (folder / "trials.html").read_text()
    assert all(f'<div id="{name}">' in page for name in rows)
    assert page.count("<svg") == 2  # a single validation is no curve
    assert "below the cutoff 0.9000 of 0.9000" in Elements(page).text
    assert set(Elements((folder / "report.html").read_text()).addresses) >= {f"trials.html#{name}" for name in rows}


def test_what_it_cost_stands_beside_what_was_planned(storage: Path) -> None:
    cells = [record.cell for record in gather(Storage(str(storage))).cells]
    record_command(Storage(str(storage)), "paper_grid-paper", cells, [], dollars=2.5)
    write_report(Storage(str(storage)))
    folder = storage / "report"
    hours = [float(row["billed_hours"]) for row in csv.DictReader((folder / "table.csv").read_text().splitlines())]
    assert sum(hours) > 16
    said = (
        f"At the price that the plan reckoned with this cost ${2.5 * sum(hours):,.2f}; the steps taken were predicted"
    )
    assert said in (folder / "report.md").read_text().replace("\\", "")


def test_two_results_side_by_side(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    write_run(other, config(0.01, seed=5), *finished(config(0.01, seed=5), 0.985, PUBLISHED - 0.02))
    table = tmp_path / "theirs.CSV"
    table.write_text(f"model,dataset,accuracy\nViT-B_16,cifar10,{PUBLISHED - 0.02}\nViT-L_16,cifar100,\n")
    for given in (other, table):
        report(storage=str(storage), compare=str(given))
        said = capsys.readouterr().out.splitlines()
        assert f"1 of 2 cells are in {given} too." in said
        (line,) = [line for line in said if line.startswith("ViT-B_16")]
        assert "99.04 here, 97.02 there, +2.02" in line
        assert line.endswith("▲ above")
    text = (storage / "report" / "report.md").read_text()
    assert "## Side by side" in text
    report(storage=str(other), compare=str(storage / "report" / "table.csv"))
    assert "97.02 here, 99.04 there, -2.02" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model,dataset,accuracy\nViT-B_16,cifar10,98.5\n", "line 2: accuracy 98.5 is no fraction"),
        ("model,dataset,accuracy\nViT-B_17,cifar10,0.985\n", "line 2: unknown model 'ViT-B_17'"),
        ("model,dataset,accuracy\nViT-B_16,cifar10,good\n", "line 2: could not convert string to float"),
        ("model,accuracy\nViT-B_16,0.985\n", "line 2: no column 'dataset'"),
        ("model,dataset\nViT-B_16,cifar10\n", "line 2: no column 'accuracy'"),
        ("\udcff", "can't decode byte"),
    ],
)
def test_a_table_that_cannot_be_compared_is_refused(content: str, message: str, storage: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=re.escape(message)):
        report(storage=str(storage), compare=str(tmp_path / "theirs.csv"))
    with pytest.raises(InputError, match="no trial has begun in "):
        report(storage=str(storage), compare=str(tmp_path))
    assert not (storage / "report").exists()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(storage: Path, width: int, scheme: str) -> None:
    from playwright.sync_api import sync_playwright

    report(storage=str(storage))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto((storage / "report" / "report.html").as_uri())
        assert page.get_by_text("99.04").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for chart in page.locator("svg").all():
            box = chart.bounding_box()
            assert box is not None
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width
        paper, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        brightness = [sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(", "))) for color in (paper, ink)]
        assert (brightness[0] > brightness[1]) == (scheme == "light")
        assert asked == [page.url]
        assert complaints == []
        cut = [table.inner_text() for table in page.locator(".wide").all() if table.evaluate(IS_CUT)]
        assert not cut or width < 1000, "on a telephone the table is one that one scrolls"
        page.locator("summary", has_text="Every trial").click() if page.locator("summary").count() else None
        page.get_by_role("link", name=config(0.003).trial_id).click()
        assert page.get_by_text("below the cutoff 0.9000").first.is_visible(), "its page opens at once"
        page.screenshot(path=storage / f"{width}-{scheme}.png", full_page=True)
        browser.close()


@pytest.mark.slow
def test_the_whole_table_is_seen_at_1280_pixels(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    for cell in cells_of(PAPER):
        for seed in (0, 1):
            own = FinetuneConfig.official(cell.model, cell.dataset, dropout=cell.dropout, seed=seed)
            write_run(tmp_path, own, *finished(own, 0.9, 0.9 + seed / 1000))
    report(storage=str(tmp_path))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((tmp_path / "report" / "report.html").as_uri())
        for summary in page.locator("summary").all():
            summary.click()
        cut = [table.inner_text()[:200] for table in page.locator(".wide").all() if table.evaluate(IS_CUT)]
        browser.close()
    assert not cut


def test_the_mistakes_of_the_chosen_candidate_are_named(tmp_path: Path) -> None:
    cifar10 = config(seed=0)
    labels = np.repeat(np.arange(10, dtype=np.uint16), 10)
    for seed, wrong in ((0, 3), (1, 2)):
        firsts = labels.copy()
        firsts[30 : 30 + wrong] = 5  # cats
        firsts[0] = 8
        classes = np.full((100, 5), NO_CLASS, np.uint16)
        classes[:, 0] = firsts
        kept = Predictions(classes, np.ones(100, np.float16), labels, np.zeros(0, "S1"))
        run_dir = write_run(tmp_path, replace(cifar10, seed=seed), *finished(cifar10, 0.95, 0.9))
        run_dir.folder.write(PREDICTIONS, kept.to_bytes())
    damaged = write_run(tmp_path, replace(cifar10, seed=2), *finished(cifar10, 0.95, 0.9))
    damaged.folder.write(PREDICTIONS, b"PK")
    _, page = read_report(tmp_path)
    assert "| 7 of 200 | cat 75.00%, airplane 90.00% | cat for dog (5), airplane for ship (2) |" in page
