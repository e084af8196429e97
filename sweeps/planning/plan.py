"""What a sweep will cost and in which order its trials start, before anything does."""

import heapq
import random
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from sweeps.machines.prices import Price
from sweeps.planning.memory_and_disk import DiskItem, Fit, disk_items, fit
from sweeps.planning.probed_rates import Workload
from sweeps.planning.rates import (
    ASSUMED_SHARE_OF_PEAK,
    REACHED_BY_OTHERS,
    TRAIN_FLOPS_PER_FORWARD,
    Rates,
    is_miniature,
    num_evaluated_images,
    num_trained_images,
)
from sweeps.table.cells import Cell, Trial
from vit_trainer.architectures import MODELS
from vit_trainer.errors import InputError

if TYPE_CHECKING:
    from sweeps.running.tuner import Resources

EXAMPLE_NUM_GPUS = 8
"""For the wall time of a plan that is made where there is no GPU."""


def trial_flops(trial: Trial) -> float:
    """Floating-point operations of a trial's training and evaluations."""
    forward = MODELS[trial.cell.model].forward_flops(trial.cell.resolution)
    return (TRAIN_FLOPS_PER_FORWARD * num_trained_images(trial) + num_evaluated_images(trial)) * forward


def longest_first(trials: list[Trial]) -> list[Trial]:
    """The order to start in: cells by their longest trial, the candidates of a cell together.

    So the end of a sweep is not one long trial on an idle cluster, and candidates meet at their rungs.
    """
    longest: dict[Cell, float] = {}
    for trial in trials:
        longest[trial.cell] = max(longest.get(trial.cell, 0.0), trial_flops(trial))
    place = {cell: i for i, cell in enumerate(sorted(longest, key=lambda cell: -longest[cell]))}
    return sorted(trials, key=lambda trial: place[trial.cell])


def cheapest_first(trials: list[Trial]) -> list[Trial]:
    """The order to start in under a budget: cells by their work, the candidates of a cell together.

    So any number of hours fills as many entries of the table as it can.

    Args:
        trials: those that aren't done: a cell that has its number is no longer among the cheapest.
    """
    work: dict[Cell, float] = {}
    for trial in trials:
        work[trial.cell] = work.get(trial.cell, 0.0) + trial_flops(trial)
    place = {cell: i for i, cell in enumerate(sorted(work, key=lambda cell: work[cell]))}
    return sorted(trials, key=lambda trial: place[trial.cell])


def require_fit(trials: Iterable[Trial], gpus_of: Callable[[str], int], resources: "Resources | None") -> None:
    """Refuse trials that could wait for ever, or whose batch can't be divided.

    Args:
        gpus_of: GPUs of a trial by its model's name.
        resources: the cluster's; None if it isn't there yet, then only the batch is checked.

    Raises:
        InputError: names the first model that doesn't fit, what it needs and what there is.
    """
    for trial in trials:
        batch, gpus_per_trial = trial.config.global_batch_size, gpus_of(trial.cell.model)
        if batch % gpus_per_trial:
            raise InputError(
                f"{trial.cell.model}: its global batch of {batch} images can't be divided among {gpus_per_trial} GPUs: "
                "give another number of GPUs per trial, such as "
                f"{max(n for n in range(1, gpus_per_trial) if batch % n == 0)}"
            )
        if resources is not None:
            try:
                resources.processes_of_nodes(gpus_per_trial)
            except InputError as error:
                raise InputError(f"{trial.cell.model}: {error}") from error


def wall_hours(jobs: Sequence[tuple[float, tuple[int, ...]]], slots_of_nodes: Sequence[int]) -> float:
    """When the last of some jobs ends, if each starts as soon as it fits, the first in the order before the others.

    Args:
        jobs: (hours, slots on each of its nodes); a gang's parts may share a node.
        slots_of_nodes: GPUs of each node, or CPU cores.

    >>> wall_hours([(3, (1,)), (2, (1,)), (2, (1,))], [2])
    4.0
    """
    free = list(slots_of_nodes)
    waiting, now, number = list(jobs), 0.0, 0
    running: list[tuple[float, int, dict[int, int]]] = []
    while waiting:
        left = []
        for hours, parts in waiting:
            taken = _place(parts, free) if any(free) else None
            if taken is None:
                left.append((hours, parts))
            else:
                heapq.heappush(running, (now + hours, number, taken))
                number += 1
        assert len(left) < len(waiting) or running, "a job fits on no node: see require_fit"
        waiting = left
        if waiting:
            now, _, taken = heapq.heappop(running)
            for node, count in taken.items():
                free[node] += count
    return float(max((end for end, _, _ in running), default=now))


def _place(parts: tuple[int, ...], free: list[int]) -> dict[int, int] | None:
    """Take slots for every part, each on the fullest node that holds it: slots by node, or None and nothing taken."""
    taken: dict[int, int] = {}
    for part in parts:
        node = min((n for n, count in enumerate(free) if count >= part), key=lambda n: free[n], default=None)
        if node is None:
            for other, count in taken.items():
                free[other] += count
            return None
        free[node] -= part
        taken[node] = taken.get(node, 0) + part
    return taken


@lru_cache(maxsize=64)
def early_stopping_range(
    num_candidates: int, reduction_factor: float = 2, grace_fraction: float = 0.25
) -> tuple[float, float]:
    """Expected share of the work of a cell's candidates that ASHA leaves, as a range.

    Ray's rule on random orders: a candidate stops if it is below the percentile of those that were at the rung before
    it, so the first never stops. Low: the candidates come to each rung in another order; high: always in the same
    one, and the better is the better at every rung. With 4 candidates 62-69%, with 2 75-81%. A single cell may
    save nothing.
    """
    draw = random.Random(0)
    num_draws = max(100, 20_000 // num_candidates)
    rungs = [grace_fraction]
    while rungs[-1] * reduction_factor < 1:
        rungs.append(rungs[-1] * reduction_factor)
    shares = []
    for is_same_order in (False, True):
        total = 0.0
        for _ in range(num_draws):
            alive = [draw.random() for _ in range(num_candidates)]
            for step, rung in enumerate(rungs):
                if not is_same_order:
                    draw.shuffle(alive)
                before: list[float] = []
                survivors = []
                for value in alive:
                    if not before or value >= _percentile(before, 1 - 1 / reduction_factor):
                        survivors.append(value)
                    insort(before, value)
                next_rung = rungs[step + 1] if step + 1 < len(rungs) else 1.0
                total += len(survivors) * (next_rung - rung) + (num_candidates * rung if step == 0 else 0)
                alive = survivors
        shares.append(total / num_draws / num_candidates)
    return min(shares), max(shares)


def _percentile(ascending: list[float], fraction: float) -> float:
    """By linear interpolation, as NumPy's."""
    place = fraction * (len(ascending) - 1)
    low = int(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (place - low) * (ascending[high] - ascending[low])


@dataclass(frozen=True)
class CellPlan:
    """A cell's part of a plan."""

    cell: Cell
    base_lrs: tuple[float, ...]
    """Those of its candidates."""
    num_done: int
    hours: float | None
    """GPU-hours (or hours of a slot) of candidates that aren't done, run to the end; None if nothing is known."""
    stopped_early: tuple[float, float] | None
    """The same as early stopping is expected to leave it; None without early stopping."""


@dataclass(frozen=True)
class WallTime:
    """How long a sweep takes on its cluster if early stopping stops nothing."""

    hours: float
    least_hours: float
    """What no order could beat: the work over all slots, or the longest trial."""
    num_slots: int
    is_example: bool
    """Whether these slots are only assumed."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will cost."""

    cells: tuple[CellPlan, ...]
    """In the order that they start in."""
    rates: Rates
    on_gpus: bool
    price: Price | None
    wall: WallTime | None
    memory: tuple[tuple[Workload, Fit], ...]
    """Empty where trials run on CPU cores."""
    disk: tuple[DiskItem, ...]

    @property
    def num_trials(self) -> int:
        return sum(len(cell.base_lrs) for cell in self.cells)

    @property
    def num_done(self) -> int:
        return sum(cell.num_done for cell in self.cells)

    @property
    def hours(self) -> float | None:
        """Of all cells; None if one's are not known."""
        hours = [cell.hours for cell in self.cells if cell.hours is not None]
        return sum(hours) if len(hours) == len(self.cells) else None

    @property
    def stopped_early(self) -> tuple[float, float] | None:
        """Range of hours that early stopping is expected to leave; None if it would leave all of them."""
        ranges = [cell.stopped_early for cell in self.cells if cell.stopped_early is not None]
        if self.hours is None or len(ranges) < len(self.cells):
            return None
        low, high = sum(low for low, _ in ranges), sum(high for _, high in ranges)
        return (low, high) if low < self.hours else None


def make_plan(
    trials: list[Trial],
    done: Collection[str],
    rates: Rates,
    resources: "Resources",
    *,
    gpus_of: Callable[[str], int] = lambda model: 1,
    price: Price | None = None,
    early_stopping: bool = True,
    saves_weights: bool = False,
) -> Plan:
    """Compute a plan; starts nothing and looks at nothing but the sizes of checkpoint files.

    Args:
        trials: every candidate of every cell.
        done: ids of trials that have their result.
        resources: of the cluster; without GPUs, official models are planned for GPUs that are yet to come.
        gpus_of: GPUs of a trial by its model's name.

    Raises:
        InputError: a trial can never fit on the cluster's nodes or the card's memory.
    """
    trials = longest_first(trials)
    on_gpus = bool(resources.gpus_of_nodes) or not all(is_miniature(trial) for trial in trials)
    is_example = on_gpus and not resources.gpus_of_nodes
    require_fit(trials, gpus_of, None if is_example else resources)
    pending = [trial for trial in trials if trial.trial_id not in done]
    hours = {trial: rates.hours(trial) for trial in pending}

    cells = []
    for cell, group in groupby(trials, key=lambda trial: trial.cell):
        candidates = list(group)
        remaining = [hours[trial] for trial in candidates if trial in hours]
        known = [each for each in remaining if each is not None]
        total = sum(known) if len(known) == len(remaining) else None
        share = early_stopping_range(len(candidates)) if early_stopping else None
        cells.append(
            CellPlan(
                cell,
                tuple(trial.base_lr for trial in candidates),
                len(candidates) - len(remaining),
                total,
                None if share is None or total is None else (share[0] * total, share[1] * total),
            )
        )

    sizes = {model: gpus_of(model) for model in {trial.cell.model for trial in trials}}
    slots = (max(EXAMPLE_NUM_GPUS, *sizes.values()),) if is_example else resources.gpus_of_nodes
    slots = slots or resources.cpus_of_nodes
    parts = {model: (size,) if is_example else resources.processes_of_nodes(size) for model, size in sizes.items()}
    jobs = [
        (None if each is None else each / sizes[trial.cell.model], parts[trial.cell.model])
        for trial, each in hours.items()
    ]
    fits = {Workload.of(trial): fit(trial.config, rates.card, sizes[trial.cell.model]) for trial in trials}
    return Plan(
        cells=tuple(cells),
        rates=rates,
        on_gpus=on_gpus,
        price=price if on_gpus else None,
        wall=_wall_time(jobs, slots, is_example=is_example),
        memory=tuple(fits.items()) if on_gpus else (),
        disk=tuple(disk_items(pending, sum(slots) // min(sizes.values(), default=1), saves_weights=saves_weights)),
    )


def _wall_time(
    jobs: list[tuple[float | None, tuple[int, ...]]], slots: tuple[int, ...], *, is_example: bool
) -> WallTime | None:
    known = [(hours, parts) for hours, parts in jobs if hours is not None]
    if not jobs or len(known) < len(jobs):
        return None
    work = sum(hours * sum(parts) for hours, parts in known)
    least = max(work / sum(slots), *(hours for hours, _ in known))
    return WallTime(wall_hours(known, slots), least, sum(slots), is_example)


def plan_lines(plan: Plan) -> list[str]:
    """A plan as lines to print; what isn't known is left out."""
    unit = "GPU-hours" if plan.on_gpus else "slot-hours"
    price = None if plan.price is None else plan.price.dollars
    has_hours = plan.hours is not None
    width = max([66, *(len(cell.cell.name) for cell in plan.cells)])
    lines = [f"{'cell':<{width}} {'candidates (base_lr)':<30}" + (f" {unit:>10}" if has_hours else "")]
    lines[0] += f" {'dollars':>9}" if has_hours and price is not None else ""
    for cell in plan.cells:
        rates = [f"{rate:g}" + f" x {n}" * (n > 1) for rate, n in Counter(cell.base_lrs).items()]
        line = f"{cell.cell.name:<{width}} {', '.join(rates):<30}"
        if has_hours and cell.hours is not None:
            line += f" {_number(cell.hours):>10}" + (f" {cell.hours * price:9,.2f}" if price is not None else "")
        lines.append(line + (f"  ({cell.num_done} done)" if cell.num_done else ""))
    lines.append(f"{len(plan.cells)} cells, {plan.num_trials} trials, {plan.num_done} of them done")
    lines += _cost_lines(plan, unit)
    if plan.wall is not None:
        wall, kind = plan.wall, "GPUs" if plan.on_gpus else "CPU cores"
        where = f"on {wall.num_slots} {kind}" + (", for example: there is none here" if wall.is_example else "")
        lines.append(f"wall time: {_hours(wall.hours)} {where} (at best {_hours(wall.least_hours)})")
    elif plan.num_done < plan.num_trials:
        lines.append("hours: not known for miniatures until --probe measures them")
    if plan.memory:
        memory = f"{plan.rates.card.name}, {plan.rates.card.memory_gib:g} GiB"
        lines.append(f"memory, estimated for {memory}:")
        lines += [_memory_line(plan, workload, fit) for workload, fit in plan.memory]
    lines.append(f"disk: {', '.join(f'{item.name} {_size(item.num_bytes)}' for item in plan.disk)}")
    return [line.rstrip() for line in lines]


def _cost_lines(plan: Plan, unit: str) -> list[str]:
    if plan.hours is None:
        return []
    line = f"cost: {_number(plan.hours)} {unit}{_dollars(plan, plan.hours)} if early stopping stops nothing"
    if plan.stopped_early is not None:
        low, high = plan.stopped_early
        line += f"; with it {_number(low)} to {_number(high)}{_dollars(plan, low, high)} are expected"
    lines = [line]
    if plan.price is not None:
        lines.append(f"price: ${plan.price.dollars:.3g} per GPU-hour, {plan.price.source}")
    measured = {result.device_name: result.seconds for result in plan.rates.measured.values()}
    if measured:
        probed = ", ".join(f"{seconds:g} s on {name}" for name, seconds in measured.items())
        return [*lines, f"rates: measured for {probed}; reading and decoding image files isn't in them"]
    card = plan.rates.card
    workloads = [workload for workload, _ in plan.memory]
    known = [plan.rates.table[card.name, each] for each in workloads if (card.name, each) in plan.rates.table]
    for source in sorted({rate.source for rate in known}):
        lines.append(f"rates: measured on {card.name} by {source}")
    if len(known) < len(workloads):
        low, high = REACHED_BY_OTHERS
        peak = f"{card.name}'s peak of {card.peak_flops_per_second / 1e12:g} TFLOP/s"
        lines.append(
            f"rates: {ASSUMED_SHARE_OF_PEAK:.0%} of {peak}, assumed and not measured; other trainings "
            f"reach {low:.0%} to {high:.0%}, so it may take "
            f"{ASSUMED_SHARE_OF_PEAK / high:.2g} to {ASSUMED_SHARE_OF_PEAK / low:.2g} times these hours"
        )
    if not card.has_bfloat16:
        lines.append(
            f"{card.name} has no bfloat16, and that peak is float16's, which the trainer doesn't use: expect far more "
            "hours, or measure with --probe"
        )
    return lines


def _memory_line(plan: Plan, workload: Workload, fit: Fit) -> str:
    line = f"  {workload.name} fits with micro-batch {fit.micro_batch_size}: {fit.num_bytes / 2**30:.1f} GiB"
    result = plan.rates.measured.get(workload)
    if result is not None and result.peak_memory_bytes is not None:
        line += f" (measured {result.peak_memory_bytes / 2**30:.1f} GiB with {result.micro_batch_size})"
    return line


def _dollars(plan: Plan, *hours: float) -> str:
    if plan.price is None:
        return ""
    return f" ({' to '.join(f'${each * plan.price.dollars:,.2f}' for each in hours)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _hours(hours: float) -> str:
    return f"{_number(hours)} h" if hours >= 1 else f"{60 * hours:.2g} min"


def _size(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "of unknown size"
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
