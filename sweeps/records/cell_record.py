"""CellRecord: one cell of the table, everything that was run for it, and what was published for it."""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from sweeps.records.trial_record import TrialRecord
from sweeps.table.cells import Cell
from sweeps.table.published import PublishedFigure
from sweeps.table.verdict import Verdict, verdict_on
from vit_trainer.tracking.chosen import Chosen, Finished, choose


@dataclass(frozen=True)
class CellRecord:
    """One cell of the table and everything that was run for it."""

    cell: Cell
    trials: tuple[TrialRecord, ...]
    """The cell's candidates, each of their seeds."""
    figure: PublishedFigure | None
    """What was published for the cell; None: nothing, or it can't be read."""
    commands: tuple[str, ...]
    """The command lines of the sweeps that ran the cell, the oldest first; none for trials that no sweep ran."""
    others: tuple[PublishedFigure, ...] = ()
    """What else was published for the cell, or quoted; no verdict is about these."""
    is_left_open: bool = False
    """Whether a published table has the cell's row without a figure."""

    @cached_property
    def choice(self) -> Chosen | None:
        """The candidate that counts; None if none is finished."""
        return choose(
            Finished.of(each.trial_id, each.config, each.result)
            for each in self.trials
            if each.result is not None and each.status == "finished"
        )

    @cached_property
    def chosen(self) -> tuple[TrialRecord, ...]:
        """The candidate that counts, each of its seeds; none if none is finished."""
        by_id = {each.trial_id: each for each in self.trials}
        return tuple(by_id[each.trial_id] for each in self.choice.trials) if self.choice else ()

    @property
    def accuracies(self) -> list[float]:
        """Accuracies on the test images, of the chosen candidate's seeds; fractions."""
        return self.choice.accuracies if self.choice else []

    @property
    def accuracy(self) -> float | None:
        """What the cell achieved: the mean over seeds, a fraction."""
        return self.choice.accuracy if self.choice else None

    @property
    def validation_accuracy(self) -> float | None:
        """The chosen candidate's accuracy on the validation images: the mean over seeds, a fraction."""
        return self.choice.validation if self.choice else None

    @cached_property
    def verdict(self) -> Verdict | None:
        """What the accuracies say about the published figure; None where nothing is published or achieved."""
        if self.figure is None or not self.accuracies:
            return None
        return verdict_on(self.figure, self.accuracies)

    @property
    def wall_hours(self) -> float | None:
        """Hours from start to end of one run of the chosen candidate: the mean over seeds."""
        return _mean([trial.wall_hours for trial in self.chosen])

    @property
    def hours(self) -> float:
        """Hours of all candidates, as `TrialRecord.hours`."""
        return sum(trial.hours for trial in self.trials)

    @property
    def saved_hours(self) -> float:
        return sum(trial.saved_hours for trial in self.trials)

    @property
    def lost_hours(self) -> float:
        return sum(trial.lost_hours for trial in self.trials)

    @property
    def predicted_hours(self) -> float | None:
        """Hours that the steps taken by all candidates were predicted to take; None if one's isn't known."""
        predicted = [trial.predicted_hours_so_far for trial in self.trials]
        known_hours = [hours for hours in predicted if hours is not None]
        return sum(known_hours) if len(known_hours) == len(predicted) else None

    @property
    def device(self) -> str | None:
        """What the chosen candidate (without one, any) ran on, such as `8 x NVIDIA H200`; None: not recorded."""
        devices = [trial.device for trial in self.chosen or self.trials]
        return ", ".join(dict.fromkeys(device for device in devices if device)) or None

    def speed(self, name: str) -> float | None:
        """One of SPEEDS of the chosen candidate (without one, of all): of memory the most, else the rows' median."""
        values = [value for trial in self.chosen or self.trials for value in trial.speeds(name)]
        return None if not values else max(values) if name == "peak_memory_gib" else median(values)

    def name_of(self, record: TrialRecord) -> str:
        """What tells a candidate from the others of its cell: `0.003`, or `0.003 dropout 0.07 seed 1`."""
        trial = record.trial
        parts = [f"{trial.base_lr:g}"]
        parts += [f"dropout {trial.dropout:g}"] if trial.dropout is not None else []
        warmup = trial.cell.schedule.warmup_steps if trial.warmup_steps is None else trial.warmup_steps
        parts += [f"warm-up {warmup}"] if len({each.trial.warmup_steps for each in self.trials}) > 1 else []
        parts += [f"seed {trial.seed}"] if len({each.seed for each in self.trials}) > 1 else []
        return " ".join(parts)

    def count(self, status: str) -> int:
        """How many candidates have a status."""
        return sum(trial.status == status for trial in self.trials)

    @property
    def num_stopped_seeds(self) -> int:
        """Seeds of the chosen candidate that early stopping ended: those left are the better ones."""
        recipes = {each.trial.recipe for each in self.chosen}
        return sum(each.status == "stopped" and each.trial.recipe in recipes for each in self.trials)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
