"""EarlyEnd: whether, and why, a sweep is to end before all of its trials have."""

from collections.abc import Callable
from typing import Literal

from sweeps.records.budget import Budget

Reason = Literal["interrupted", "over budget"]


class EarlyEnd:
    """Asked again and again; the first reason stands."""

    def __init__(self, interrupted: Callable[[], bool], budget: Budget) -> None:
        self._interrupted, self._budget = interrupted, budget
        self.reason: Reason | None = None
        """The last answer."""

    def __call__(self) -> Reason | None:
        """The reason to end now, or None."""
        if self.reason is None and self._interrupted():
            self.reason = "interrupted"
        if self.reason is None and self._budget.is_used_up:
            self.reason = "over budget"
        return self.reason
