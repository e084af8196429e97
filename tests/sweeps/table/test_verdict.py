"""The verdict: its error rates on simulated cells, its power, and that it does what docs/verdict.md says."""

import doctest
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.verdict import Simulated, World, off_by_margin, simulate
from sweeps.table.cells import PAPER, Cell, Schedule, cells_of
from sweeps.table.published import TABLES, Table, published_figures, published_for, replicates
from sweeps.table.spread import Spread, chance_beyond, pooled, spread_for, spread_of, t_beyond
from sweeps.table.verdict import (
    MARGINS,
    MAX_NUM_SEEDS,
    Status,
    Verdict,
    judge,
    verdict_on,
)
from sweeps.table.whole_table import holm, mean_difference
from vit_trainer.errors import InputError

DOCS = Path(__file__).parents[3] / "docs" / "verdict.md"
B16 = Cell("imagenet21k", "ViT-B_16", "cifar100", 384, Schedule(10_000, 500), 0.0)
NUM_CELLS = 2_000
NUM_TABLES = 200
SLACK = 3 * math.sqrt(0.05 * 0.95 / NUM_CELLS)
"""Three standard errors of a simulated rate of 5%."""
DEVIATION, MARGIN = 0.001, 0.006
GROUP_SIZES = [5, 3, 3, 3, 3, 3, 1, 1, 1, 1]
"""As on CIFAR: 14 degrees of freedom."""


@lru_cache
def simulated(difference: float, num_seeds: int, num_published_seeds: int = 1, margin: float = MARGIN) -> list[Verdict]:
    """Verdicts on cells whose true difference is known; each has replicates of its own, so that s is estimated."""
    random = np.random.default_rng(0)
    verdicts = []
    for _ in range(NUM_CELLS):
        spread = pooled([random.normal(0.9, DEVIATION, size).tolist() for size in GROUP_SIZES])
        published = float(random.normal(0.92, DEVIATION, num_published_seeds).mean())
        ours = random.normal(0.92 + difference, DEVIATION, num_seeds).tolist()
        verdicts.append(judge(ours, published, num_published_seeds, spread, margin))
    return verdicts


def share(verdicts: Sequence[Verdict], *statuses: Status) -> float:
    return sum(verdict.status in statuses for verdict in verdicts) / len(verdicts)


# Simulated cells.


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("num_seeds", "num_published_seeds"), [(1, 1), (3, 1), (5, 1), (3, 3)])
def test_a_difference_as_large_as_the_margin_is_reproduced_in_5_percent(
    num_seeds: int, num_published_seeds: int, sign: int
) -> None:
    rate = share(simulated(sign * MARGIN, num_seeds, num_published_seeds), Status.REPRODUCED)
    assert 0.05 - SLACK < rate < 0.05 + SLACK  # not far less either: the test wastes nothing


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
@pytest.mark.parametrize("margin", [0.002, 0.003])
def test_a_margin_that_the_runs_can_not_resolve_does_not_make_false_reproductions(
    margin: float, num_seeds: int
) -> None:
    assert share(simulated(margin, num_seeds, margin=margin), Status.REPRODUCED) < 0.05 + SLACK


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_without_a_difference_above_and_below_come_up_in_5_percent(num_seeds: int) -> None:
    verdicts = simulated(0.0, num_seeds, margin=1e-9)  # so that none is reproduced
    assert 0.05 - SLACK < share(verdicts, Status.ABOVE, Status.BELOW) < 0.05 + SLACK
    assert share(simulated(0.0, num_seeds), Status.ABOVE, Status.BELOW) < 0.05 + SLACK


def test_the_interval_holds_the_true_difference_in_95_percent() -> None:
    verdicts = simulated(0.002, 3)
    held = sum(verdict.interval_95[0] < 0.002 < verdict.interval_95[1] for verdict in verdicts) / NUM_CELLS
    assert 0.95 - SLACK < held < 0.95 + SLACK


@pytest.mark.parametrize(("difference", "status"), [(0.0, "reproduced"), (0.01, "above"), (-0.01, "below")])
def test_clear_cases_are_seen(difference: float, status: str) -> None:
    assert share(simulated(difference, 1), Status(status)) > 0.95


# Simulated tables.


def whole_tables(world: World, num_seeds: int = 3) -> list[Simulated]:
    return list(simulate(world, num_seeds, NUM_TABLES))


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_of_exact_tables_5_percent_at_most_are_said_to_have_a_cell_that_differs(num_seeds: int) -> None:
    tables = whole_tables(World("exact"), num_seeds)
    assert sum(any(table.whole.differs) for table in tables) / NUM_TABLES < 0.05 + 3 * math.sqrt(
        0.05 * 0.95 / NUM_TABLES
    )
    assert all(table.num_within == 3 for table in tables)
    singly = sum(any(each.p_value < 0.05 for each in table.verdicts) for table in tables) / NUM_TABLES
    assert singly > 0.5, "which is why one by one isn't enough"


def test_a_mean_that_is_off_by_the_margin_is_said_to_be_within_it_in_5_percent() -> None:
    tables = whole_tables(World("off", off_by_margin()))
    rate = sum(table.num_within for table in tables) / (3 * NUM_TABLES)
    assert rate < 0.05 + 3 * math.sqrt(0.05 * 0.95 / (3 * NUM_TABLES))
    assert all(any(table.whole.differs) for table in tables)


def test_differences_that_cancel_in_the_mean_are_seen_cell_by_cell() -> None:
    tables = whole_tables(World("half and half", off_by_margin(alternating=True)))
    assert all(table.num_within == 3 and any(table.whole.differs) for table in tables)


def test_holm_rejects_what_adjusted_p_values_reject() -> None:
    random = np.random.default_rng(3)
    for num in (1, 2, 10, 30):
        p_values = (random.uniform(0, 1, num) ** 3).tolist()
        ranked = sorted(p_values)
        adjusted = np.maximum.accumulate([p * (num - rank) for rank, p in enumerate(ranked)])
        assert holm(p_values) == [bool(adjusted[ranked.index(p)] <= 0.05) for p in p_values]


def test_the_mean_of_one_cell_is_that_cell() -> None:
    for case in random_cases():
        verdict = judge(*case)
        mean = mean_difference([verdict])
        assert mean.difference == verdict.difference
        assert mean.is_within == (verdict.status is Status.REPRODUCED)


# Properties, on random inputs.


def random_cases(num_cases: int = 200) -> list[tuple[list[float], float, int, Spread, float]]:
    random = np.random.default_rng(1)
    cases = []
    for _ in range(num_cases):
        spread = Spread(float(random.uniform(1e-4, 3e-3)), int(random.integers(1, 40)))
        published, shift = random.uniform(0.5, 0.9), random.uniform(-0.01, 0.01)
        ours = (published + shift + random.normal(0, spread.deviation, random.integers(1, 6))).tolist()
        cases.append((ours, float(published), int(random.integers(1, 4)), spread, float(random.uniform(1e-4, 2e-2))))
    return cases


def test_verdicts_agree_with_the_tests_of_scipy() -> None:
    for ours, published, num_published, spread, margin in random_cases():
        verdict = judge(ours, published, num_published, spread, margin)
        error = spread.deviation * math.sqrt(1 / len(ours) + 1 / num_published)
        difference = stats.t(spread.degrees_of_freedom, loc=np.mean(ours) - published, scale=error)
        reproduced = difference.cdf(-margin) < 0.05 and difference.sf(margin) < 0.05
        p_value = 2 * min(difference.cdf(0), difference.sf(0))
        sign = "above" if np.mean(ours) > published else "below"
        assert verdict.status == ("reproduced" if reproduced else sign if p_value < 0.05 else "inconclusive")
        assert verdict.interval_95 == pytest.approx(difference.interval(0.95))
    assert {judge(*case).status for case in random_cases()} == set(Status)


def test_exchanging_the_sides_exchanges_above_and_below() -> None:
    mirrored = {"above": "below", "below": "above"}
    for ours, published, num_published, spread, margin in random_cases():
        here = judge([ours[0]], published, num_published, spread, margin)
        there = judge([published] * num_published, ours[0], 1, spread, margin)
        assert there.status == mirrored.get(here.status, here.status)
        assert there.difference == pytest.approx(-here.difference)


def test_a_wider_margin_never_takes_a_reproduction_away() -> None:
    for ours, published, num_published, spread, margin in random_cases():
        if judge(ours, published, num_published, spread, margin).status == "reproduced":
            assert judge(ours, published, num_published, spread, 2 * margin).status == "reproduced"


def test_the_seeds_said_to_be_needed_decide_and_one_fewer_does_not() -> None:
    answers = set()
    for ours, published, num_published, spread, margin in random_cases(2_000):
        verdict = judge(ours, published, num_published, spread, margin)
        needed, mean = verdict.more_seeds_needed, math.fsum(ours) / len(ours)
        answers.add("none" if needed is None else min(needed, 2))
        assert (needed == 0) == (verdict.status != "inconclusive")
        if needed is None:
            assert judge([mean] * MAX_NUM_SEEDS, published, num_published, spread, margin).status == "inconclusive"
        elif needed:
            num_seeds = len(ours) + needed
            assert judge([mean] * num_seeds, published, num_published, spread, margin).status != "inconclusive"
            assert judge([mean] * (num_seeds - 1), published, num_published, spread, margin).status == "inconclusive"
    assert answers == {"none", 0, 1, 2}


def test_the_spread_is_that_of_an_analysis_of_variance() -> None:
    random = np.random.default_rng(2)
    groups = [random.normal(mean, 0.01, 4) for mean in (0.1, 0.5, 0.9)]
    spread = pooled([group.tolist() for group in groups])
    assert spread.deviation == pytest.approx(math.sqrt(np.mean([np.var(group, ddof=1) for group in groups])))
    assert spread.degrees_of_freedom == 9
    assert pooled([*[group.tolist() for group in groups], [0.3]]) == spread


@pytest.mark.parametrize("degrees_of_freedom", [1, 2, 3, 13, 14, 101])
def test_student_s_t_is_that_of_scipy(degrees_of_freedom: int) -> None:
    for t in (0.0, 0.3, -1.0, 2.2, 5.0, 30.0):
        assert chance_beyond(t, degrees_of_freedom) == pytest.approx(
            2 * stats.t.sf(abs(t), degrees_of_freedom), abs=1e-14
        )
    for chance in (0.1, 0.05, 0.001):
        assert t_beyond(chance, degrees_of_freedom) == pytest.approx(stats.t.isf(chance / 2, degrees_of_freedom))


def test_our_runs_count_in_the_spread_of_their_kind_alone() -> None:
    ours = [[0.90, 0.92, 0.91], [0.93]]
    published = replicates("cifar100")
    both = spread_for(B16, ours)
    assert both == replace(pooled([*published, *ours]), runs="20 published, 3 of ours")
    assert spread_for(B16, [[0.9]]) == spread_of("cifar100") == spread_for(B16)
    short = replace(B16, resolution=224)
    assert spread_for(short, ours) == replace(
        spread_of("cifar100"), runs="20 published of another schedule or resolution"
    ), "two degrees of freedom are too few"
    assert spread_for(short, [*ours, *ours]) == replace(pooled(ours * 2), runs="6 of ours")
    assert spread_for(short, [[0.9] * 5]).runs.startswith("20 published"), "no spread at all is none"


# The real figures.


@pytest.mark.parametrize(("dataset", "points"), [("cifar10", 0.0443), ("cifar100", 0.1618), ("imagenet2012", 0.0718)])
def test_the_published_spreads(dataset: str, points: float) -> None:
    assert 100 * spread_of(dataset).deviation == pytest.approx(points, abs=5e-5)


@pytest.mark.parametrize("dataset", PAPER.datasets)
def test_a_margin_is_the_largest_difference_between_official_runs_of_one_cell_rounded_up(dataset: str) -> None:
    largest = max(max(group) - min(group) for group in replicates(dataset))
    assert pytest.approx(math.ceil(round(1_000 * largest, 6)) / 1_000) == MARGINS[dataset]


@pytest.mark.parametrize("cell", cells_of(PAPER), ids=lambda cell: cell.name)
def test_the_published_accuracy_itself_is_a_reproduction(cell: Cell) -> None:
    figure = published_for(cell)
    assert figure is not None
    assert verdict_on(figure, [figure.accuracy]).status == "reproduced"
    assert verdict_on(figure, [figure.accuracy], margin=1e-6).status == "inconclusive"


@pytest.mark.parametrize("table", ["paper", "reimplementation"])
def test_the_other_tables_can_be_judged_too(table: Table) -> None:
    for figure in published_figures(table):
        assert verdict_on(figure, [figure.accuracy - 0.02] * 3).status == "below"
        assert spread_for(figure.cell) is not None


def test_margins_of_what_has_no_single_published_runs_are_four_deviations() -> None:
    assert set(MARGINS) == {figure.cell.dataset for table in TABLES for figure in published_figures(table)}
    for dataset in set(MARGINS) - set(PAPER.datasets):
        assert pytest.approx(math.ceil(round(4_000 * spread_of(dataset).deviation, 6)) / 1_000) == MARGINS[dataset]
        assert all(3.5 < MARGINS[other] / spread_of(other).deviation < 4.6 for other in PAPER.datasets)


# What the documentation says.


def test_the_worked_example_of_the_documentation() -> None:
    failed, attempted = doctest.testfile(str(DOCS), module_relative=False)
    assert (failed, attempted > 5) == (0, True)


def test_the_arithmetic_that_the_documentation_spells_out() -> None:
    text = DOCS.read_text()
    verdict = judge([0.9231, 0.9205, 0.9220], 0.9206, 1, spread_of("cifar100"), 0.006)
    half = (verdict.interval_95[1] - verdict.interval_95[0]) / 2
    one_sided, two_sided = stats.t.ppf([0.95, 0.975], spread_of("cifar100").degrees_of_freedom)
    error = half / two_sided
    assert f"d = 92.187 - 92.06 = +{100 * verdict.difference:.3f} points" in text
    assert f"√(1/3 + 1/1) = {100 * error:.3f} points" in text
    reach = 100 * (verdict.difference + one_sided * error)
    assert f"0.127 + {one_sided:.3f} · {100 * error:.3f} = {reach:.3f} < 0.6" in text
    assert f"t₀.₉₇₅ is {two_sided:.3f}: the 95% interval is 0.127 ± {100 * half:.3f}" in text


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_tables_of_the_documentation_are_what_the_benchmark_prints() -> None:
    command = [sys.executable, str(DOCS.parent.parent / "benchmarks" / "verdict.py")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    tables = printed.strip().split("\n\n")
    assert len(tables) == 5
    text = re.sub(r"(?m)^  (?=\|)", "", DOCS.read_text())
    assert not [table for table in tables if table not in text]


def test_what_the_documentation_says_of_the_tables() -> None:
    text = re.sub(r"\s+", " ", DOCS.read_text())
    ranges = {name: max(max(group) - min(group) for group in replicates(name)) for name in PAPER.datasets}
    assert (
        "CIFAR-10 {cifar10:.2f}, CIFAR-100 {cifar100:.2f}, ImageNet {imagenet2012:.2f} points".format(
            **{name: 100 * value for name, value in ranges.items()}
        )
        in text
    )
    assert math.sqrt(2) * spread_of("cifar100").deviation * stats.t.ppf(0.95, 14) > 0.004  # never, with one seed
    assert f"1 - 0.95³⁰ = {1 - 0.95**30:.0%}" in text
    p_values = [
        stats.bartlett(*[group for group in replicates(name) if len(group) > 1]).pvalue for name in PAPER.datasets
    ]
    assert f"(p = {', '.join(f'{p:.2f}' for p in p_values)})" in text
    of_imagenet = [cell for cell in cells_of(PAPER) if cell.dataset == "imagenet2012" and cell.dropout == 0]
    for cell in of_imagenet:
        without, with_dropout = published_for(cell), published_for(replace(cell, dropout=0.1))
        assert without is not None
        assert with_dropout is not None
        assert abs(without.accuracy - with_dropout.accuracy) > MARGINS["imagenet2012"]


# Bad input.


@pytest.mark.parametrize("accuracies", [[], [92.31], [0.92, math.nan], [-0.1]])
def test_accuracies_must_be_fractions(accuracies: list[float]) -> None:
    with pytest.raises(InputError, match=r"give no verdict: give one or more fractions in \[0, 1\]"):
        judge(accuracies, 0.92, 1, Spread(0.001, 14), 0.006)


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.0, math.nan])
def test_a_margin_is_a_positive_fraction(margin: float) -> None:
    with pytest.raises(InputError, match=r"is outside \(0, 1\): give a fraction such as 0.003, which is 0.3 points"):
        judge([0.92], 0.92, 1, Spread(0.001, 14), margin)
