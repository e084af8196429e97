"""Plan: what a sweep will cost, before anything starts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sweeps.machines.prices import Price
from sweeps.planning.capacity import Resources, require_fit, wall_hours
from sweeps.planning.halving import Halving, expected_range
from sweeps.planning.memory_and_disk import DiskItem, Fit, NodeInputs, disk_items, fit_on_card, node_inputs
from sweeps.planning.order import longest_first
from sweeps.planning.probed_rates import Workload
from sweeps.planning.rates import (
    Rates,
    is_miniature,
)
from sweeps.table.cells import Cell, Trial

EXAMPLE_NUM_GPUS = 8
"""For the wall time of a plan that is made where there is no GPU."""


ShareLeft = Callable[[Sequence[Trial]], tuple[float, float]]


@dataclass(frozen=True)
class CellPlan:
    """A cell's part of a plan."""

    cell: Cell
    base_lrs: tuple[float, ...]
    """Learning rates of its candidates."""
    num_done: int
    hours: float | None
    """GPU-hours (or hours of a slot) of candidates that aren't done, run to the end; None if nothing is known."""
    stopped_early: tuple[float, float] | None
    """The hours that early stopping is expected to leave of these, low and high; None without early stopping."""

    @classmethod
    def of(
        cls, candidates: Sequence[Trial], hours: Mapping[Trial, float | None], share_left: ShareLeft | None
    ) -> "CellPlan":
        """The part of the cell whose candidates these are; hours: of those that aren't done."""
        remaining = [hours[trial] for trial in candidates if trial in hours]
        known = [each for each in remaining if each is not None]
        total = sum(known) if len(known) == len(remaining) else None
        share = share_left(candidates) if share_left is not None else None
        return cls(
            candidates[0].cell,
            tuple(trial.base_lr for trial in candidates),
            len(candidates) - len(remaining),
            total,
            None if share is None or total is None else (share[0] * total, share[1] * total),
        )


@dataclass(frozen=True)
class WallTime:
    """How long a sweep takes on its cluster if early stopping stops nothing."""

    hours: float
    least_hours: float
    """What no order could beat: the work over all slots, or the longest trial."""
    num_slots: int
    is_example: bool
    """Whether these slots are only assumed."""
    num_to_come: int = 0
    """How many of the slots are on nodes that an autoscaler has yet to start."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will cost."""

    cells: tuple[CellPlan, ...]
    """In the order that they start in."""
    trials: tuple[Trial, ...]
    rates: Rates
    on_gpus: bool
    price: Price | None
    wall: WallTime | None
    cores: tuple[int, float] | None
    """How many CPU cores this machine has where there is no GPU, and the hours that they'd take; None if not asked."""
    memory: tuple[tuple[Workload, Fit], ...]
    """Empty where trials run on CPU cores, or on a card of unknown memory."""
    disk: tuple[DiskItem, ...]
    inputs: NodeInputs
    gpus_per_node: int
    """Of the largest node."""

    @property
    def num_trials(self) -> int:
        return sum(len(cell.base_lrs) for cell in self.cells)

    @property
    def num_done(self) -> int:
        return sum(cell.num_done for cell in self.cells)

    @property
    def hours(self) -> float | None:
        """GPU-hours (or hours of a slot) of all cells; None if one's are not known."""
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
    resources: Resources,
    *,
    gpus_of: Callable[[str], int] = lambda model: 1,
    price: Price | None = None,
    share_left: ShareLeft | None = lambda candidates: expected_range(candidates, Halving()),
    pauses: bool = False,
    saves_weights: bool = False,
    registered: Collection[Cell] = (),
    evaluations_of: Callable[[Trial], int | None] = lambda trial: None,
) -> Plan:
    """Compute a plan; starts nothing and looks at nothing but the sizes of checkpoint files.

    Args:
        trials: every candidate of every cell.
        done: ids of trials that have their result.
        resources: of the cluster; without GPUs, official models are planned for GPUs that are yet to come.
        gpus_of: GPUs of a trial by its model's name.
        share_left: of the work of a cell's candidates what early stopping is expected to leave, low and high; None:
            nothing is stopped.
        pauses: whether candidates wait at their rungs until their cell is done.
        saves_weights: whether finished trials keep theirs.
        registered: cells whose best trial the registry gets.
        evaluations_of: a trial's validations; None: as many as its config has.

    Raises:
        InputError: a trial can never fit on the cluster's nodes or the card's memory.
    """
    trials = longest_first(trials)
    sizes = {model: gpus_of(model) for model in {trial.cell.model for trial in trials}}
    on_gpus = resources.has_gpus or not all(is_miniature(trial) for trial in trials)
    is_example = on_gpus and not resources.has_gpus
    num_cores = resources.num_slots
    if is_example:
        resources = Resources((max(EXAMPLE_NUM_GPUS, *sizes.values()),), (sum(resources.cpus_of_nodes),))
    require_fit(trials, gpus_of, resources)
    pending = [trial for trial in trials if trial.trial_id not in done]
    hours = {trial: rates.hours(trial, evaluations_of(trial)) for trial in pending}
    by_cell = [list(group) for _, group in groupby(trials, key=lambda trial: trial.cell)]
    fits = {Workload.of(trial): fit_on_card(trial.config, rates.card, sizes[trial.cell.model]) for trial in trials}
    known_fits = tuple((workload, fit) for workload, fit in fits.items() if fit is not None)
    num_at_once = resources.num_slots // min(sizes.values(), default=1)
    return Plan(
        cells=tuple(CellPlan.of(candidates, hours, share_left) for candidates in by_cell),
        trials=tuple(trials),
        rates=rates,
        on_gpus=on_gpus,
        price=price if on_gpus else None,
        wall=_wall_time(hours, gpus_of, resources, is_example=is_example),
        cores=(
            (num_cores, sum(rates.core_hours(trial, evaluations_of(trial)) for trial in pending) / num_cores)
            if is_example and rates.estimates_cores
            else None
        ),
        memory=known_fits if on_gpus else (),
        disk=tuple(
            disk_items(
                pending,
                num_at_once,
                num_paused=num_at_once * (max(map(len, by_cell), default=1) - 1) if pauses else 0,
                saves_weights=saves_weights,
                registered=registered,
            )
        ),
        inputs=node_inputs(pending),
        gpus_per_node=max(resources.slots_of_nodes, default=0),
    )


def _wall_time(
    hours: Mapping[Trial, float | None], gpus_of: Callable[[str], int], resources: Resources, *, is_example: bool
) -> WallTime | None:
    """From the GPU-hours of trials in the order that they start in; None where one's aren't known, or there is none."""
    known = [(trial, each) for trial, each in hours.items() if each is not None]
    if not known or len(known) < len(hours):
        return None
    sizes = [gpus_of(trial.cell.model) for trial, _ in known]
    jobs = [(each / size, resources.processes_of_nodes(size)) for (_, each), size in zip(known, sizes, strict=True)]
    slots = resources.slots_of_nodes
    work = sum(hours * sum(parts) for hours, parts in jobs)
    least = max(work / sum(slots), *(hours for hours, _ in jobs))
    to_come = sum(slots) - sum(resources.slots_there)
    return WallTime(wall_hours(jobs, slots), least, sum(slots), is_example, to_come)
