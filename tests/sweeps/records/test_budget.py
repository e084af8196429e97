"""The budget on a clock that the test sets."""

import time

import pytest

from sweeps.records.budget import Budget

HOUR = 3600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def row(step: int, hours: float) -> dict[str, float]:
    return {"step": step, "gpu_hours": hours}


def test_without_a_limit_it_is_never_used_up(clock: list[float]) -> None:
    budget = Budget(None, {})
    budget.started("a", 8)
    clock[0] += 1000 * HOUR
    assert budget.used_hours == 8000
    assert not budget.is_used_up


def test_it_counts_reports_and_the_clock_between_them(clock: list[float]) -> None:
    budget = Budget(10.0, {})
    budget.started("a", 2)
    clock[0] += HOUR
    assert budget.used_hours == 2
    budget.reported("a", row(10, 1.5))  # as the trial itself counts
    assert budget.used_hours == 1.5
    clock[0] += HOUR
    budget.ended("a")
    clock[0] += HOUR
    assert budget.used_hours == 3.5


def test_it_is_used_up_before_the_step_that_would_pass_it(clock: list[float]) -> None:
    budget = Budget(2.0, {})
    budget.started("a", 1)
    budget.reported("a", row(10, 1.0))  # 0.1 a step
    clock[0] += 0.89 * HOUR
    assert not budget.is_used_up
    clock[0] += 0.02 * HOUR
    assert budget.is_used_up


def test_what_was_used_before_counts_also_what_was_lost() -> None:
    attempt = {"attempt": 2, "from_step": 10}
    budget = Budget(3.0, {"a": [row(10, 1.0), row(20, 2.0), attempt, row(20, 2.5)], "b": []})
    assert budget.used_hours == 3.5  # 2.5, and the hour from step 10 to 20 that was done twice
    assert budget.is_used_up


def test_a_trial_that_goes_back_to_its_checkpoint_has_lost_hours(clock: list[float]) -> None:
    budget = Budget(None, {})
    budget.started("a", 1)
    budget.reported("a", row(10, 1.0))
    budget.reported("a", row(20, 2.0))
    budget.reported("a", row(15, 1.6))
    assert budget.used_hours == pytest.approx(2.0)
