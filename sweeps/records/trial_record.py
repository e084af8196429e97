"""TrialRecord: what one run folder tells of a trial."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sweeps.records.hours import hours_billed, hours_lost, hours_not_run, hours_of
from sweeps.records.slots import Hold
from sweeps.table.cells import Trial, cell_of
from vit_trainer.files.run_dir import Row, Run

SPEEDS = ("images_per_second", "mfu", "peak_memory_gib", "input_wait_fraction")
"""What rows say of a trial's speed, as `vit_trainer.loop.speed` has it; those of older runs lack most of it."""


@dataclass(frozen=True)
class TrialRecord(Run):
    """A trial as its run folder tells of it."""

    trial: Trial
    """The trial in the cell whose candidate it is."""
    predicted_hours: float | None = None
    """Hours of the whole trial, as a plan would have said for its card; None: nothing is known."""
    holds: tuple[Hold, ...] = ()
    """When it held slots, as far as sweeps wrote it down."""

    @property
    def base_lr(self) -> float:
        return self.trial.base_lr

    @property
    def seed(self) -> int:
        return self.trial.seed

    def speeds(self, name: str) -> list[float]:
        """One of SPEEDS, of each row that has it."""
        return [float(row[name]) for row in self.journal if name in row]

    @property
    def total_steps(self) -> int:
        return self.trial.cell.schedule.total_steps

    @property
    def hours(self) -> float:
        """GPU-hours of the trial, or hours of its slot where there is no GPU; without those of steps run again."""
        return max(hours_of(self.journal[-1]) if self.journal else 0.0, hours_of(self.result or {}))

    @property
    def wall_hours(self) -> float:
        """Hours from start to end, as far as the trial has come."""
        return float((self.result or (self.journal[-1] if self.journal else {})).get("runtime_hours") or 0.0)

    @property
    def predicted_hours_so_far(self) -> float | None:
        """Hours that the steps taken were predicted to take."""
        return None if self.predicted_hours is None else self.predicted_hours * self.step / self.total_steps

    @property
    def saved_hours(self) -> float:
        """Hours that would have gone into the trial, had it not been stopped; a lower bound."""
        return hours_not_run(self.result, self.journal, self.total_steps)

    @cached_property
    def lost_hours(self) -> float:
        """Hours that a process ended for nothing; a lower bound."""
        return hours_lost(self.lines, self.holds)

    @cached_property
    def billed_hours(self) -> float:
        """Hours that it held slots, starts and what faults undid included."""
        return hours_billed(self.lines, self.holds)

    @property
    def attempts(self) -> list[Row]:
        """The journal's line of each time that a process began the trial or went on with it."""
        return [line for line in self.lines if "attempt" in line]

    @property
    def last_attempt(self) -> Row:
        """The last of the attempts; empty without one."""
        return self.attempts[-1] if self.attempts else {}

    @property
    def device(self) -> str:
        """What the last attempt ran on, such as `8 x NVIDIA H200`; empty: not recorded."""
        name, num_processes = self.last_attempt.get("device_name") or "", self.last_attempt.get("num_processes", 1)
        return f"{num_processes} x {name}" if name and num_processes > 1 else name

    @property
    def notes(self) -> list[str]:
        """What the trial's processes noted, such as memory that ran out."""
        return [line["note"] for line in self.lines if "note" in line]

    @property
    def validations(self) -> list[tuple[int, float]]:
        """(optimiser step, accuracy as a fraction) of each validation."""
        return [(row["step"], row["val/accuracy"]) for row in self.journal if "val/accuracy" in row]

    @property
    def last_time(self) -> float | None:
        """Unix seconds of the journal's last line; None without one."""
        return float(self.lines[-1]["time"]) if self.lines else None


def record_of(run: Run, holds: Sequence[Hold] = ()) -> TrialRecord:
    """What a run folder tells, without a prediction.

    Args:
        holds: of the trial, as `read_slots` gives them.
    """
    config = run.config
    trial = Trial(cell_of(config), float(config["base_lr"]), config["seed"])
    return TrialRecord(run.trial_id, config, run.lines, run.result, trial, holds=tuple(holds))
