"""CellRecord: one cell of the table, everything that was run for it, and what was published for it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from sweeps.records.trial_record import TrialRecord
from sweeps.table.cells import Cell
from sweeps.table.published import PublishedFigure
from sweeps.table.spread import Spread
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
    spread: Spread | None = None
    """How much runs of its kind differ by chance; None: no verdict needs it."""
    dollars_per_gpu_hour: float | None = None
    """What the last of these sweeps reckoned with; None: nothing was known."""

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

    def beside(self, figure: PublishedFigure | None) -> tuple[TrialRecord, ...]:
        """Finished runs to compare with a figure: those of its learning rate, or if that was tuned, the chosen ones."""
        if figure is None or figure.base_lr is None:
            return () if figure is None else self.chosen
        finished = [each for each in self.trials if each.status == "finished" and figure.has_run(each.trial)]
        return tuple(sorted(finished, key=lambda each: each.seed))

    @cached_property
    def judged(self) -> tuple[TrialRecord, ...]:
        """The runs that the verdict is about."""
        return self.beside(self.figure)

    def difference(self, figure: PublishedFigure) -> float | None:
        """The mean accuracy of these minus the published, a fraction; None without such a run."""
        mean = _mean(accuracies_of(self.beside(figure)))
        return None if mean is None else mean - figure.accuracy

    @cached_property
    def verdict(self) -> Verdict | None:
        """What these say about the published figure; None without either."""
        if self.figure is None or self.spread is None or not self.judged:
            return None
        return verdict_on(self.figure, accuracies_of(self.judged), self.spread)

    @property
    def repeats(self) -> dict[str, list[float]]:
        """Test accuracies of what chance alone sets apart, by the first trial's id: the chosen runs, and the judged.

        Not where early stopping ended seeds: those left are alike because they are the better ones.
        """
        groups = [group for group in (self.chosen, self.judged) if group and not self.num_stopped_beside(group)]
        return {group[0].trial_id: accuracies_of(group) for group in groups}

    @property
    def wall_hours(self) -> float | None:
        """Hours from start to end of one run of the chosen candidate: the mean over seeds."""
        return _mean([trial.wall_hours for trial in self.chosen])

    @property
    def hours(self) -> float:
        """Hours of all candidates, as `TrialRecord.hours`."""
        return sum(trial.hours for trial in self.trials)

    @property
    def billed_hours(self) -> float:
        return sum(trial.billed_hours for trial in self.trials)

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
    def dollars(self) -> float | None:
        """What holding GPUs for all candidates cost; None where there was no GPU, or no price is known."""
        on_gpus = any(trial.last_attempt.get("device") == "cuda" for trial in self.trials)
        price = self.dollars_per_gpu_hour if on_gpus else None
        return None if price is None else price * self.billed_hours

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

    def num_stopped_beside(self, finished: Sequence[TrialRecord]) -> int:
        """Seeds of a candidate that early stopping ended: those that finished are the better ones."""
        recipes = {each.trial.recipe for each in finished}
        return sum(each.status == "stopped" and each.trial.recipe in recipes for each in self.trials)


def accuracies_of(finished: Iterable[TrialRecord]) -> list[float]:
    """Of finished trials, as fractions."""
    return [each.result["test/accuracy"] for each in finished if each.result is not None]


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
