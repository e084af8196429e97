"""The budget on a clock that the test sets, and what counts towards it."""

import time
from pathlib import Path

import pytest

from sweeps.records.budget import Budget
from sweeps.records.hours import hours_billed, hours_lost
from sweeps.records.slots import Hold, read_slots, record_slots
from vit_trainer.files.run_dir import Row
from vit_trainer.files.storage import SLOTS, Storage

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


def test_slots_are_counted_by_the_clock_whatever_a_trial_reports(clock: list[float]) -> None:
    budget = Budget(10.0, {"earlier": 1.0})
    budget.started("a", 2)
    clock[0] += HOUR
    budget.reported("a", row(10, 0.5))  # the rest was its start, or what a fault undid
    assert budget.used_hours == 3
    budget.started("a", 2)  # lost with its node, and begun elsewhere
    clock[0] += HOUR
    budget.ended("a")
    clock[0] += HOUR
    budget.ended("a")
    assert budget.used_hours == 5


def test_it_is_used_up_before_the_step_that_would_pass_it(clock: list[float]) -> None:
    budget = Budget(2.0, {})
    budget.started("a", 1)
    budget.reported("a", row(10, 1.0))  # 0.1 a step
    clock[0] += 1.89 * HOUR
    assert not budget.is_used_up
    clock[0] += 0.02 * HOUR
    assert budget.is_used_up


def test_what_was_used_before_counts() -> None:
    assert Budget(3.0, {"a": 2.0, "b": 1.0}).is_used_up


# What is billed.


def journal_row(step: int, at: float, hours: float) -> Row:
    return {"step": step, "time": at * HOUR, "runtime_hours": hours, "gpu_hours": 2 * hours}


def attempt(number: int, at: float, from_step: int, from_hours: float | None = None) -> Row:
    seconds = {} if from_hours is None else {"from_seconds": from_hours * HOUR}
    machine = {"device": "cuda", "num_processes": 2}
    return {"attempt": number, "time": at * HOUR, "from_step": from_step, **seconds, **machine}


def hold(since: float, until: float | None) -> Hold:
    return Hold(since * HOUR, until and until * HOUR, 2)


def test_from_the_moment_slots_are_held_to_the_moment_they_are_given_back() -> None:
    lines = [attempt(1, 1, 0, 0), journal_row(10, 3, 2)]
    assert hours_billed(lines, [hold(0, 4)]) == 2 * 4
    assert hours_billed(lines, [hold(0, 4), hold(5, 6)]) == 2 * 5
    assert hours_billed([], [hold(0, 1)]) == 2  # ended before it had begun


def test_where_nobody_could_say_the_end_it_is_the_last_sign_of_life() -> None:
    lines = [attempt(1, 1, 0, 0), journal_row(10, 3, 2), attempt(2, 11, 10, 2)]
    assert hours_billed(lines, [hold(0, None), hold(10, 12)]) == 2 * (3 + 2)
    assert hours_billed(lines, [hold(0, None), hold(10, None)]) == 2 * (3 + 1)


def test_what_no_sweep_wrote_down_is_the_hours_of_steps() -> None:
    lines = [attempt(1, 1, 0), journal_row(10, 2, 1), journal_row(20, 3, 2), attempt(2, 4, 10), journal_row(20, 5, 2.5)]
    assert hours_billed(lines, []) == 2 * (2.5 + 1)
    assert hours_billed(lines, [hold(6, 8)]) == 2 * (2.5 + 1 + 2)


def test_faults_cost_what_was_done_since_the_checkpoint_and_the_way_back() -> None:
    died = [attempt(1, 1, 0, 0), journal_row(10, 3, 2)]
    # Within one hold the next attempt began 4.5 hours after the first, of which the checkpoint has two.
    assert hours_lost([*died, attempt(2, 5.5, 10, 2)], [hold(0, None)]) == 2 * 2.5
    # Killed while it was compiling: nothing was reported yet.
    assert hours_lost([attempt(1, 1, 0, 0), attempt(2, 1.5, 0, 0)], [hold(0, None)]) == 2 * 0.5
    # Kept, and gone on with on another day; then killed with its driver, its checkpoint an hour old.
    again = [*died, attempt(2, 50, 10, 2), journal_row(20, 52, 4)]
    assert hours_lost(again, [hold(0, 4), hold(49, None)]) == 0
    assert hours_lost([*again, attempt(3, 90, 15, 3)], [hold(0, 4), hold(49, None), hold(89, None)]) == 2 * 1


def test_a_sweep_reads_what_it_and_others_wrote_down(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    record_slots(storage, "one", "a", 2)
    record_slots(storage, "one", "b", 1)
    record_slots(storage, "one", "a", 0)
    storage.sweep("one").append(SLOTS, b'{"torn')
    record_slots(storage, "two", "a", 4)
    (tmp_path / "sweeps" / "a-file").touch()
    holds = read_slots(storage)
    assert [(each.num_slots, each.until is None) for each in holds["a"]] == [(2, False), (4, True)]
    assert [each.num_slots for each in holds["b"]] == [1]
    assert read_slots(storage, ["two"]).keys() == {"a"}
