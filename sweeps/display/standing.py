"""Standing: how a sweep and each of its trials stand, from its events or from run folders alone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from sweeps.records.hours import hours_billed, hours_of, kept_rows
from sweeps.records.slots import Hold
from sweeps.table.cells import Cell, Trial
from sweeps.table.published import is_published, published_for
from vit_trainer.architectures import MODELS
from vit_trainer.files.run_dir import Result, Row
from vit_trainer.tracking.chosen import Chosen, Finished, choose


@dataclass(frozen=True)
class TrialProgress:
    """How far one trial is."""

    trial: Trial
    trial_id: str
    step: int = 0
    """Optimiser steps taken, as far as the journal says."""
    accuracy: float | None = None
    """The latest on the validation images, a fraction; None before the first."""
    images_per_second: float | None = None
    """In training, by the latest row; None: not known."""
    mfu: float | None = None
    """What share of the peak of its GPUs that is; None: not known."""
    hours: float = 0.0
    """GPU-hours (hours of a slot where there is no GPU) of these steps."""
    seconds: float = 0.0
    """Time of these steps."""
    billed_hours: float = 0.0
    """GPU-hours (hours of a slot) that it held slots, as far as the journal goes."""
    counted_until: float = 0.0
    """Unix seconds of the journal's last line, or of the start if that was later."""
    is_running: bool = False
    is_starting: bool = False
    """Whether the running process has yet to take its first step."""
    stepped_at: float = 0.0
    """Unix seconds of that first step; 0: not known."""
    expected_share: float = 1.0
    """Share of its schedule that it is expected to run."""
    is_paused: bool = False
    """Whether it waits at a rung for the others of its cell."""
    num_slots: int = 1
    """GPUs, or CPU cores, that it takes when it runs."""
    sized_at: tuple[int, float, float] = (0, 0.0, 1.0)
    """Step and seconds from which on it has had so many, and its speed then beside that before."""
    host: str = ""
    """Where its first process runs, or ran; empty: not known."""
    silent_seconds: float | None = None
    """Seconds since the last sign of life of a process that should have given one; None: nothing is wrong."""
    result: Result | None = None

    def began(self, at: float) -> "TrialProgress":
        """A process starts, or goes on; at: Unix seconds."""
        return replace(self, is_running=True, is_starting=True, is_paused=False, counted_until=at, result=None)

    def stepped(self, at: float) -> "TrialProgress":
        """The process has taken its first step; at: Unix seconds."""
        return replace(self, is_starting=False, stepped_at=at)

    def reported(self, row: Mapping[str, Any]) -> "TrialProgress":
        """A row is in the journal."""
        accuracy = row.get("val/accuracy")
        return replace(
            self._billed_until(float(row["time"])),
            step=int(row["step"]),
            accuracy=self.accuracy if accuracy is None else float(accuracy),
            images_per_second=row.get("images_per_second"),
            mfu=row.get("mfu"),
            host=row.get("host", self.host),
            hours=hours_of(row),
            seconds=3600 * float(row.get("runtime_hours") or 0.0),
            is_starting=False,
        )

    def released(self, at: float) -> "TrialProgress":
        """Its process has ended, and its slots are free; at: Unix seconds."""
        return replace(self._billed_until(at), is_running=False)

    def _billed_until(self, at: float) -> "TrialProgress":
        hours = max(0.0, at - self.counted_until) * self.num_slots / 3600 if self.is_running else 0.0
        return replace(self, billed_hours=self.billed_hours + hours, counted_until=max(self.counted_until, at))

    def ended(self, result: Result) -> "TrialProgress":
        """The trial has its result."""
        return replace(self, is_running=False, is_paused=False, result=result, hours=max(self.hours, hours_of(result)))

    def after(self, lines: Iterable[Row], holds: Sequence[Hold] = ()) -> "TrialProgress":
        """What a whole journal says, in the order written, as `RunDir.lines` gives it, and when it held slots."""
        lines = list(lines)
        rows = kept_rows(lines)
        progress = self
        for row in [row for row in rows if "val/accuracy" in row][-1:] + rows[-1:]:
            progress = progress.reported(row)
        until = max((line["time"] for line in lines), default=0.0)
        hosts = [str(line["host"]) for line in lines if "host" in line]
        progress = replace(progress, host=hosts[-1] if hosts else "")
        return replace(progress, billed_hours=hours_billed(lines, holds), counted_until=until)

    @property
    def total_steps(self) -> int:
        return self.trial.cell.schedule.total_steps

    @property
    def status(self) -> str | None:
        """Status of its result; None without one."""
        return None if self.result is None else str(self.result["status"])

    @property
    def work(self) -> float:
        """What a whole run takes beside others of the sweep; no unit, evaluations not counted."""
        schedule = self.trial.cell.schedule
        return _work_per_image(self.trial.cell) * schedule.total_steps * schedule.global_batch_size

    @property
    def work_to_come(self) -> float:
        left = self.expected_share - self.step / self.total_steps
        return 0.0 if self.result is not None else self.work * max(0.0, left)

    def uncounted_seconds(self, now: float) -> float:
        """Seconds of a running process since the journal's last line, which doesn't count them yet."""
        return max(0.0, now - self.counted_until) if self.is_running and self.silent_seconds is None else 0.0

    def resized(self, num_slots: int) -> "TrialProgress":
        """It goes on with another number of GPUs, or CPU cores, and is taken to become as much faster."""
        return replace(self, num_slots=num_slots, sized_at=(self.step, self.seconds, num_slots / self.num_slots))

    @property
    def seconds_of_rest(self) -> float | None:
        """Seconds that the steps to its end take at its mean speed with its present slots; None if nothing is known."""
        step, seconds, faster = self.sized_at
        if self.step > step:
            seconds_per_step = (self.seconds - seconds) / (self.step - step)
        else:
            seconds_per_step = seconds / step / faster if step else 0.0
        return seconds_per_step * (self.total_steps - self.step) if seconds_per_step else None

    def seconds_left(self, now: float) -> float | None:
        """Seconds to its end if the trial runs on as fast; None if that isn't known yet, or it starts."""
        if self.is_starting or (rest := self.seconds_of_rest) is None:
            return None
        return max(0.0, rest - max(0.0, min(self.uncounted_seconds(now), now - self.stepped_at)))


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial, or to whoever follows it."""

    time: float
    """Unix seconds."""
    text: str
    """One line."""


@dataclass(frozen=True)
class Standing:
    """How a sweep stands at one moment."""

    cells: tuple[Cell, ...]
    """Entries of the table, in its order."""
    trials: tuple[TrialProgress, ...]
    """Each once."""
    num_expected: int | None
    """Trials of the whole sweep; None: only those that have begun are known."""
    now: float
    """Unix seconds."""
    on_gpus: bool
    """Whether trials take GPUs, or CPU cores."""
    num_slots: int | None = None
    """GPUs, or CPU cores, that there are; None: not known."""
    events: tuple[Event, ...] = ()
    """The last ones, oldest first."""
    phase: str = ""
    """What the sweep itself is at instead of running trials."""
    awaits: str = ""
    """Which nodes don't come that were asked for, in a line; empty: none."""
    complaints: tuple[str, ...] = ()
    """A line for each thing in the storage that can't be shown."""
    also: tuple[TrialProgress, ...] = ()
    """Candidates of the cells beside `trials`: of earlier commands, or those that are candidates of several cells."""

    @cached_property
    def by_cell(self) -> dict[Cell, list[TrialProgress]]:
        """Candidates of each cell."""
        groups: dict[Cell, list[TrialProgress]] = {cell: [] for cell in self.cells}
        for progress in (*self.trials, *self.also):
            groups[progress.trial.cell].append(progress)
        return groups

    def chosen(self, cell: Cell) -> Chosen | None:
        """A cell's candidate that counts so far; None if nothing is finished."""
        return choose(
            Finished(each.trial_id, each.trial.recipe, each.trial.seed, result["val/accuracy"], result["test/accuracy"])
            for each in self.by_cell[cell]
            if (result := each.result) is not None and each.status == "finished"
        )

    def num_stopped_beside(self, cell: Cell, chosen: Chosen) -> int:
        """Seeds of the chosen candidate that early stopping ended: those that finished are the better ones."""
        recipe = chosen.trials[0].recipe
        return sum(each.status == "stopped" and each.trial.recipe == recipe for each in self.by_cell[cell])

    def difference(self, cell: Cell) -> tuple[float, float] | None:
        """What a cell has achieved minus what is published, a fraction, and the learning rate that this is about.

        That is the published one, as in the verdict; where theirs was the best of several, so is ours. None: nothing
        is published, or nothing of that rate is finished.
        """
        chosen, figure = self.chosen(cell), published_for(cell)
        if chosen is None or figure is None:
            return None
        own = chosen.accuracies
        if figure.base_lr is not None:
            finished = [each.result for each in self.by_cell[cell] if is_published(each.trial)]
            own = [result["test/accuracy"] for result in finished if result and result["status"] == "finished"]
        return (math.fsum(own) / len(own) - figure.accuracy, figure.base_lr or chosen.base_lr) if own else None

    def count(self, status: str) -> int:
        """Trials whose result has this status."""
        return sum(each.status == status for each in self.trials)

    @property
    def num_done(self) -> int:
        return sum(each.result is not None for each in self.trials)

    @property
    def running(self) -> list[TrialProgress]:
        """Trials with a process, as far as one can tell."""
        return [each for each in self.trials if each.is_running and each.silent_seconds is None]

    @property
    def running_or_silent(self) -> list[TrialProgress]:
        """Trials that have a process, or should have; in the order of the cells."""
        return [each for candidates in self.by_cell.values() for each in candidates if each.is_running]

    def place(self, progress: TrialProgress) -> str:
        """Which of its cell's candidates it is by the latest validation of each: `2/4`; empty before its first."""
        rivals = self.by_cell[progress.trial.cell]
        better = [each for each in rivals if (each.accuracy or 0.0) > (progress.accuracy or 0.0)]
        return "" if progress.accuracy is None else f"{len(better) + 1}/{len(rivals)}"

    @property
    def num_silent(self) -> int:
        return sum(each.silent_seconds is not None for each in self.trials)

    @property
    def num_slots_in_use(self) -> int:
        return sum(each.num_slots for each in self.running)

    @property
    def spent_hours(self) -> float:
        """GPU-hours or slot-hours until now that trials held slots: starts and what faults undid are paid for too."""
        return sum(each.billed_hours + self._uncounted_hours(each) for each in self.trials)

    @property
    def hours_to_come(self) -> float | None:
        """If early stopping stops no more; None if no trial has told its speed yet.

        A trial that is still to be proposed takes as long as the others on average.
        """
        if self._rests is None:
            return None
        hours_per_work, rests = self._rests
        missing = max(0, (self.num_expected or 0) - len(self.trials))
        mean_work = sum(each.work for each in self.trials) / len(self.trials)
        return sum(rests.values()) + missing * mean_work * hours_per_work

    @property
    def seconds_left(self) -> float | None:
        """Until all trials are done, on the slots there are; None if nothing is known, or nothing runs."""
        to_come, slots = self.hours_to_come, self.num_slots_in_use
        if len(self.running) + self.num_done < max(self.num_expected or 0, len(self.trials)):
            slots = max(slots, self.num_slots or 0)
        if to_come is None or self._rests is None or not slots:
            return None
        longest = max((self._rests[1][each.trial_id] / each.num_slots for each in self.trials), default=0.0)
        return 3600 * max(to_come / slots, longest)

    @cached_property
    def _rests(self) -> tuple[float, dict[str, float]] | None:
        """Hours per unit of work, and hours that each trial still takes; None if no trial has told its speed yet.

        From the measured hours of each model, where there are none yet from those of all.
        """
        hours: dict[str, float] = {}
        work: dict[str, float] = {}
        for each in self.trials:
            if each.step and each.hours:
                model = each.trial.cell.model
                hours[model] = hours.get(model, 0.0) + each.hours
                work[model] = work.get(model, 0.0) + each.work * each.step / each.total_steps
        if not hours:
            return None
        of_all = sum(hours.values()) / sum(work.values())
        rates = {model: hours[model] / work[model] for model in hours}
        rests = {
            each.trial_id: each.work_to_come * rates.get(each.trial.cell.model, of_all) - self._uncounted_hours(each)
            for each in self.trials
        }
        return of_all, {trial_id: max(0.0, rest) for trial_id, rest in rests.items()}

    def _uncounted_hours(self, progress: TrialProgress) -> float:
        return progress.uncounted_seconds(self.now) * progress.num_slots / 3600


@cache
def _work_per_image(cell: Cell) -> float:
    return MODELS[cell.model].forward_flops(cell.resolution)
