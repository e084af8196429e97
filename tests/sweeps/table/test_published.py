"""The published figures: complete, each with its source, and found by the cells of the grids."""

import csv
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.table import published
from sweeps.table.cells import MINI, PAPER, Cell, Schedule, Trial, cells_of
from sweeps.table.published import (
    PUBLISHED,
    TABLES,
    figures_for,
    is_left_open,
    is_published,
    published_base_lr,
    published_cells,
    published_figures,
    published_for,
    replicates,
)
from sweeps.table.verdict import MARGINS
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError

B16 = Cell("imagenet21k", "ViT-B_16", "cifar10", 384, Schedule(10_000, 500), 0.1)
SHORT = replace(B16, resolution=224, schedule=Schedule(500, 100))


def rows(name: str) -> list[dict[str, str]]:
    with (PUBLISHED / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_are_complete() -> None:
    official, other, paper = rows("official.csv"), rows("reimplementation.csv"), rows("paper.csv")
    assert (len(official), len(other), len(paper)) == (30, 19, 25)
    assert {(row["dropout"], row["base_lr"], row["resolution"]) for row in paper} == {("0.1", "", "384")}
    assert [row["model"] for row in official + paper + other if not row["accuracy"]] == ["ViT-H_14"]
    assert len([row for row in other if row["total_steps"] in ("500", "1000")]) == 4
    assert len([row for row in other if row["upstream"].startswith("imagenet21k+imagenet2012")]) == 4


@pytest.mark.parametrize("name", ["official.csv", "paper.csv", "reimplementation.csv", "replicates.csv"])
def test_every_row_says_where_it_is_from_and_how_its_dropout_is_known(name: str) -> None:
    for row in rows(name):
        assert row["source"].startswith(("https://github.com/", "https://arxiv.org/abs/2010.11929"))
        assert row["dropout_basis"].startswith(("stated", "inferred"))
        assert row["base_lr_basis"].startswith("inferred" if row["base_lr"] else "tuned")
        assert not row["accuracy"] or 0.8 < float(row["accuracy"]) < 1


def test_the_readme_explains_every_column() -> None:
    readme = (PUBLISHED / "README.md").read_text()
    for name in ("official.csv", "paper.csv", "reimplementation.csv", "quoted.csv", "replicates.csv"):
        assert f"| `{name}` | {len(rows(name))} |" in readme
        assert not [column for column in rows(name)[0] if f"`{column}`" not in readme]


@pytest.mark.parametrize("cell", cells_of(PAPER), ids=lambda cell: cell.name)
def test_each_cell_of_the_paper_finds_its_official_figure(cell: Cell) -> None:
    figure = published_for(cell)
    assert figure is not None
    assert (figure.cell, figure.table, figure.num_seeds, figure.caveat) == (cell, "official", 1, "")
    assert figure.card == ("V100" if cell.dropout else "A100")


def test_a_figure_is_the_published_one() -> None:
    figure = published_for(B16)
    assert figure is not None
    assert (figure.accuracy, figure.wall_hours, figure.card, figure.num_cards) == (0.9876, 7.8, "V100", 8)


def test_cells_of_the_other_table_find_its_figure_and_its_caveat() -> None:
    found = {
        SHORT: 0.9859,
        replace(SHORT, dataset="cifar100", schedule=Schedule(1_000, 100)): 0.9216,
        replace(B16, resolution=224): 0.9908,
        replace(B16, resolution=224, upstream="imagenet21k+imagenet2012-224"): 0.9900,
        replace(B16, resolution=224, model="ViT-L_32", upstream="imagenet21k+imagenet2012"): 0.9903,
    }
    for cell, accuracy in found.items():
        figure = published_for(cell)
        assert figure is not None
        assert (figure.table, figure.accuracy, figure.num_seeds) == ("reimplementation", accuracy, 1)
        assert "another recipe" in figure.caveat


def test_published_cells_are_cells_that_can_be_trained() -> None:
    for table in TABLES:
        for cell in (figure.cell for figure in published_figures(table)):
            config = FinetuneConfig.official(
                cell.model, cell.dataset, resolution=cell.resolution, upstream=cell.upstream
            )
            assert config.global_batch_size == cell.schedule.global_batch_size
            if table != "reimplementation":
                assert (config.total_steps, config.warmup_steps) == (
                    cell.schedule.total_steps,
                    cell.schedule.warmup_steps,
                )


def test_a_cell_is_shown_everything_that_was_published_for_it() -> None:
    def shown(cell: Cell) -> list[tuple[str, float]]:
        return [(figure.table, figure.accuracy) for figure in figures_for(cell)]

    assert shown(B16) == [("official", 0.9876), ("paper", 0.9895), ("reimplementation", 0.9906)]
    assert shown(replace(B16, dropout=0.0)) == [("official", 0.9902)]
    assert shown(replace(B16, model="ViT-H_14", dataset="cifar100")) == [("paper", 0.9382)]
    assert shown(SHORT) == [("reimplementation", 0.9859)]
    for resolution in (224, 384):
        assert shown(replace(B16, resolution=resolution, schedule=Schedule(500, 50))) == [("quoted", 0.9859)]
    both = replace(SHORT, dataset="cifar100", schedule=Schedule(1_000, 100))
    assert shown(both) == [("reimplementation", 0.9216), ("quoted", 0.9115)]
    assert not shown(replace(B16, dropout=None))


def test_the_reimplementation_s_own_column_is_what_is_quoted() -> None:
    beside = {
        (row["dataset"], row["total_steps"]): row["official_accuracy"]
        for row in rows("reimplementation.csv")
        if row["total_steps"] in ("500", "1000")
    }
    assert {(row["dataset"], row["total_steps"]): row["accuracy"] for row in rows("quoted.csv")} == beside


def test_the_row_that_is_left_open() -> None:
    cells = [cell for table in TABLES for cell in published_cells(table)]
    assert len(cells) == 74
    assert [cell for cell in cells if is_left_open(cell)] == [
        replace(B16, model="ViT-H_14", dataset="cifar100", resolution=224)
    ]


def test_the_rows_that_no_cell_finds() -> None:
    unfound = [
        figure for table in TABLES for figure in published_figures(table) if published_for(figure.cell) != figure
    ]
    assert Counter(figure.table for figure in unfound) == {"paper": 12, "reimplementation": 4}
    assert {figure.cell.resolution for figure in unfound} == {384}


@pytest.mark.parametrize(
    "cell",
    [
        *cells_of(MINI)[:2],
        replace(B16, dropout=None),
        replace(B16, dropout=0.2),
        replace(B16, resolution=256),
        replace(SHORT, dropout=0.0),
        replace(SHORT, schedule=Schedule(500, 50)),
        replace(B16, schedule=Schedule(10_000, 500, global_batch_size=256)),
        replace(B16, model="ViT-H_14", dataset="cifar100", resolution=224),
    ],
    ids=lambda cell: cell.name,
)
def test_cells_without_a_published_figure(cell: Cell) -> None:
    assert published_for(cell) is None


def test_the_runs_of_the_official_page() -> None:
    runs = {dataset: replicates(dataset) for dataset in PAPER.datasets}
    assert {dataset: sum(map(len, groups)) for dataset, groups in runs.items()} == {
        "cifar10": 24,
        "cifar100": 24,
        "imagenet2012": 22,
    }
    assert [len(groups) for groups in runs.values()] == [11, 10, 10]
    assert [0.9217, 0.9219, 0.9226, 0.9264, 0.9206] in runs["cifar100"]
    assert [0.9902, 0.9890, 0.9892, 0.9903] in runs["cifar10"], "the run of 2021 had another learning rate"


def test_the_paper_s_figures_agree_with_the_official_ones_at_its_dropout_alone() -> None:
    """What dropout_basis says, and why the paper's rows are cells of dropout 0.1."""
    for dropout, agreeing in (
        (0.1, {"cifar10": 4, "cifar100": 4, "imagenet2012": 4}),
        (0.0, {"cifar10": 4, "cifar100": 4}),
    ):
        pairs = [(each, published_for(replace(each.cell, dropout=dropout))) for each in published_figures("paper")]
        beside = [(each, official) for each, official in pairs if official and official.table == "official"]
        assert len(beside) == 12
        assert agreeing == Counter(
            each.cell.dataset
            for each, official in beside
            if abs(each.accuracy - official.accuracy) <= MARGINS[each.cell.dataset]
        )


def test_runs_of_which_a_deviation_was_published_stand_for_as_many() -> None:
    for dataset, deviation in (("oxford_pets", 0.0015), ("oxford_flowers102", 0.0002)):
        (group,) = replicates(dataset)
        assert statistics.stdev(group) == pytest.approx(deviation)
        assert [row["num_runs"] for row in rows("replicates.csv") if row["dataset"] == dataset] == [str(len(group))]


def test_a_published_run_has_the_learning_rate_behind_its_figure_whatever_is_official_today() -> None:
    assert FinetuneConfig.official("ViT-B_16", "cifar10").base_lr == 0.01
    rates = {
        cell: [rate for rate in (0.001, 0.01, 0.03) if is_published(Trial(cell, rate, 1))] for cell in (B16, SHORT)
    }
    assert rates == {B16: [0.01], SHORT: [0.03]}  # the official table's, and that of the other table's train.py
    assert [published_base_lr(cell) for cell in (B16, SHORT, replace(B16, dropout=0.2))] == [0.01, 0.03, 0.01]
    assert not is_published(Trial(replace(B16, dropout=0.2), 0.01, 0)), "nothing is published"
    assert not is_published(Trial(replace(B16, dropout=None), 0.01, 0, dropout=0.1)), "a candidate of a search"
    assert not is_published(Trial(B16, 0.01, 0, warmup_steps=100))
    others = {cell.model: published_for(cell) for cell in cells_of(PAPER) if cell.dataset == "cifar100"}
    assert {figure and figure.base_lr for figure in others.values()} == {0.03}


def test_a_data_set_that_nobody_has_published_runs_of() -> None:
    with pytest.raises(
        InputError, match="several runs on digits-even: verdicts are for cifar10, cifar100, imagenet2012, ox"
    ):
        replicates("digits-even")


def test_without_a_checkout_the_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(published, "PUBLISHED", tmp_path)
    with pytest.raises(InputError, match=r"official\.csv is not there: .* checkout"):
        published_figures("official")
