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
from sweeps.planning.halving import Halving
from sweeps.planning.order import cheapest_first, longest_first
from sweeps.planning.rates import Rates
from sweeps.records.decisions import METRIC
from sweeps.selection.asha_rule import Rungs
from sweeps.selection.promotion import Race
from sweeps.selection.rehearsal import short
from sweeps.table.cells import PAPER, Trial, cells_of, official_cell
from vit_trainer.cards import CARDS
from vit_trainer.command_line import new_app, run
from vit_trainer.errors import InputError

app = new_app("Simulates early stopping and the order of trials.", name="sweep.py")

CELL = official_cell("ViT-B_16", "cifar10")
SCHEDULE = CELL.schedule
"""CIFAR's."""
NUM_CANDIDATES = 4
NUM_ORDERS = 50
"""Random orders of trials."""


@dataclass(frozen=True)
class World:
    """What is assumed of learning curves: the truth isn't known, so there are several."""

    name: str
    correlation: float = 0.8
    """Of what a candidate has at the first look, or after its rehearsal, with what it has in the end."""
    grows: bool = False
    """Whether it goes to 1 with the share of the schedule that is behind a look; else it stays until the end."""
    bias: float = 0.0
    """How much worse than it is the highest rate looks before it has decayed, the lowest better, in deviations."""
    published_best: float = 0.25
    """How often the published rate is the best of the four."""


WORLDS = (
    World("1", 1.0),
    World("0.8"),
    World("0.5", 0.5),
    World("0.8, grows", grows=True),
    World("0.8, bias", bias=1.0),
    World("published 50%", published_best=0.5),
    World("published 75%", published_best=0.75),
)


@dataclass(frozen=True)
class Selection:
    """What a way to select a cell's candidate comes to in a world, on average."""

    method: str
    world: str
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

    At every look before the end: c * final + sqrt(1 - c^2) * noise - bias, with noise of its own for each look.
    """

    def __init__(self, draw: random.Random, world: World, place: float) -> None:
        """place: of its rate among the others', from -1 for the lowest to 1."""
        self._draw, self._world, self._place = draw, world, place
        self.final = draw.gauss(0, 1)

    def early(self, share: float = 0.0, *, decayed: bool = False) -> float:
        """What a look before the end shows, with this share of the schedule behind it."""
        world = self._world
        c = world.correlation + (1 - world.correlation) * share if world.grows else world.correlation
        bias = 0.0 if decayed else world.bias * self._place
        return c * self.final + math.sqrt(1 - c**2) * self._draw.gauss(0, 1) - bias


Method = Callable[[list[Candidate], random.Random, int], tuple[int, Candidate]]
"""Gets a cell's candidates and the published one's place; gives the steps taken and whom the cell is left with."""


def run_all(candidates: list[Candidate], draw: random.Random, published: int) -> tuple[int, Candidate]:
    """Every candidate to its end."""
    return len(candidates) * SCHEDULE.total_steps, max(candidates, key=lambda each: each.final)


def run_stopping(candidates: list[Candidate], draw: random.Random, published: int) -> tuple[int, Candidate]:
    """The rule that stops at once (Optuna's searches'); candidates come to each rung in a random order."""
    rungs = Rungs("cell", total_steps=SCHEDULE.total_steps, reduction_factor=2, grace_fraction=0.25)
    alive = dict(enumerate(candidates))
    rungs.live = {str(i) for i in alive}
    steps = 0
    for step in sorted(rungs.steps):
        for i in draw.sample(list(alive), len(alive)):
            # Accuracies: the rule counts what is no number as 0, the worst there is.
            decision = rungs.decide(str(i), step, 1 + alive[i].early(step / SCHEDULE.total_steps) / 100)
            if decision is not None and decision.action == "stops":
                del alive[i]
                steps += step
    return steps + len(alive) * SCHEDULE.total_steps, max(alive.values(), key=lambda each: each.final)


def promotion(halving: Halving, *, with_published: bool, others: int | None = None) -> Method:
    """The sweep's own rule; others: so many beside the published one, which takes a place of its own."""

    def run(candidates: list[Candidate], draw: random.Random, published: int) -> tuple[int, Candidate]:
        trials = {Trial(CELL, 0.01 * (i + 1), 0): each for i, each in enumerate(candidates)}
        certain = list(trials)[published]
        racing = [trial for trial in trials if others is None or trial != certain]
        race = Race("cell", racing, halving, lambda trial: with_published and trial == certain)
        steps = dict.fromkeys(trials, 0) | ({} if others is None else {certain: SCHEDULE.total_steps})
        while legs := race.legs:
            for leg in legs:
                if leg.until is not None or not race.decisions():
                    step = leg.until or halving.steps(SCHEDULE)[0]
                    value = 1 + trials[leg.trial].early(step / SCHEDULE.total_steps) / 100
                    race.reported(leg.trial, {"step": step, METRIC: value})
                steps[leg.trial] = leg.until or SCHEDULE.total_steps
                if leg.until is None:
                    race.ended(leg.trial, "finished")
        whole = [each for trial, each in trials.items() if steps[trial] == SCHEDULE.total_steps]
        return sum(steps.values()), max(whole, key=lambda each: each.final)

    return run


def rehearsal(keep: int, *, with_published: bool = False) -> Method:
    """Short schedules of all, then the best of these whole."""

    def run(candidates: list[Candidate], draw: random.Random, published: int) -> tuple[int, Candidate]:
        kept = sorted(candidates, key=lambda each: -each.early(decayed=True))[:keep]
        if with_published and candidates[published] not in kept:
            kept.append(candidates[published])
        steps = len(candidates) * short(SCHEDULE).total_steps + len(kept) * SCHEDULE.total_steps
        return steps, max(kept, key=lambda each: each.final)

    return run


METHODS: dict[str, Method] = {
    "all": run_all,
    "stopping at once": run_stopping,
    "best two": promotion(Halving(), with_published=False),
    "best two and published": promotion(Halving(), with_published=True),
    "published and best other": promotion(Halving(reduction_factor=3), with_published=True, others=1),
    "best two, rungs at 1/4 and 1/2": promotion(Halving(num_rungs=2), with_published=True),
    "rehearsal, best one": rehearsal(1),
    "rehearsal, best two": rehearsal(2),
    "rehearsal, best two and published": rehearsal(2, with_published=True),
}


def select(method: str, world: World, num_cells: int) -> Selection:
    """Average over cells of random candidates, the same for every method."""
    steps, kept, regrets = 0, 0, []
    for seed in range(num_cells):
        draw = random.Random(seed)
        places = [2 * i / (NUM_CANDIDATES - 1) - 1 for i in range(NUM_CANDIDATES)]
        candidates = [Candidate(draw, world, place) for place in places]
        best = max(candidates, key=lambda each: each.final)
        others = [i for i, each in enumerate(candidates) if each is not best]
        published = candidates.index(best) if draw.random() < world.published_best else draw.choice(others)
        taken, left_with = METHODS[method](candidates, random.Random(seed + num_cells), published)
        steps += taken
        kept += left_with is best
        regrets.append(best.final - left_with.final)
    whole = num_cells * NUM_CANDIDATES * SCHEDULE.total_steps
    return Selection(method, world.name, steps / whole, kept / num_cells, statistics.fmean(regrets))


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
    selections = [select(method, world, num_cells) for world in WORLDS for method in METHODS]
    orders = [each for num_gpus in (8, 32) for each in makespans(num_gpus)]
    console = Console()
    title = f"{NUM_CANDIDATES} candidates, {num_cells} cells: best kept and regret (sd), by correlation with the end"
    table = Table(title=title, title_justify="left")
    for name in ("method", "steps at worst", *(world.name for world in WORLDS)):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method in METHODS:
        own = [each for each in selections if each.method == method]
        shown = (f"{each.best_kept:.1%} {each.regret:.3f}" for each in own)
        table.add_row(method, f"{max(each.share_of_all for each in own):.1%}", *shown)
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
