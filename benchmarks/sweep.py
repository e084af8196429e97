"""What does early stopping cost and keep, and how far from the best is the order in which trials start?

Simulated: the real rules on made-up learning curves, the real plan on the paper's grid. Nothing depends on the machine.

Command: python benchmarks/sweep.py
"""

import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.provenance import write_json
from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates
from sweeps.planning.capacity import wall_hours
from sweeps.planning.order import cheapest_first, longest_first
from sweeps.planning.rates import Rates
from sweeps.selection.asha_rule import Rungs
from sweeps.selection.rehearsal import short
from sweeps.table.cells import PAPER, Schedule, Trial, cells_of
from vit_trainer.cards import CARDS
from vit_trainer.command_line import new_app, run
from vit_trainer.errors import InputError

app = new_app("Simulates early stopping and the order of trials.", name="sweep.py")

SCHEDULE = Schedule(10_000, 500)
"""CIFAR's schedule."""
CORRELATIONS = (1.0, 0.8, 0.5)
"""Correlations of what a candidate has at a rung, or after its rehearsal, with what it has in the end."""
NUM_CANDIDATES = 4
NUM_ORDERS = 50
"""Random orders of trials."""


@dataclass(frozen=True)
class Selection:
    """What a way to select a cell's candidate comes to, on average."""

    method: str
    correlation: float
    share_of_all: float
    """Steps taken, as a share of all candidates run to their end."""
    best_kept: float
    """How often the candidate that would be the best in the end is the one that the cell is left with."""
    regret: float
    """How much worse the cell's is, in standard deviations of candidates."""


@dataclass(frozen=True)
class Makespan:
    """How long the paper's grid takes in some order."""

    order: str
    num_gpus: int
    hours: float
    over_least: float
    """Its hours as a multiple of what no order could beat."""


class Candidate:
    """A made-up learning curve: what it has in the end is normal, what it has before is correlated with that.

    At every look before the end: c * final + sqrt(1 - c^2) * noise, with noise of its own for each look.
    """

    def __init__(self, draw: random.Random, correlation: float) -> None:
        self._draw, self._correlation = draw, correlation
        self.final = draw.gauss(0, 1)

    def early(self) -> float:
        """What a look before the end shows."""
        noise = math.sqrt(1 - self._correlation**2) * self._draw.gauss(0, 1)
        return self._correlation * self.final + noise


Method = Callable[[list[Candidate], random.Random], tuple[int, Candidate]]
"""Gets a cell's candidates; gives the steps that it took and the candidate that it is left with."""


def run_all(candidates: list[Candidate], draw: random.Random) -> tuple[int, Candidate]:
    """Every candidate to its end."""
    return len(candidates) * SCHEDULE.total_steps, max(candidates, key=lambda each: each.final)


def run_asha(candidates: list[Candidate], draw: random.Random) -> tuple[int, Candidate]:
    """The sweep's own rule; the candidates run beside each other and come to each rung in a random order."""
    rungs = Rungs("cell", total_steps=SCHEDULE.total_steps, reduction_factor=2, grace_fraction=0.25)
    alive = dict(enumerate(candidates))
    rungs.live = {str(i) for i in alive}
    steps = 0
    for step in sorted(rungs.steps):
        for i in draw.sample(list(alive), len(alive)):
            # Accuracies: the rule counts what is no number as 0, the worst there is.
            decision = rungs.decide(str(i), step, 1 + alive[i].early() / 100)
            if decision is not None and decision.action == "stops":
                del alive[i]
                steps += step
    return steps + len(alive) * SCHEDULE.total_steps, max(alive.values(), key=lambda each: each.final)


def run_rehearsal(candidates: list[Candidate], draw: random.Random) -> tuple[int, Candidate]:
    """Short schedules of all, then the best of these whole."""
    steps = len(candidates) * short(SCHEDULE).total_steps + SCHEDULE.total_steps
    return steps, max(candidates, key=lambda each: each.early())


METHODS: dict[str, Method] = {"all": run_all, "ASHA per cell": run_asha, "rehearsal": run_rehearsal}


def select(method: str, correlation: float, num_cells: int) -> Selection:
    """Average over cells of random candidates, the same for every method."""
    steps, kept, regrets = 0, 0, []
    for seed in range(num_cells):
        draw = random.Random(seed)
        candidates = [Candidate(draw, correlation) for _ in range(NUM_CANDIDATES)]
        taken, left_with = METHODS[method](candidates, random.Random(seed + num_cells))
        best = max(each.final for each in candidates)
        steps += taken
        kept += left_with.final == best
        regrets.append(best - left_with.final)
    whole = num_cells * NUM_CANDIDATES * SCHEDULE.total_steps
    return Selection(method, correlation, steps / whole, kept / num_cells, statistics.fmean(regrets))


def makespans(num_gpus: int) -> list[Makespan]:
    """Wall hours of the paper's grid with all its candidates, without early stopping, on one-GPU trials."""
    trials = candidates(SweepOptions(base_lrs=()), cells_of(PAPER))
    rates = Rates(CARDS["A100-40GB"])
    hours = {trial: rates.hours(trial) or 0.0 for trial in trials}
    least = max(sum(hours.values()) / num_gpus, *hours.values())

    def wall(ordered: Sequence[Trial]) -> float:
        return wall_hours([(hours[trial], (1,)) for trial in ordered], [num_gpus])

    draw = random.Random(0)
    orders = {
        "longest cell first (the sweep's)": wall(longest_first(trials)),
        "as the table lists them": wall(trials),
        "cheapest cell first (under a budget)": wall(cheapest_first(trials)),
        f"random (mean of {NUM_ORDERS})": statistics.fmean(
            wall(draw.sample(trials, len(trials))) for _ in range(NUM_ORDERS)
        ),
    }
    return [Makespan(name, num_gpus, value, value / least) for name, value in orders.items()]


@app.default
def sweep(*, num_cells: int = 10_000, json: Path | None = None) -> int:
    """Simulate cells of four candidates, and the order of the paper's 120 trials.

    Args:
        num_cells: simulated for each method and correlation; at least 10.
        json: where to write the figures.
    """
    if num_cells < 10:
        raise InputError(f"num_cells {num_cells} is below 10: give a whole number of at least 10")
    selections = [select(method, correlation, num_cells) for correlation in CORRELATIONS for method in METHODS]
    orders = [each for num_gpus in (8, 32) for each in makespans(num_gpus)]
    console = Console()
    table = Table(title=f"{NUM_CANDIDATES} candidates, {num_cells} cells", title_justify="left")
    for name in ("correlation", "method", "steps", "best kept", "regret (sd)"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for each in selections:
        row = (f"{each.correlation:g}", each.method, f"{each.share_of_all:.1%}", f"{each.best_kept:.1%}")
        table.add_row(*row, f"{each.regret:.3f}")
    console.print(table)
    table = Table(title="the paper's 120 trials", title_justify="left")
    for name in ("GPUs", "order", "hours", "of the least"):
        table.add_column(name, justify="left" if name == "order" else "right")
    for span in orders:
        table.add_row(str(span.num_gpus), span.order, f"{span.hours:.1f}", f"{span.over_least:.3f}")
    console.print(table)
    if json is not None:
        figures = {"num_cells": num_cells, "selections": [asdict(each) for each in selections]}
        write_json(json, figures | {"makespans": [asdict(each) for each in orders]})
    return 0


if __name__ == "__main__":
    run(app)
