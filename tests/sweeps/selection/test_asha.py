"""ASHA per cell on formula objectives: no training, no Ray cluster."""

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from sweeps.options import SweepOptions
from sweeps.records.decisions import Decision
from sweeps.running.assignment import Assignment
from sweeps.selection.asha_rule import Rungs
from sweeps.selection.asha_scheduler import PerCellASHA
from sweeps.table.cells import MINI, Cell, Schedule, Trial, cells_of
from vit_trainer.config import Execution
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import Row
from vit_trainer.files.schema import instance_of

SCHEDULE = Schedule(total_steps=80, warmup_steps=8, global_batch_size=64)
EASY = Cell("digits", "ViT-B_16-mini", "digits-even", 32, SCHEDULE, 0.0)
HARD = Cell("digits", "ViT-B_16-mini", "digits-odd", 32, SCHEDULE, 0.0)
OTHER_MODEL = Cell("digits", "ViT-B_32-mini", "digits-even", 32, SCHEDULE, 0.1)
LONGER = Cell("digits", "ViT-B_16-mini", "digits-even", 32, Schedule(160, 8, 64), 0.0)


def candidates(cell: Cell, count: int) -> list[Trial]:
    return [Trial(cell, 0.01 * (i + 1), 0) for i in range(count)]


def row(step: int, accuracy: object) -> Row:
    return {"step": step, "val/accuracy": accuracy}


# The rule.


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
    assert asha.stop_of(first.trial_id) is None
    decision = asha.stop_of(second.trial_id)
    assert decision is not None
    assert (decision.step, decision.value, decision.compared) == (20, 0.8, (0.9,))
    assert decision.rule == "ASHA at step 20: val/accuracy 0.8000 is below the cutoff 0.9000 of 0.9000"


def test_every_decision_is_recorded_once_with_what_was_compared() -> None:
    a, b, c, d = (trial.trial_id for trial in candidates(EASY, 4))
    record: list[Decision] = []
    asha = PerCellASHA(candidates(EASY, 4), record=record.append)
    for trial_id, value in ((a, 0.5), (b, 0.7), (c, math.nan), (d, 0.65)):
        asha.decide(trial_id, row(25, value))
    asha.give_up(d)
    asha.decide(a, row(40, 0.6))
    asha.give_up(a)
    asha.decide(b, row(40, 0.59))
    name, what = EASY.name, "ASHA at step 25: val/accuracy"
    assert record == [
        Decision(a, name, 20, 25, 0.5, (), None, "goes on", f"{what} 0.5000 is the first at the rung"),
        Decision(
            b, name, 20, 25, 0.7, (0.5,), 0.5, "goes on", f"{what} 0.7000 is at or above the cutoff 0.5000 of 0.5000"
        ),
        Decision(
            c,
            name,
            20,
            25,
            None,
            (0.5, 0.7),
            0.6,
            "stops",
            f"{what} is no number, counts as the worst and is below the cutoff 0.6000 of 0.7000, 0.5000",
        ),
        Decision(
            d,
            name,
            20,
            25,
            0.65,
            (0.5, 0.7, None),
            0.5,
            "goes on",
            f"{what} 0.6500 is at or above the cutoff 0.5000 of 0.7000, 0.5000, 0.0000",
        ),
        Decision(
            a, name, 40, 40, 0.6, (), None, "goes on", "ASHA at step 40: val/accuracy 0.6000 is the first at the rung"
        ),
        Decision(
            b,
            name,
            40,
            40,
            0.59,
            (0.6,),
            0.6,
            "goes on",
            "ASHA at step 40: val/accuracy 0.5900 is below the cutoff 0.6000 of 0.6000, "
            "but this is the last live candidate",
        ),
    ]
    lines = [json.dumps(decision.to_dict(), allow_nan=False) for decision in record]
    assert [instance_of(Decision, json.loads(line)) for line in lines] == record


def test_the_rule_of_a_large_group_stays_a_line_to_read() -> None:
    trials = candidates(EASY, 30)
    asha = PerCellASHA(trials)
    for trial in trials:
        asha.decide(trial.trial_id, row(20, 1 - trial.base_lr))
    decision = asha.stop_of(trials[-1].trial_id)
    assert decision is not None
    assert "0.9900, 0.9800, 0.9700" in decision.rule
    assert decision.rule.endswith("0.9200 and 21 more")


def test_nothing_is_decided_before_the_grace_period_or_between_rungs() -> None:
    first, second = candidates(EASY, 2)
    record: list[Decision] = []
    asha = PerCellASHA([first, second], record=record.append)
    for step, num_decisions in ((10, 0), (19, 0), (20, 2), (30, 2), (39, 2)):
        assert asha.decide(first.trial_id, row(step, 0.9))
        assert asha.decide(second.trial_id, row(step, 0.9 if step == 20 else 0.1))
        assert len(record) == num_decisions


def test_a_report_that_crosses_several_rungs_enters_the_highest_alone() -> None:
    early, late = candidates(EASY, 2)
    record: list[Decision] = []
    asha = PerCellASHA([early, late], record=record.append)
    assert asha.decide(early.trial_id, row(20, 0.5))
    assert asha.decide(late.trial_id, row(45, 0.8))  # its first validation
    assert asha.decide(late.trial_id, row(50, 0.1))  # not compared with what the other had at step 20
    assert [(decision.rung, decision.step, decision.compared) for decision in record] == [(20, 20, ()), (40, 45, ())]


def test_a_tie_goes_on() -> None:
    trials = candidates(EASY, 3)
    asha = PerCellASHA(trials)
    assert all(asha.decide(trial.trial_id, row(20, 0.9)) for trial in trials)


def test_the_last_report_is_never_stopped_since_its_test_accuracy_is_the_result() -> None:
    trials = candidates(EASY, 2)
    asha = PerCellASHA(trials)
    assert asha.decide(trials[0].trial_id, row(80, 0.9))
    assert asha.decide(trials[1].trial_id, row(80, 0.1))


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, None, "0.9"])
def test_no_number_is_the_worst_value(accuracy: object) -> None:
    trials = candidates(EASY, 4)
    asha = PerCellASHA(trials)
    assert asha.decide(trials[0].trial_id, row(20, accuracy))
    assert asha.decide(trials[1].trial_id, row(20, accuracy))  # a tie
    assert asha.decide(trials[2].trial_id, row(20, 0.1))
    assert asha.decide(trials[0].trial_id, row(40, 0.1))
    assert not asha.decide(trials[1].trial_id, row(40, accuracy))


def test_a_report_without_the_metric_is_no_validation() -> None:
    trials = candidates(EASY, 2)
    asha = PerCellASHA(trials)
    assert asha.decide(trials[0].trial_id, row(20, 0.5))
    assert asha.decide(trials[1].trial_id, {"step": 20})
    assert asha.decide(trials[1].trial_id, {"val/accuracy": 0.4})
    assert not asha.decide(trials[1].trial_id, row(30, 0.4))  # the first that can be compared


def test_a_cell_of_one_candidate_runs_to_its_end() -> None:
    (only,) = candidates(EASY, 1)
    asha = PerCellASHA([only])
    assert all(asha.decide(only.trial_id, row(step, 1 / step)) for step in range(10, 81, 10))


def test_the_last_live_candidate_goes_on_even_if_it_is_worse() -> None:
    good, bad = candidates(EASY, 2)
    asha = PerCellASHA([good, bad])
    assert asha.decide(good.trial_id, row(20, 0.9))
    asha.give_up(good.trial_id)  # its training failed
    assert asha.decide(bad.trial_id, row(20, 0.1))
    assert asha.decisions == {}


def test_a_failed_candidate_that_runs_again_is_live_again() -> None:
    good, bad = candidates(EASY, 2)
    asha = PerCellASHA([good, bad])
    assert asha.decide(good.trial_id, row(20, 0.9))
    asha.give_up(good.trial_id)
    assert asha.decide(good.trial_id, row(30, 0.9))
    assert not asha.decide(bad.trial_id, row(20, 0.1))


def test_candidates_may_be_added_later() -> None:
    first, second = candidates(EASY, 2)
    asha = PerCellASHA([])
    asha.add(first)
    assert asha.decide(first.trial_id, row(20, 0.9))
    asha.add(second)
    assert not asha.decide(second.trial_id, row(20, 0.8))


def rungs_of(reduction_factor: float, grace_fraction: float, total_steps: int = 80) -> Rungs:
    return Rungs("g", total_steps=total_steps, reduction_factor=reduction_factor, grace_fraction=grace_fraction)


def test_flags_place_the_rungs() -> None:
    assert rungs_of(2, 0.25).steps == [40, 20]
    assert rungs_of(4, 0.25).steps == [20]
    assert rungs_of(2, 0.1).steps == [64, 32, 16, 8]
    assert rungs_of(2, 0.07, total_steps=100).steps == [56, 28, 14, 7]  # as a product, 0.07 * 100 is above 7
    assert rungs_of(1.5, 0.25, total_steps=20).steps == [17, 12, 8, 5]
    assert rungs_of(2, 0.001).steps == [64, 32, 16, 8, 4, 2, 1]


def test_the_reduction_factor_says_how_many_go_on() -> None:
    trials = candidates(EASY, 9)
    mild, strict = PerCellASHA(trials, reduction_factor=2), PerCellASHA(trials, reduction_factor=3)
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    for asha in (mild, strict):
        for trial, value in zip(trials, values, strict=False):
            assert asha.decide(trial.trial_id, row(20, value))
    assert mild.decide(trials[8].trial_id, row(20, 0.5))
    assert not strict.decide(trials[8].trial_id, row(20, 0.5))


@pytest.mark.parametrize("flags", [{"reduction_factor": 1}, {"reduction_factor": math.nan}, {"grace_fraction": 1}])
def test_flags_that_make_no_sense_are_refused(flags: dict[str, float]) -> None:
    (name,) = flags
    with pytest.raises(InputError, match=f"{name} .* give "):
        SweepOptions(**flags)  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction_factor", [1.5, 2, 3, 4])
@pytest.mark.parametrize("grace_fraction", [0.05, 0.25, 0.5])
def test_decisions_are_those_of_rays_scheduler(reduction_factor: float, grace_fraction: float) -> None:
    rng = random.Random(f"{reduction_factor} {grace_fraction}")
    num_stopped = 0
    for _ in range(20):
        trials = [SimpleNamespace(trial_id=str(i)) for i in range(8)]
        rungs = rungs_of(reduction_factor, grace_fraction)
        rungs.live = {trial.trial_id for trial in trials} | {"waiting for ever"}  # so none is the last
        rays = AsyncHyperBandScheduler(
            time_attr="step",
            metric="val/accuracy",
            mode="max",
            max_t=81,
            grace_period=math.ceil(80 * grace_fraction),
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        for trial in trials:
            rays.on_trial_add(None, trial)
        steps = {trial.trial_id: 0 for trial in trials}
        while trials:
            trial = rng.choice(trials)
            steps[trial.trial_id] += rng.choice([1, 5, 10, 30])
            step, value = steps[trial.trial_id], round(rng.random(), 1)  # often equal
            if step >= 80:
                trials.remove(trial)
                continue
            decision = rungs.decide(trial.trial_id, step, value)
            goes_on = decision is None or decision.action == "goes on"
            assert goes_on == (rays.on_trial_result(None, trial, row(step, value)) == TrialScheduler.CONTINUE)
            if not goes_on:
                trials.remove(trial)
                num_stopped += 1
    assert num_stopped > 20


# Tune's interface.


def tune_trial(trial: Trial) -> Any:
    """What the scheduler reads of a trial of Tune's."""
    return SimpleNamespace(config={"assignment": Assignment(trial.config, "", Execution())})


def test_tune_gets_an_answer_to_whatever_is_reported() -> None:
    good, bad = candidates(EASY, 2)
    asha = PerCellASHA([good, bad])
    odd: list[dict[str, Any]] = [
        {},
        {"done": True},
        {"step": 20},
        {"val/accuracy": 0.5},
        row(20, math.nan),
        row(20, None),
        row(800, 0.5),
        row(-1, 0.5),
        {"step": math.nan, "val/accuracy": 0.5},
        {"step": None, "val/accuracy": 0.5},
        {"step": "20", "val/accuracy": 0.5},
        row(40, 10**400),
    ]
    for result in odd:
        assert asha.on_trial_result(None, tune_trial(good), result) == TrialScheduler.CONTINUE
    assert asha.on_trial_result(None, tune_trial(good), row(40, 0.9)) == TrialScheduler.CONTINUE
    assert asha.on_trial_result(None, tune_trial(bad), row(40, 0.1)) == TrialScheduler.STOP


def test_a_record_that_cannot_be_written_changes_no_decision(caplog: pytest.LogCaptureFixture) -> None:
    def full(decision: Decision) -> None:
        raise OSError("no space left on device")

    good, bad = candidates(EASY, 2)
    asha = PerCellASHA([good, bad], record=full)
    assert asha.on_trial_result(None, tune_trial(good), row(20, 0.9)) == TrialScheduler.CONTINUE
    assert asha.on_trial_result(None, tune_trial(bad), row(20, 0.1)) == TrialScheduler.STOP
    assert "no space left on device" in caplog.text


def test_a_retry_that_reports_a_step_again_gets_no_second_decision() -> None:
    good, other, stopped = candidates(EASY, 3)
    record: list[Decision] = []
    asha = PerCellASHA([good, other, stopped], record=record.append)
    asha.on_trial_result(None, tune_trial(good), row(20, 0.5))
    asha.on_trial_error(None, tune_trial(good))  # Tune says so before it starts a trial again
    asha.on_trial_result(None, tune_trial(other), row(20, 0.9))
    assert asha.on_trial_result(None, tune_trial(good), row(20, 0.5)) == TrialScheduler.CONTINUE
    assert asha.on_trial_result(None, tune_trial(stopped), row(20, 0.1)) == TrialScheduler.STOP
    assert not asha.decide(stopped.trial_id, row(20, 0.1))
    assert len(record) == 3


def test_a_trial_that_is_started_again_is_still_live() -> None:
    good, bad = candidates(EASY, 2)
    asha = PerCellASHA([good, bad])
    asha.on_trial_result(None, tune_trial(good), row(20, 0.9))
    asha.on_trial_error(None, tune_trial(good))
    assert asha.on_trial_result(None, tune_trial(bad), row(20, 0.1)) == TrialScheduler.STOP


def test_ten_thousand_reports_are_decided_in_well_under_a_second() -> None:
    trials = [Trial(cell, 0.001 * (i + 1), 0) for cell in cells_of(MINI) for i in range(50)]
    asha = PerCellASHA(trials)
    trial_ids = [trial.trial_id for trial in trials]
    start = time.monotonic()
    for step in range(1, 51):
        for i, trial_id in enumerate(trial_ids):
            asha.decide(trial_id, row(step, i % 50 / 50))
    assert len(trial_ids) == 1000
    assert time.monotonic() - start < 5  # of 50,000


# A restart.


class Report(NamedTuple):
    """A trial validates, or its training fails."""

    trial_id: str
    step: int
    accuracy: float | None
    """None for a failure."""


@dataclass
class Storage:
    """What a sweep leaves on disk, through JSON, with a clock that ticks with every row."""

    journals: dict[str, list[str]] = field(default_factory=dict)
    results: dict[str, Row] = field(default_factory=dict)
    record: list[str] = field(default_factory=list)
    clock: int = 0

    def append(self, trial_id: str, row: Row) -> None:
        self.clock += 1
        self.journals.setdefault(trial_id, []).append(json.dumps({"time": self.clock, **row}))

    def keep(self, decision: Decision) -> None:
        self.record.append(json.dumps(decision.to_dict()))

    def decisions(self) -> list[Decision]:
        return [instance_of(Decision, json.loads(line)) for line in self.record]

    def rows(self) -> dict[str, list[Row]]:
        return {trial_id: [json.loads(line) for line in lines] for trial_id, lines in self.journals.items()}

    def restarted(self, trials: list[Trial], on_record: list[Decision] | None = None) -> PerCellASHA:
        """A new session on what is there; stops without a result get theirs."""
        asha = PerCellASHA(trials, record=self.keep)
        for stop in asha.replay_all(self.rows(), self.results, self.decisions() if on_record is None else on_record):
            assert stop.trial_id not in self.results
            self.results[stop.trial_id] = {"status": "stopped"}
        return asha


def play(asha: PerCellASHA, storage: Storage, reports: list[Report], killed: str = "") -> None:
    """One session: the driver dies at its last report, before or after its decision, or not at all."""
    for i, report in enumerate(reports):
        trial_id, dies = report.trial_id, killed if i == len(reports) - 1 else ""
        if trial_id in storage.results:
            continue
        if report.accuracy is None:
            storage.results[trial_id] = {"status": "failed"}
            if dies != "before":
                asha.give_up(trial_id)
            continue
        storage.append(trial_id, row(report.step, report.accuracy))
        if dies == "before":
            continue
        goes_on = asha.decide(trial_id, row(report.step, report.accuracy))
        if dies == "after":
            continue
        if not goes_on or report.step == 80:
            storage.results[trial_id] = {"status": "finished" if goes_on else "stopped"}
        else:
            storage.append(trial_id, {"step": report.step + 1, "train/loss": 0.1})


def random_sweep(rng: random.Random) -> tuple[list[Trial], list[Report]]:
    """Candidates of three cells with formula curves and validations of their own, arriving in any order."""
    trials = [trial for cell in (EASY, HARD, OTHER_MODEL) for trial in candidates(cell, rng.randint(1, 5))]
    queues = []
    for trial in trials:
        best, rate, every = rng.random(), rng.uniform(5, 50), rng.choice([5, 10, 20, 45])
        curve = [(step, round(best * (1 - math.exp(-step / rate)), 1)) for step in [*range(every, 80, every), 80]]
        queue = [Report(trial.trial_id, step, math.nan if rng.random() < 0.05 else value) for step, value in curve]
        if rng.random() < 0.2:
            cut = rng.randrange(len(queue))
            queue[cut:] = [Report(trial.trial_id, queue[cut].step, None)]
        queues.append(queue)
    reports = []
    while any(queues):
        reports.append(rng.choice([queue for queue in queues if queue]).pop(0))
    return trials, reports


def uninterrupted(trials: list[Trial], reports: list[Report]) -> Storage:
    storage = Storage()
    play(PerCellASHA(trials, record=storage.keep), storage, reports)
    return storage


def kills() -> Iterator[tuple[Storage, list[Trial], Any]]:
    """Random sweeps, each played without a kill, and then cut at any report, before and after its decision."""
    for seed in range(20):
        rng = random.Random(seed)
        trials, reports = random_sweep(rng)
        expected = uninterrupted(trials, reports)
        for i in rng.sample(range(len(reports)), 8):
            for killed in ("before", "after"):
                yield expected, trials, (reports[: i + 1], killed, reports[i + 1 :])


def test_decisions_after_a_kill_anywhere_are_those_without_it() -> None:
    num_stops = 0
    for expected, trials, (before, killed, after) in kills():
        storage = Storage()
        play(PerCellASHA(trials, record=storage.keep), storage, before, killed)
        play(storage.restarted(trials), storage, after)
        assert storage.decisions() == expected.decisions()  # also in their order, and none twice
        assert storage.results.items() <= expected.results.items()
        num_stops += sum(decision.action == "stops" for decision in expected.decisions())
    assert num_stops > 500


def facts(decisions: list[Decision]) -> dict[tuple[str, int], tuple[object, ...]]:
    return {(d.trial_id, d.rung): (d.step, d.value, d.compared, d.cutoff, d.action) for d in decisions}


def test_journals_alone_rebuild_the_rungs_if_the_record_is_lost() -> None:
    for expected, trials, (before, killed, after) in kills():
        storage = Storage()
        play(PerCellASHA(trials), storage, before, killed)
        play(storage.restarted(trials, on_record=[]), storage, after)
        assert facts(storage.decisions()) == facts(expected.decisions())


def test_a_report_that_was_not_decided_about_is_decided_by_what_had_come_before_it() -> None:
    first, second = candidates(EASY, 2)
    journals = {second.trial_id: [{"time": 1.0, **row(20, 0.1)}], first.trial_id: [{"time": 2.0, **row(20, 0.9)}]}
    assert PerCellASHA([first, second]).replay_all(journals, {}) == []  # the first at the rung goes on
    journals[second.trial_id][0]["time"] = 3.0
    asha = PerCellASHA([first, second])
    (stop,) = asha.replay_all(journals, {})
    assert (stop.trial_id, stop.compared) == (second.trial_id, (0.9,))
    assert asha.stop_of(second.trial_id) == stop


def test_who_was_let_go_on_is_not_stopped_later() -> None:
    good, bad = candidates(EASY, 2)
    record: list[Decision] = []
    asha = PerCellASHA([good, bad], record=record.append)
    journals = {good.trial_id: [row(20, 0.9)], bad.trial_id: [row(20, 0.1), {"step": 25, "train/loss": 2.0}]}
    assert asha.replay_all(journals, {}) == []
    assert record[-1].rule.endswith("below the cutoff 0.9000 of 0.9000, but the candidate had gone on already")
    assert asha.decide(good.trial_id, row(40, 0.9))
    assert not asha.decide(bad.trial_id, row(40, 0.1))


def test_a_stop_on_record_without_its_result_stands() -> None:
    good, bad, late = candidates(EASY, 3)
    record: list[Decision] = []
    before = PerCellASHA([good, bad, late], record=record.append)
    before.decide(good.trial_id, row(20, 0.9))
    before.decide(bad.trial_id, row(20, 0.1))
    journals = {good.trial_id: [row(20, 0.9)], bad.trial_id: [row(20, 0.1)]}
    after = PerCellASHA([good, bad, late])
    assert after.replay_all(journals, {bad.trial_id: {"status": "stopped"}}, record) == []
    after = PerCellASHA([good, bad, late])
    assert after.replay_all(journals, {}, record) == [record[1]]
    after.give_up(good.trial_id)
    assert after.decide(late.trial_id, row(20, 0.1))  # the last live one


def test_a_stop_on_record_is_void_once_the_candidate_ran_beyond_it() -> None:
    """It was run again without early stopping, and may have failed then; or its folder was taken away."""
    good, bad = candidates(EASY, 2)
    record: list[Decision] = []
    before = PerCellASHA([good, bad], record=record.append)
    before.decide(good.trial_id, row(20, 0.9))
    before.decide(bad.trial_id, row(20, 0.1))
    beyond = PerCellASHA([good, bad])
    assert beyond.replay_all({bad.trial_id: [row(20, 0.1), row(30, 0.2)]}, {}, record) == []
    assert beyond.stop_of(bad.trial_id) is None
    failed = PerCellASHA([good, bad])
    assert failed.replay_all({bad.trial_id: [row(20, 0.1)]}, {bad.trial_id: {"status": "failed"}}, record) == []
    assert failed.stop_of(bad.trial_id) is None
    gone = PerCellASHA([good, bad], record=record.append)
    assert gone.replay_all({good.trial_id: [row(20, 0.9)]}, {}, list(record)) == []
    assert gone.stop_of(bad.trial_id) is None
    assert gone.decide(bad.trial_id, row(20, 0.95))
    assert len(record) == 3
    again = PerCellASHA([good, bad])
    assert again.replay_all({bad.trial_id: [row(20, 0.95)]}, {}, record) == []


def test_other_flags_find_their_rungs_in_the_journals() -> None:
    first, second = candidates(EASY, 2)
    record: list[Decision] = []
    before = PerCellASHA([first, second], record=record.append)
    before.decide(first.trial_id, row(20, 0.9))
    after = PerCellASHA([first, second], grace_fraction=0.125, record=record.append)
    after.replay_all({first.trial_id: [row(10, 0.8), row(20, 0.9)]}, {}, list(record))
    assert [(decision.rung, decision.action) for decision in record] == [(20, "goes on"), (10, "goes on")]
    assert not after.decide(second.trial_id, row(10, 0.7))
    later = PerCellASHA([first, second], grace_fraction=0.5)
    assert later.replay_all({first.trial_id: [row(20, 0.9)]}, {}, record) == []
    assert later.decide(second.trial_id, row(20, 0.1))


def test_a_candidate_of_another_sweep_is_ignored() -> None:
    (ours,), (theirs,) = candidates(EASY, 1), candidates(HARD, 1)
    record: list[Decision] = []
    PerCellASHA([theirs], record=record.append).decide(theirs.trial_id, row(20, 0.9))
    asha = PerCellASHA([ours])
    journals = {theirs.trial_id: [row(20, 0.9)], ours.trial_id: []}
    assert asha.replay_all(journals, {theirs.trial_id: {"status": "failed"}, ours.trial_id: None}, record) == []
