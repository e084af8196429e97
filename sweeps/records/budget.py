"""Budget: the hours that a sweep may take, and those that it has taken, in this session and before."""

import time
from collections.abc import Iterable, Mapping

from sweeps.records.hours import hours_lost, hours_of
from vit_trainer.files.run_dir import Row


class Budget:
    """Counts GPU-hours (hours of a trial where there is no GPU), lost ones included, between reports by the clock."""

    def __init__(self, max_hours: float | None, journals: Mapping[str, Iterable[Row]]) -> None:
        """
        Args:
            max_hours: None: without limit.
            journals: what earlier sessions left, `RunDir.lines` by trial id.
        """
        self._max_hours = max_hours
        self._hours: dict[str, float] = {}
        self._lost_hours = 0.0
        self._running: dict[str, tuple[float, int]] = {}
        self._step_hours: dict[str, float] = {}
        for trial_id, journal in journals.items():
            lines = list(journal)
            self._lost_hours += hours_lost(lines)
            for row in lines:
                if "step" in row:
                    self._hours[trial_id] = hours_of(row)

    @property
    def used_hours(self) -> float:
        """Up to now, by all trials."""
        now = time.monotonic()
        running = sum((now - seen_at) * num_gpus / 3600 for seen_at, num_gpus in self._running.values())
        return sum(self._hours.values()) + self._lost_hours + running

    @property
    def is_used_up(self) -> bool:
        """Whether another step of the running trials would pass the limit."""
        if self._max_hours is None:
            return False
        return self.used_hours + sum(self._step_hours.get(trial_id, 0.0) for trial_id in self._running) >= (
            self._max_hours
        )

    def started(self, trial_id: str, num_gpus: int) -> None:
        """A trial has begun or goes on."""
        self._running[trial_id] = time.monotonic(), num_gpus

    def reported(self, trial_id: str, row: Row) -> None:
        """A trial has written a row."""
        before, hours = self._hours.get(trial_id, 0.0), hours_of(row)
        self._lost_hours += max(0.0, before - hours)  # it went on from a checkpoint before what was counted
        self._hours[trial_id] = hours
        self._step_hours[trial_id] = hours / row["step"] if row["step"] else 0.0
        if trial_id in self._running:
            self._running[trial_id] = time.monotonic(), self._running[trial_id][1]

    def ended(self, trial_id: str) -> None:
        """A trial runs no more."""
        if trial_id in self._running:
            seen_at, num_gpus = self._running.pop(trial_id)
            self._hours[trial_id] = self._hours.get(trial_id, 0.0) + (time.monotonic() - seen_at) * num_gpus / 3600
