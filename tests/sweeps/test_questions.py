"""The questions: every published row is a cell of one, they share trials, and each reads like its question."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sweeps import lr_search, paper_grid, resolution, seeds, short_schedule, upstream
from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates, cells_asked_for, grid_of, narrowed
from sweeps.records.cell_record import CellRecord
from sweeps.records.commands import record_command
from sweeps.records.results import gather
from sweeps.report import report
from sweeps.reporting.rows import rows_of
from sweeps.reporting.write import files_of
from sweeps.running.session import Session
from sweeps.selection.best_region import Region, importances_of
from sweeps.selection.repeats import RepeatOptions
from sweeps.sweep import choose, choose_preset
from sweeps.table.cells import MINI, PAPER, Cell, Schedule, Trial, cell_named, cells_of, name_of_cell, official_cell
from sweeps.table.labels import Labels
from sweeps.table.published import TABLES, published_cells
from tests.sweeps.storages import finished, write_run
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.datasets import dataset_id
from vit_trainer.errors import InputError
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.catalogue import Catalogue, Membership

ROOT = Path(__file__).parents[2]
FILES = [paper_grid, short_schedule, resolution, upstream, lr_search, seeds]
QUESTIONS = {"short_schedule": short_schedule, "resolution": resolution, "upstream": upstream}
"""Those with rows of their own; the others are about cells that one names."""
CELLS: dict[str, list[Cell]] = {"paper_grid": cells_of(PAPER)} | {name: each.PAPER for name, each in QUESTIONS.items()}
MINIATURES: dict[str, list[Cell]] = {"paper_grid": cells_of(MINI)}
MINIATURES |= {name: each.MINI for name, each in (QUESTIONS | {"lr_search": lr_search, "seeds": seeds}).items()}
EVERY = [*CELLS.values(), *MINIATURES.values()]
B16 = official_cell("ViT-B_16", "cifar10", dropout=0.1)


def command(
    script: str | Path, *arguments: str, cwd: Path = ROOT, address: str = "local"
) -> subprocess.CompletedProcess[str]:
    path = script if isinstance(script, Path) else ROOT / "sweeps" / f"{script}.py"
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": address},
    )


def write_finished(storage: Path, trial: Trial, validation: float = 0.98, test: float = 0.985) -> None:
    write_run(storage, trial.config, *finished(trial.config, validation, test))


def session(storage: Path, name: str, cells: list[Cell], **options: Any) -> Session:
    given = SweepOptions(storage=str(storage), quiet=True, **options)
    return Session(name, cells, given, Execution(), lambda trial: None)


# Which cells.


def test_every_published_row_is_a_cell_of_some_question() -> None:
    rows = [cell for table in TABLES for cell in published_cells(table)]
    assert len(rows) == 74
    others = set(rows) - {cell for cells in CELLS.values() for cell in cells}
    asked_for = SweepOptions(
        models=("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "ViT-H_14"),
        datasets=("cifar10", "cifar100", "imagenet2012", "oxford_pets", "oxford_flowers102"),
        dropouts=(0.1,),
    )
    assert len(others) == 13
    assert others < set(cells_of(grid_of(asked_for, "paper"))) == set(published_cells("paper")), "as README has it"


@pytest.mark.parametrize("cells", EVERY, ids=[*CELLS, *(f"{name}-mini" for name in MINIATURES)])
def test_no_cell_is_there_twice_and_none_has_another_s_name(cells: list[Cell]) -> None:
    assert len(set(cells)) == len({cell.name for cell in cells}) == len(cells)
    trials = candidates(SweepOptions(), cells)  # checks the values
    assert len({trial.trial_id for trial in trials}) == len(trials)


def test_the_short_schedules_are_those_that_were_asked_for() -> None:
    found = {(cell.dataset, cell.resolution, *vars(cell.schedule).values()) for cell in short_schedule.PAPER}
    schedules = ((500, 50, 512), (500, 100, 512), (1_000, 100, 512))
    expected = {
        (data, px, *schedule) for data in ("cifar10", "cifar100") for px in (224, 384) for schedule in schedules
    }
    assert found == expected


@pytest.mark.parametrize("question", FILES, ids=lambda module: module.__name__)
def test_each_file_is_short_and_begins_with_its_question(question: Any) -> None:
    lines = Path(question.__file__).read_text().splitlines()
    assert len(lines) < 65
    assert "?" in lines[0]
    assert any(line.startswith("Command: python sweeps/") for line in lines)


# Names on the command line.


@pytest.mark.parametrize("cell", list({cell: None for cells in EVERY for cell in cells}), ids=lambda cell: cell.name)
def test_a_cell_s_name_is_read_as_that_cell(cell: Cell) -> None:
    assert cell_named(name_of_cell(cell)) == cell
    other = replace(cell, schedule=replace(cell.schedule, global_batch_size=32))
    assert cell_named(name_of_cell(other)) == other


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B_16/cifar10", "cell 'ViT-B_16/cifar10' is no name of a cell: give model/dataset/dropout"),
        ("ViT-B_16/cifar10/0.1.", "cell 'ViT-B_16/cifar10/0.1.' is no name of a cell"),
        ("ViT-B16/cifar10/0.1", "unknown model 'ViT-B16'; did you mean 'ViT-B_16'?"),
        ("ViT-B_16/cifar11/0.1", "unknown dataset 'cifar11'; did you mean 'cifar10'?"),
        ("ViT-B_16/cifar10/1.5", "dropout 1.5 is outside [0, 1)"),
        ("ViT-B_16/cifar10/0.1/225px", "resolution 225 does not fit ViT-B_16"),
        ("ViT-B_16/cifar10/0.1/from-imagenet1k", "unknown upstream 'imagenet1k'"),
        ("ViT-B_16/cifar10/0.1/100steps/warmup100", "warmup_steps 100 is outside [0, total_steps=100)"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        cell_named(name)


# Which of them.


def test_flags_narrow_every_question_the_same_way() -> None:
    options = SweepOptions(models=("ViT-L_32",), datasets=("cifar10",), dropouts=(0.0, 0.1))
    for cells in (resolution.PAPER, upstream.PAPER):
        chosen = narrowed(options, cells)
        assert {(cell.model, cell.dataset) for cell in chosen} == {("ViT-L_32", "cifar10")}
        assert [cell.dropout for cell in chosen] == [0.0, 0.1] * 2
    name, chosen = choose(
        SweepOptions(preset="mini", datasets=("digits-odd",)), "upstream", paper=upstream.PAPER, mini=upstream.MINI
    )
    assert name == "upstream-mini"
    assert chosen == [cell for cell in upstream.MINI if cell.dataset == "digits-odd"]
    searched = narrowed(SweepOptions(search="optuna", search_over=("base_lr", "dropout")), cells_of(PAPER))
    assert [cell.dropout for cell in searched] == [None] * 15


def test_named_cells_may_be_any() -> None:
    name, cells = choose(SweepOptions(), "seeds", paper=[], mini=[], named=("ViT-B_16/cifar10/0.1",) * 2)
    assert (name, cells) == ("seeds-paper", [B16])
    name, _ = choose(SweepOptions(), "seeds", paper=[], mini=[], named=("ViT-B_16-mini/digits-odd/0",))
    assert name == "seeds-mini"
    with pytest.raises(InputError, match="these cells are of --preset paper, not mini: leave --preset out"):
        choose(SweepOptions(preset="mini"), "seeds", paper=[], mini=[], named=("ViT-B_16/cifar10/0.1",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("ViT-B_32",)}, "unknown model of this question 'ViT-B_32'; did you mean 'ViT-L_32'? Valid: "),
        ({"datasets": ("imagenet2012",)}, "unknown dataset of this question 'imagenet2012'"),
        (
            {"models": ("ViT-B_16", "ViT-H_14"), "datasets": ("cifar10",)},
            "no row for ViT-H_14 with what else was asked",
        ),
    ],
)
def test_rows_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        narrowed(SweepOptions(**options), resolution.PAPER)


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("upstream", ["--models", "ViT-L32"], "unknown model of this question 'ViT-L32'; did you mean 'ViT-L_32'?"),
        ("seeds", ["--cells", "ViT-B_16"], "cell 'ViT-B_16' is no name of a cell"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(script: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    done = command(script, *arguments, *([] if "--cells" in arguments else ["--preset", "paper"]), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


# Values for all, and a folder of one's own.


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """A folder of classes, of which nobody reads more than the listing."""
    for part, count in (("train", 50), ("test", 5)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").touch()
    return str(tmp_path / "pets")


def test_values_for_all_are_part_of_names_and_ids_and_the_recipe_s_own_change_nothing(pets: str) -> None:
    for dataset in ("cifar10", pets):
        own = official_cell("ViT-B_16", dataset, dropout=0.1)
        given: dict[str, Any] = {
            "total_steps": 40,
            "warmup_steps": 2,
            "global_batch_size": 32,
            "resolution": 224,
            "upstream": "scratch",
        }
        options = SweepOptions(models=("ViT-B_16",), datasets=(dataset,), dropouts=(0.1,), **given)
        (cell,) = cells_asked_for(options, "paper")
        assert cell.name == f"ViT-B_16 {dataset} 224px 40 steps warm-up 2 batch 32 d0.1 from scratch"
        assert name_of_cell(cell) == f"ViT-B_16/{dataset}/0.1/224px/40steps/warmup2/batch32/from-scratch"
        config = FinetuneConfig.official("ViT-B_16", dataset, dropout=0.1, base_lr=0.01, **given)
        assert Trial(cell, 0.01, 0).trial_id == config.trial_id, "as train has it"
        names = {own.name}
        for name, value in given.items():
            (other,) = narrowed(SweepOptions(**{name: value}), [own])
            assert Trial(other, 0.03, 0).config == FinetuneConfig.official(
                "ViT-B_16", dataset, dropout=0.1, base_lr=0.03, **{name: value}
            )
            names.add(other.name)
        assert len(names) == 6
        same: dict[str, Any] = {**vars(own.schedule), "resolution": 384, "upstream": "imagenet21k"}
        assert narrowed(SweepOptions(**same), [own]) == [own]


def test_what_a_question_compares_cannot_be_one_value_for_all() -> None:
    compared: list[tuple[Any, dict[str, Any]]] = [
        (resolution, {"resolution": 224}),
        (upstream, {"upstream": "scratch"}),
        (short_schedule, {"total_steps": 100}),
        (short_schedule, {"warmup_steps": 10}),
    ]
    for question, given in compared:
        for cells in (question.PAPER, question.MINI):
            with pytest.raises(InputError, match=r"for all would leave nothing to compare: leave it out"):
                narrowed(SweepOptions(**given), cells)
    shorter = narrowed(SweepOptions(total_steps=400), upstream.PAPER)
    assert {cell.schedule for cell in shorter} == {Schedule(400, 20)}, "with the recipe's share of warm-up"
    with pytest.raises(InputError, match="resolution 224 for cells that are named: say it in their names"):
        choose(SweepOptions(resolution=224), "seeds", paper=[], mini=[], named=("ViT-B_16/cifar10/0.1",))
    with pytest.raises(InputError, match="warmup_steps 5 is searched over"):
        SweepOptions(search="optuna", search_over=("warmup_steps",), warmup_steps=5)


def test_every_question_can_be_asked_of_a_folder(pets: str) -> None:
    questions: dict[str, Any] = QUESTIONS | {"lr_search": lr_search, "seeds": seeds}
    recipe = official_cell("ViT-B_16", pets).schedule
    for name, question in questions.items():
        for options, cells in (
            (SweepOptions(preset="paper", datasets=(pets,)), question.PAPER),
            (SweepOptions(preset="mini", datasets=(pets,)), question.MINI),
        ):
            _, chosen = choose(options, name, paper=question.PAPER, mini=question.MINI)
            first = [cell for cell in cells if cell.dataset == cells[0].dataset]
            assert [(cell.model, cell.resolution, cell.upstream) for cell in chosen] == [
                (cell.model, cell.resolution, cell.upstream) for cell in first
            ]
            assert {cell.dataset for cell in chosen} == {pets}
            assert len({cell.name for cell in chosen}) == len(chosen)
            assert candidates(SweepOptions(), chosen)  # checks the values
            if question is not short_schedule:
                assert {cell.schedule for cell in chosen} == {recipe}
            else:  # the published twentieth and tenth
                shares = {cell.schedule.total_steps / recipe.total_steps for cell in chosen}
                assert shares == ({1 / 20, 1 / 10} if cells is question.PAPER else {1 / 4, 1 / 2})
    both = narrowed(SweepOptions(datasets=("cifar100", pets), models=("ViT-L_32",)), resolution.PAPER)
    assert [(cell.dataset, cell.resolution) for cell in both] == [
        *(("cifar100", px) for px in (224, 384)),
        *((pets, px) for px in (224, 384)),
    ]
    with pytest.raises(InputError, match="no row for ViT-H_14"):
        narrowed(SweepOptions(datasets=(pets,), models=("ViT-H_14",)), resolution.PAPER)
    with pytest.raises(InputError, match=f"dataset {pets} beside cells that are named: say it in their names"):
        choose(SweepOptions(datasets=(pets,)), "seeds", paper=[], mini=[], named=("ViT-B_16/cifar10/0.1",))
    with pytest.raises(InputError, match=r"of --preset mini 'my pets'.*; or the path .*, as \./my pets"):
        grid_of(SweepOptions(datasets=("my pets",)), "mini")


def test_a_folder_is_called_by_its_path_and_counted_once_though_it_goes_on_under_another_id(
    pets: str, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    (storage / "runs" / FinetuneConfig.official("ViT-B_16-mini", pets).trial_id).mkdir(parents=True)
    copy = str(shutil.copytree(pets, tmp_path / "copy"))

    def column_of(*datasets: str) -> tuple[str, str]:
        options = SweepOptions(models=("ViT-B_16-mini",), datasets=datasets, dropouts=(0.0,), storage=str(storage))
        (cell,) = cells_asked_for(options, "mini")
        return Labels.of([cell]).column(cell)

    assert column_of(copy) == (copy, "dropout 0")
    assert column_of(pets, copy) == (pets, "dropout 0")


def test_without_a_gpu_a_folder_is_told_what_to_add(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.cluster.join.count_gpus", lambda: 0)
    for options, what, mini in (
        (SweepOptions(datasets=(pets,)), pets, "ViT-B_16-mini"),
        (SweepOptions(models=("ViT-L_32",)), "ViT-L_32", "ViT-L_32-mini"),
    ):
        with pytest.raises(InputError, match=f"no GPU here for {what}: give --preset paper .* or --models {mini}"):
            choose_preset(options, "sweeps/paper_grid.py")
    with pytest.raises(InputError, match="did you mean 'ViT-B_32-mini'"):
        cells_asked_for(SweepOptions(models=("ViT-B32",)), choose_preset(SweepOptions(models=("ViT-B32",)), "x.py"))
    options = SweepOptions(models=("ViT-B_16-mini",), datasets=(pets,))
    assert choose_preset(options, "sweeps/paper_grid.py") == "mini"
    assert {cell.upstream for cell in cells_asked_for(options, "mini")} == {"digits"}


# Shared trials, separate reports.


def test_a_trial_of_two_sweeps_runs_once(tmp_path: Path) -> None:
    shared = [cell for cell in resolution.PAPER if cell in upstream.PAPER]
    assert len(shared) == 4
    for trial in candidates(SweepOptions(), resolution.PAPER):
        write_finished(tmp_path, trial)
    open_ = session(tmp_path, "upstream-paper", upstream.PAPER)
    assert (open_.num_done, open_.num_expected) == (16, 32)
    assert {trial.cell for trial in open_.pending} == set(upstream.PAPER) - set(shared)
    official = session(tmp_path, "paper_grid-paper", cells_of(PAPER), base_lrs=("official",))
    assert official.num_done == len([cell for cell in resolution.PAPER if cell.resolution == 384])


def as_swept(storage: Path, sweep: str, cells: list[Cell]) -> None:
    """Finished trials of a sweep, with what it leaves of itself."""
    opened = Storage(storage)
    trials = [Trial(cell, 0.03, 0) for cell in cells]
    for trial in trials:
        if not (storage / "runs" / trial.trial_id).exists():
            write_finished(storage, trial)
    Catalogue(opened, sweep).add({trial.trial_id: Membership(trial.cell.name) for trial in trials})
    record_command(opened, sweep, cells, [])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All questions' sweeps, finished."""
    storage = tmp_path_factory.mktemp("results")
    for name, cells in CELLS.items():
        as_swept(storage, f"{name}-paper", cells)
    return storage


def test_the_reports_list_every_published_row(storage: Path) -> None:
    rows = [row for name in CELLS for row in rows_of(gather(Storage(storage), f"{name}-paper"))]
    found = {row["cell"]: row for row in rows}.values()
    assert len(found) == len({cell for cells in CELLS.values() for cell in cells})
    accuracies = {table: [row[f"{table}_accuracy"] for row in found if row[f"{table}_accuracy"]] for table in TABLES}
    assert {table: len(accuracies[table]) for table in TABLES} == {"official": 30, "paper": 12, "reimplementation": 18}
    assert [row["cell"] for row in found if row["published_left_open"]] == ["ViT-H_14/cifar100/0.1/224px"]
    quoted = sorted(row["quoted_accuracy"] for row in found if row["quoted_accuracy"])
    assert quoted == sorted([0.9859, 0.9886, 0.8917, 0.9115] * 2)  # at either resolution, which isn't stated


def test_a_sweep_s_report_is_about_its_cells_alone(storage: Path) -> None:
    whole = gather(Storage(storage))
    assert len(whole.trials) == len({cell for cells in CELLS.values() for cell in cells})
    for name, cells in CELLS.items():
        own = gather(Storage(storage), f"{name}-paper")
        assert {record.cell for record in own.cells} == set(cells)
        assert len(own.trials) == len(cells)


def test_a_report_says_in_its_rows_what_varies(tmp_path: Path) -> None:
    cells = [cell for cell in short_schedule.PAPER if cell.dataset == "cifar10"]
    as_swept(tmp_path, "short_schedule-paper", cells)
    as_swept(tmp_path, "another", [B16])
    report(storage=str(tmp_path), sweep="short_schedule-paper")
    folder = tmp_path / "sweeps" / "short_schedule-paper" / "report"
    markdown, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert "# Results of short\\_schedule-paper" in markdown
    assert "| ViT-B\\_16<br>224 px<br>500 steps (warm-up 50) |" in markdown
    assert "<th scope=row>ViT-B_16<br>384 px<br>1000 steps (warm-up 100)</th>" in page
    assert "official as quoted 98.59, -0.09" in markdown
    assert "ViT-B\\_16, cifar10, dropout 0.1, 384 px, 1000 steps (warm-up 100)" in markdown
    assert "cifar10: 512 images a step, from imagenet21k." in markdown
    assert "<code>ViT-B_16/cifar10/0.1/224px/500steps/warmup100</code>" in markdown
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert {(int(row["resolution"]), int(row["total_steps"]), int(row["warmup_steps"])) for row in rows} == {
        (cell.resolution, cell.schedule.total_steps, cell.schedule.warmup_steps) for cell in cells
    }


def test_a_row_that_was_left_open_and_both_tables_of_one_that_both_have(tmp_path: Path) -> None:
    as_swept(tmp_path, "some", [B16, official_cell("ViT-H_14", "cifar100", dropout=0.1, resolution=224)])
    markdown = files_of(gather(Storage(tmp_path), "some"))["report.md"].decode()
    assert (
        "98.50<br>published 98.76<br>lr 0.01 not finished<br>paper 98.95, -0.45<br>reimplementation 99.06, -0.56<br>"
        in markdown
    )
    write_finished(tmp_path, Trial(B16, 0.01, 0), 0.5, test=0.985)
    markdown = files_of(gather(Storage(tmp_path)))["report.md"].decode()
    assert "<br>published 98.76<br>lr 0.01: 98.50, -0.26<br>" in markdown
    assert "98.50<br>published: left open<br>" in markdown


def test_a_sweep_that_is_not_there(storage: Path) -> None:
    with pytest.raises(InputError, match="unknown sweep of this storage 'upstream'; did you mean 'upstream-paper'"):
        report(storage=str(storage), sweep="upstream")


# What is repeated, and what is searched.


def test_seeds_repeat_the_rate_that_did_best_and_keep_to_it(tmp_path: Path) -> None:
    options = RepeatOptions(storage=str(tmp_path))
    other = official_cell("ViT-L_32", "cifar100")
    for base_lr, validation in ((0.003, 0.985), (0.01, 0.981), (0.03, 0.98)):
        write_finished(tmp_path, Trial(B16, base_lr, 0), validation, test=1 - validation)
    assert [(trial.base_lr, trial.seed) for trial in candidates(options, [B16, other])] == [
        *((base_lr, seed) for base_lr in (0.003, 0.01) for seed in (0, 1, 2)),
        *((0.03, seed) for seed in (0, 1, 2)),
    ]
    assert options.explained([B16, other]) == [
        f"{B16.name}: base_lr 0.003, 0.01, the best of 3 that finished; 0.01 is the published one",
        f"{other.name}: base_lr 0.03, the published one: no trial of it has finished",
    ]
    (said,) = options.explained([tuned := official_cell("ViT-H_14", "cifar100", dropout=0.1)])
    assert said == f"{tuned.name}: base_lr 0.03, the official one: no trial of it has finished"
    for seed in (1, 2):
        write_finished(tmp_path, Trial(B16, 0.003, seed), 0.95)  # their mean is below what 0.01 had
    again = RepeatOptions(storage=str(tmp_path))
    assert again.base_lrs_of(B16) == (0.003, 0.01)
    (record,) = gather(Storage(tmp_path)).cells
    assert [(trial.base_lr, trial.seed) for trial in record.chosen] == [(0.003, seed) for seed in (0, 1, 2)]
    assert session(tmp_path, "seeds-paper", [B16], seeds=(0, 1, 2), base_lrs=("0.003",)).num_done == 3
    assert RepeatOptions(storage=str(tmp_path), base_lrs=("0.06",)).base_lrs_of(B16) == (0.06,)


def searched(storage: Path, **accuracies: float) -> CellRecord:
    """The record of a cell with a finished candidate per learning rate."""
    for base_lr, accuracy in accuracies.items():
        write_finished(storage, Trial(B16, float(base_lr.removeprefix("lr")), 0), accuracy)
    (record,) = gather(Storage(storage)).cells
    return record


def test_the_best_region_is_what_lies_within_a_standard_error(tmp_path: Path) -> None:
    # Of 1,000 held-out images 98% are right: one standard error is 0.44 points.
    record = searched(tmp_path, **{"lr0.001": 0.97, "lr0.003": 0.977, "lr0.01": 0.98, "lr0.02": 0.9757})
    assert Region.of(record) is None  # no more than the paper's grid tries
    record = searched(tmp_path, **{"lr0.1": 0.975})
    region = Region.of(record)
    assert region is not None
    assert (region.best[0].base_lr, region.low, region.high) == (0.01, 0.003, 0.02)
    assert (region.official_lr, region.official, region.difference) == (0.01, region.best, 0)


def test_the_best_region_compares_candidates_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    rates = {"lr0.001": 0.97, "lr0.003": 0.98, "lr0.01": 0.978, "lr0.02": 0.9, "lr0.03": 0.9}
    searched(tmp_path, **rates)
    for seed, validation in ((1, 0.95), (2, 0.96)):  # the best had luck with its first seed
        write_finished(tmp_path, Trial(B16, 0.003, seed), validation)
    write_finished(tmp_path, Trial(B16, 0.01, 1), 0.97)
    (record,) = gather(Storage(tmp_path)).cells
    region = Region.of(record)
    assert region is not None
    assert [trial.seed for trial in region.best] == [0, 1, 2]
    assert (region.best[0].base_lr, region.low, region.high) == (0.003, 0.003, 0.01)
    assert region.difference == pytest.approx((0.98 + 0.95) / 2 - (0.978 + 0.97) / 2)
    text = files_of(gather(Storage(tmp_path)))["report.md"].decode()
    assert "| 0.003: 96.33 (3 seeds) | 0.003 to 0.01 | 0.01: 97.40 (2 seeds) | -0.90 |" in text


def test_what_mattered_is_what_was_searched(tmp_path: Path) -> None:
    assert importances_of(searched(tmp_path, **{f"lr{i / 1000}": 0.9 + i / 1000 for i in range(1, 7)})) == {}
    cells = [replace(B16, dropout=dropout / 100) for dropout in range(0, 40, 4)]
    for i, cell in enumerate(cells):
        write_finished(tmp_path / "two", Trial(cell, 0.01 + 0.001 * (i * 7 % 10), 0), 0.98 - i / 100)
    record_command(Storage(tmp_path / "two"), "search", [replace(B16, dropout=None)], ["dropout"])
    (record,) = gather(Storage(tmp_path / "two")).cells
    shares = importances_of(record)
    assert list(shares) == ["dropout", "base_lr"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["dropout"] > 0.7
    files = files_of(gather(Storage(tmp_path / "two")))
    assert files["accuracy-over-rate.png"].startswith(b"\x89PNG")
    assert f"dropout {shares['dropout']:.0%}<br>base\\_lr {shares['base_lr']:.0%}" in files["report.md"].decode()


# The guide, and the whole of it.


@pytest.fixture
def own_question(tmp_path: Path) -> Path:
    """The guide's file, where it says to put it, in a checkout's stead."""
    guide = (ROOT / "docs" / "ask-your-own-question.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    path = tmp_path / "sweeps" / "warmup.py"
    path.parent.mkdir()
    path.write_text(code)
    return path


@pytest.mark.slow
def test_a_folder_is_swept_without_a_gpu_and_the_same_command_finds_it_done(tmp_path: Path, two_slots: str) -> None:
    for part, count in (("train", 10), ("test", 4)):
        for number, name in enumerate(("black", "white")):
            (tmp_path / "tones" / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (20, 16), (250 * number + i % 5,) * 3)
                image.save(tmp_path / "tones" / part / name / f"{i}.png")
    grid = ["--datasets", "./tones", "--models", "ViT-B_32-mini", "--dropouts", "0", "--base-lrs", "0.01", "0.03"]
    values = ["--total-steps", "20", "--resolution", "16", "--upstream", "scratch"]
    for num_done in (0, 2):
        done = command("paper_grid", *grid, *values, "--storage", "results", cwd=tmp_path, address=two_slots)
        assert done.returncode == 0, done.stderr
        assert f"paper_grid-mini: 2 trials, {num_done} of them done" in done.stdout
        assert ("has 4 images for validation" in done.stderr) == (num_done == 0)
    dataset = dataset_id(f"{tmp_path}/tones")
    (config, _) = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("results/runs/*/config.json")))
    assert (
        config
        == FinetuneConfig.official(
            *("ViT-B_32-mini", f"{tmp_path}/tones"), base_lr=0.01, total_steps=20, resolution=16, upstream="scratch"
        ).to_dict()
    )
    assert config["dataset"] == dataset
    assert (config["global_batch_size"], config["warmup_steps"]) == (16, 4)


@pytest.mark.slow
def test_the_guide_s_question_has_a_plan(own_question: Path, tmp_path: Path) -> None:
    assert len(own_question.read_text().splitlines()) < 60
    done = command(own_question, "--preset", "paper", "--plan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 cells, 16 trials, 0 of them done" in done.stdout
    assert "ViT-B_16 cifar10 d0 warm-up 0 " in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_guide_s_question_runs(own_question: Path, tmp_path: Path, two_slots: str) -> None:
    done = command(own_question, "--preset", "mini", cwd=tmp_path, address=two_slots)
    assert done.returncode == 0, done.stderr
    accuracies = re.findall(r"^ViT-B_16-mini, warm-up (\d) +(\d+\.\d\d)★? ", done.stdout, re.M)
    assert [warmup_steps for warmup_steps, _ in accuracies] == ["0", "8"]
    assert min(float(accuracy) for _, accuracy in accuracies) > 95


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_all_questions_in_miniature_share_a_storage(tmp_path: Path) -> None:
    """What `make questions` does."""
    names = [name for name in MINIATURES if name != "paper_grid"]
    assert f"for question in {' '.join(names)}; do" in (ROOT / "Makefile").read_text()
    storage, start = tmp_path / "results", time.monotonic()
    outputs = {}
    for name in names:
        done = command(name, "--preset", "mini", "--storage", str(storage))
        assert done.returncode == 0, done.stderr
        outputs[name] = done.stdout
    assert time.monotonic() - start < 900
    shared = [cell for cell in upstream.MINI if cell in resolution.MINI]
    assert f"upstream-mini: 16 trials, {2 * len(shared)} of them done" in outputs["upstream"]
    assert outputs["seeds"].count("the best of ") == 2  # the search has been there
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    for name in names:
        folder = storage / "sweeps" / f"{name}-mini"
        rows = json.loads((folder / "report" / "table.json").read_text())
        assert len(rows) == len(MINIATURES[name])
        assert all(row["accuracy"] is not None for row in rows)
        assert (folder / "report" / "accuracy-over-rate.png").exists() == (name == "lr_search")
        experiment = client.get_experiment_by_name(f"{name}-mini")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert {run.data.tags["trial_id"] for run in runs if "trial_id" in run.data.tags} == set(
            json.loads((folder / "tracking.json").read_text())
        )
    every = json.loads((storage / "report" / "table.json").read_text())
    assert len(every) == len({cell for name in names for cell in MINIATURES[name]})
