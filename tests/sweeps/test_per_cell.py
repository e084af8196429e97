"""ASHA per cell on formula objectives: no training, no Ray cluster."""

import math

import pytest

from sweeps.cells import MINI, Cell, Schedule, Trial, cells_of
from sweeps.per_cell import PerCellASHA

SCHEDULE = Schedule(total_steps=80, warmup_steps=8, global_batch_size=64)
EASY = Cell("digits", "ViT-B_16-mini", "digits-even", 32, SCHEDULE, 0.0)
HARD = Cell("digits", "ViT-B_16-mini", "digits-odd", 32, SCHEDULE, 0.0)


def candidates(cell: Cell, count: int) -> list[Trial]:
    return [Trial(cell, 0.01 * (i + 1), 0) for i in range(count)]


def row(step: int, accuracy: float | None) -> dict[str, object]:
    return {"step": step} if accuracy is None else {"step": step, "val/accuracy": accuracy}


def test_cells_are_never_compared() -> None:
    easy, hard = candidates(EASY, 2), candidates(HARD, 2)
    asha = PerCellASHA(easy + hard)
    for trial in easy:
        assert asha.decide(trial.trial_id, row(20, 0.99))
    assert asha.decide(hard[0].trial_id, row(20, 0.10))  # far below the other cell, first of its own
    assert asha.decide(hard[1].trial_id, row(20, 0.11))
    assert asha.decisions == {}


def test_the_worse_of_two_stops_and_the_reason_is_on_record() -> None:
    first, second = candidates(EASY, 2)
    asha = PerCellASHA([first, second])
    assert asha.decide(first.trial_id, row(20, 0.9))
    assert not asha.decide(second.trial_id, row(20, 0.8))
    decision = asha.decisions[second.trial_id]
    assert (decision.step, decision.value, decision.compared) == (20, 0.8, (0.9,))
    assert "ASHA at step 20" in decision.rule
    assert "0.8000" in decision.rule
    assert "0.9000" in decision.rule


def test_nothing_is_decided_before_the_grace_period_or_between_rungs() -> None:
    first, second = candidates(EASY, 2)
    asha = PerCellASHA([first, second])
    for step in (10, 19):
        assert asha.decide(first.trial_id, row(step, 0.9))
        assert asha.decide(second.trial_id, row(step, 0.1))


def test_a_tie_goes_on() -> None:
    trials = candidates(EASY, 3)
    asha = PerCellASHA(trials)
    assert all(asha.decide(trial.trial_id, row(20, 0.9)) for trial in trials)


def test_the_last_report_is_never_stopped_since_its_test_accuracy_is_the_result() -> None:
    trials = candidates(EASY, 2)
    asha = PerCellASHA(trials)
    assert asha.decide(trials[0].trial_id, row(80, 0.9))
    assert asha.decide(trials[1].trial_id, row(80, 0.1))


@pytest.mark.parametrize("accuracy", [math.nan, None])
def test_a_missing_or_meaningless_value_is_the_worst(accuracy: float | None) -> None:
    trials = candidates(EASY, 2)
    asha = PerCellASHA(trials)
    assert asha.decide(trials[0].trial_id, row(20, 0.5))
    assert not asha.decide(trials[1].trial_id, row(20, accuracy))


def test_a_cell_of_one_candidate_runs_to_its_end() -> None:
    (only,) = candidates(EASY, 1)
    asha = PerCellASHA([only])
    assert all(asha.decide(only.trial_id, row(step, 0.1)) for step in range(10, 81, 10))


def test_the_last_live_candidate_goes_on_even_if_it_is_worse() -> None:
    good, bad = candidates(EASY, 2)
    asha = PerCellASHA([good, bad])
    assert asha.decide(good.trial_id, row(20, 0.9))
    asha.give_up(good.trial_id)  # its training failed
    assert asha.decide(bad.trial_id, row(20, 0.1))
    assert asha.decisions == {}


def accuracy_at(trial: Trial, step: int) -> float:
    """A formula objective: saturating curves whose order is the learning rate's distance to 0.02."""
    return (1 - abs(trial.base_lr - 0.02) * 10) * (1 - math.exp(-step / 30))


def run(asha: PerCellASHA, trials: list[Trial], first_step: int, last_step: int, stopped: set[str]) -> None:
    for step in range(first_step, last_step + 1, 10):
        for trial in trials:
            if trial.trial_id not in stopped and not asha.decide(trial.trial_id, row(step, accuracy_at(trial, step))):
                stopped.add(trial.trial_id)


def test_a_restart_decides_as_if_there_had_been_none() -> None:
    trials = [trial for cell in cells_of(MINI) for trial in candidates(cell, 4)]
    whole, whole_stopped = PerCellASHA(trials), set[str]()
    run(whole, trials, 10, 80, whole_stopped)

    before, stopped = PerCellASHA(trials), set[str]()
    run(before, trials, 10, 30, stopped)
    after = PerCellASHA(trials)
    for trial in trials:
        journal = [row(step, accuracy_at(trial, step)) for step in (10, 20, 30)]
        is_stopped = trial.trial_id in stopped
        after.replay(trial.trial_id, journal[:2] if is_stopped else journal, stopped=is_stopped)
    run(after, trials, 40, 80, stopped)

    assert stopped == whole_stopped
    assert stopped
    for cell in cells_of(MINI):
        assert any(trial.trial_id not in stopped for trial in trials if trial.cell == cell)
