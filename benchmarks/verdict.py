"""How often is the verdict wrong, and how often does it see what is there: one cell, the whole table, a tuned rate?

Simulated with the sweep's own rules: runs scatter as the published ones do, as many of each cell as were published.
Prints the tables of docs/verdict.md. Nothing depends on the machine.

Command: python benchmarks/verdict.py
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.provenance import write_json
from sweeps.table.cells import PAPER, cells_of
from sweeps.table.published import published_for, replicates
from sweeps.table.spread import kind_of, pooled, spread_of
from sweeps.table.verdict import MARGINS, SIGNIFICANCE, Status, Verdict, judge
from sweeps.table.whole_table import WholeTable, whole_table
from vit_trainer.command_line import new_app, run
from vit_trainer.data.datasets import DATASETS
from vit_trainer.errors import InputError

app = new_app("Simulates the verdict's error rates and power.", name="verdict.py")

CELLS = cells_of(PAPER)
NUM_SEEDS = (1, 3, 5)
RATE_SPREADS = (0.0, 0.0005, 0.001, 0.002)
"""Standard deviations of what learning rates truly come to."""
NUM_RATES = 4

Shift = Callable[[str, int], float]
"""The true difference of a data set's i-th cell, a fraction."""


def no_shift(dataset: str, i: int) -> float:
    """Every cell is exact."""
    return 0.0


@dataclass(frozen=True)
class World:
    """What is true of a table."""

    name: str
    shift: Shift = no_shift
    scatter: float = 1.0
    """How much our runs differ, as a multiple of theirs."""
    pools: bool = True
    """Whether our repeats count in the spread; False: only the published runs, as before."""


@dataclass(frozen=True)
class Simulated:
    """One simulated table: the verdicts in the order of CELLS, and what they say together."""

    verdicts: list[Verdict]
    whole: WholeTable

    def share(self, dataset: str, *statuses: Status) -> float:
        own = [each for cell, each in zip(CELLS, self.verdicts, strict=True) if cell.dataset == dataset]
        return sum(each.status in statuses for each in own) / len(own)

    @property
    def num_within(self) -> int:
        """Data sets whose mean difference is within the margin."""
        return sum(mean.is_within for mean in self.whole.means.values())


def simulate(world: World, num_seeds: int, num_tables: int) -> Iterator[Simulated]:
    """Tables of 30 cells, each with published runs and seeds of ours of its own."""
    random = np.random.default_rng(0)
    for _ in range(num_tables):
        verdicts: dict[str, list[Verdict]] = {}
        for dataset in PAPER.datasets:
            deviation, margin = spread_of(dataset).deviation, MARGINS[dataset]
            groups = [random.normal(0.95, deviation, size).tolist() for size, _ in sizes_of(dataset)]
            figures = [group[-1] for group, (_, is_figure) in zip(groups, sizes_of(dataset), strict=True) if is_figure]
            ours = [
                random.normal(0.95 + world.shift(dataset, i), world.scatter * deviation, num_seeds).tolist()
                for i in range(len(figures))
            ]
            spread = pooled([*groups, *ours] if world.pools else groups)
            verdicts[dataset] = [
                judge(own, figure, 1, spread, margin) for own, figure in zip(ours, figures, strict=True)
            ]
        in_order = [verdicts[cell.dataset].pop(0) for cell in CELLS]
        kinds = [kind_of(cell) for cell in CELLS]
        yield Simulated(in_order, whole_table(list(zip(kinds, in_order, strict=True))))


def sizes_of(dataset: str) -> list[tuple[int, bool]]:
    """How many runs of each cell and rate are published, and whether the last is the figure of a verdict."""
    figures = {figure.accuracy for cell in CELLS if cell.dataset == dataset and (figure := published_for(cell))}
    sizes = [(len(group), group[-1] in figures) for group in replicates(dataset)]
    assert sum(is_figure for _, is_figure in sizes) == 10
    return sizes


def off_by_margin(*, alternating: bool = False) -> Shift:
    """Every cell differs by the margin of its data set; alternating: every second one above, the others below."""
    return lambda dataset, i: MARGINS[dataset] * (-1 if alternating and i % 2 else 1)


def one_cell(times: float) -> Shift:
    """One cell in all differs, on CIFAR-100."""
    return lambda dataset, i: times * MARGINS[dataset] * (dataset == "cifar100" and i == 0)


WHOLE: tuple[World, ...] = (
    World("all exact"),
    World("all exact, s of the published runs alone", pools=False),
    World("one cell of cifar100 off by the margin", one_cell(1)),
    World("one cell of cifar100 off by twice the margin", one_cell(2)),
    World("every cell off by the margin", off_by_margin()),
    World("half of the cells above, half below by the margin", off_by_margin(alternating=True)),
)
SCATTER: tuple[World, ...] = tuple(
    World(f"{name}, {'ours pooled' if pools else 'published only'}", scatter=scatter, pools=pools)
    for scatter, name in ((1.0, "as theirs"), (1.5, "1.5 times theirs"), (2.0, "2 times theirs"))
    for pools in (True, False)
)


def of_cells(num_tables: int) -> list[list[str]]:
    """One cell: how often each verdict comes up."""
    rows = []
    for name, shift, statuses in (
        ("exact: reproduced", no_shift, (Status.REPRODUCED,)),
        ("exact: above or below", no_shift, (Status.ABOVE, Status.BELOW)),
        ("off by the margin: reproduced", off_by_margin(), (Status.REPRODUCED,)),
    ):
        for num_seeds in NUM_SEEDS:
            tables = list(simulate(World(name, shift), num_seeds, num_tables))
            shares = [np.mean([table.share(dataset, *statuses) for table in tables]) for dataset in PAPER.datasets]
            rows.append([name, str(num_seeds), *(f"{share:.0%}" for share in shares)])
    return rows


def of_whole_tables(num_tables: int) -> list[list[str]]:
    """The whole table: how often each statement is made."""
    rows = []
    for world in WHOLE:
        for num_seeds in NUM_SEEDS:
            tables = list(simulate(world, num_seeds, num_tables))
            called = [sum(each.status in (Status.ABOVE, Status.BELOW) for each in table.verdicts) for table in tables]
            values = [
                np.mean([any(each.p_value < SIGNIFICANCE for each in table.verdicts) for table in tables]),
                np.mean([number > 0 for number in called]),
                np.mean([any(table.whole.differs) for table in tables]),
                np.mean([table.num_within for table in tables]) / len(PAPER.datasets),
                np.mean([table.whole.counts[Status.REPRODUCED] == len(CELLS) for table in tables]),
            ]
            reproduced = np.mean([table.whole.counts[Status.REPRODUCED] for table in tables])
            rows.append([world.name, str(num_seeds), *(f"{value:.0%}" for value in values), f"{reproduced:.1f}"])
    return rows


def of_scatter(num_tables: int) -> list[list[str]]:
    """What it does if our runs scatter more than theirs, 3 seeds each, all exact."""
    rows = []
    for world in SCATTER:
        tables = list(simulate(world, 3, num_tables))
        values = [
            np.mean([table.whole.counts[Status.ABOVE] + table.whole.counts[Status.BELOW] for table in tables]) / 30,
            np.mean([any(table.whole.differs) for table in tables]),
            np.mean([table.whole.counts[Status.REPRODUCED] for table in tables]) / 30,
        ]
        rows.append([world.name, *(f"{value:.0%}" for value in values)])
    return rows


def of_tuning(num_tables: int) -> list[list[str]]:
    """The best of four rates beside one fixed rate that all else is the same as, one seed each, on CIFAR-10.

    A run's quality is that of its rate and chance; validation adds what 1,000 images add at 99%, in part the same for
    all candidates, since they are asked about the same images.
    """
    random = np.random.default_rng(0)
    num, rows = 30 * num_tables, []
    deviation = spread_of("cifar10").deviation
    noise = math.sqrt(0.99 * 0.01 / DATASETS["cifar10"].num_validation)
    for shared in (0.0, 0.8):
        for rate_spread in RATE_SPREADS:
            rates = rate_spread * random.standard_normal((num, NUM_RATES))
            quality = rates + deviation * random.standard_normal((num, NUM_RATES))
            own = noise * math.sqrt(1 - shared) * random.standard_normal((num, NUM_RATES))
            validation = quality + own  # what all candidates share changes no choice
            best = quality[np.arange(num), validation.argmax(axis=1)]
            published = rates[:, 0] + deviation * random.standard_normal(num)
            differences = best - published, quality[:, 0] - published
            reach = 1.96 * math.sqrt(2) * deviation  # half of the 95% interval, s being known
            above = [f"{np.mean(each > reach):.0%}" for each in differences]
            rows.append([f"{shared:.0%}", f"{100 * rate_spread:g}", f"{100 * differences[0].mean():+.2f}", *above])
    return rows


def of_data_sets() -> list[list[str]]:
    """What a data set's sizes make of an accuracy in the middle of those published."""
    rows = []
    for dataset in PAPER.datasets:
        accuracies = [figure.accuracy for cell in CELLS if cell.dataset == dataset and (figure := published_for(cell))]
        info, middle = DATASETS[dataset], float(np.median(accuracies))
        random = np.random.default_rng(0)
        validation = random.binomial(info.num_validation, middle, 100_000) / info.num_validation
        left_out = info.num_test % 512
        wrong = round((1 - middle) * info.num_test)
        missed = random.hypergeometric(wrong, info.num_test - wrong, left_out, 100_000)
        official = 1 - (wrong - missed) / (info.num_test - left_out)
        odds = [accuracy * (1 - accuracy) for accuracy in accuracies]
        squares = [
            sum((math.log(x / (1 - x)) - np.mean([math.log(y / (1 - y)) for y in group])) ** 2 for x in group)
            for group in replicates(dataset)
        ]
        logit = math.sqrt(sum(squares) / spread_of(dataset).degrees_of_freedom)
        ratios = [logit * each / spread_of(dataset).deviation for each in odds]
        rows.append(
            [
                dataset,
                f"{100 * middle:.2f}",
                f"{info.num_validation:,}",
                f"{100 * validation.std():.2f}",
                f"{100 * official.std():.3f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            ]
        )
    return rows


HEADERS = {
    "cells": ("one cell", "seeds", *PAPER.datasets),
    "whole": (
        "30 cells",
        "seeds",
        "any interval without 0",
        "any above or below",
        "some differ (Holm)",
        "a mean within",
        "all 30 reproduced",
        "reproduced, of 30",
    ),
    "scatter": ("our runs scatter", "a cell is above or below", "some differ (Holm)", "a cell is reproduced"),
    "tuning": (
        "luck shared",
        "rates differ by",
        "gain of the best of 4",
        "it looks above",
        "the fixed rate looks above",
    ),
    "data sets": (
        "",
        "accuracy",
        "validation images",
        "standard error",
        "shift by images left out",
        "s on a logit scale",
    ),
}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as docs/verdict.md has it."""
    rules = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rules, *rows))


@app.default
def verdict(*, num_tables: int = 2_000, json: Path | None = None) -> int:
    """Simulate tables of 30 cells.

    Args:
        num_tables: for each row; at least 10. The documentation has 2,000.
        json: where to write the figures.
    """
    if num_tables < 10:
        raise InputError(f"num_tables {num_tables} is below 10: give a whole number of at least 10")
    found = {
        "cells": of_cells(max(10, num_tables // 4)),
        "whole": of_whole_tables(num_tables),
        "scatter": of_scatter(num_tables),
        "tuning": of_tuning(num_tables),
        "data sets": of_data_sets(),
    }
    for name, rows in found.items():
        print(markdown(HEADERS[name], rows), end="\n\n")
    if json is not None:
        write_json(json, {"num_tables": num_tables, **found})
    return 0


if __name__ == "__main__":
    run(app)
