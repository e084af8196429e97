"""EarlyEnd: whether, and why, a sweep is to end before all of its trials have."""

from collections.abc import Callable
from typing import Literal

from sweeps.records.budget import Budget

Reason = Literal["interrupted", "over budget", "cluster lost", "search lost"]


class EarlyEnd:
    """Asked again and again; the first reason stands."""

    def __init__(self, interrupted: Callable[[], bool], budget: Budget, is_lost: Callable[[], bool]) -> None:
        self._reasons: dict[Reason, Callable[[], bool]] = {
            "interrupted": interrupted,
            "over budget": lambda: budget.is_used_up,
            "cluster lost": is_lost,
        }
        self.reason: Reason | None = None
        """The last answer."""

    def __call__(self) -> Reason | None:
        """The reason to end now, or None."""
        if self.reason is None:
            self.reason = next((reason for reason, is_one in self._reasons.items() if is_one()), None)
        return self.reason
