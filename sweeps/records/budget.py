"""Budget: the hours that a sweep may take, and those that it has taken, in this session and before."""

import time
from collections.abc import Mapping

from sweeps.records.hours import hours_of
from vit_trainer.files.run_dir import Row


class Budget:
    """Counts GPU-hours (hours of a slot where there is no GPU) by the clock, as they are paid for: see `slots`."""

    def __init__(self, max_hours: float | None, billed: Mapping[str, float]) -> None:
        """
        Args:
            max_hours: None: without limit.
            billed: by earlier sessions, `hours_billed` by trial id.
        """
        self._max_hours = max_hours
        self._ended_hours = sum(billed.values())
        self._running: dict[str, tuple[float, int]] = {}
        self._step_hours: dict[str, float] = {}

    @property
    def used_hours(self) -> float:
        """Up to now, by all trials."""
        now = time.monotonic()
        return self._ended_hours + sum((now - since) * num_slots / 3600 for since, num_slots in self._running.values())

    @property
    def is_used_up(self) -> bool:
        """Whether another step of the running trials would pass the limit."""
        if self._max_hours is None:
            return False
        return self.used_hours + sum(self._step_hours.get(trial_id, 0.0) for trial_id in self._running) >= (
            self._max_hours
        )

    def started(self, trial_id: str, num_slots: int) -> None:
        """A trial holds slots from now on."""
        self.ended(trial_id)
        self._running[trial_id] = time.monotonic(), num_slots

    def reported(self, trial_id: str, row: Row) -> None:
        """A trial has written a row."""
        self._step_hours[trial_id] = hours_of(row) / row["step"] if row["step"] else 0.0

    def ended(self, trial_id: str) -> None:
        """A trial holds no slots any more, if it did."""
        if trial_id in self._running:
            since, num_slots = self._running.pop(trial_id)
            self._ended_hours += (time.monotonic() - since) * num_slots / 3600
