"""Races: whole rungs alone decide, whoever comes first; nobody is stopped for good before the cell has its number."""

import heapq
import math
import random
from dataclasses import replace

import pytest

from sweeps.planning.halving import Halving
from sweeps.records.decisions import METRIC
from sweeps.selection.promotion import Leg, Race
from sweeps.table.cells import MINI, Trial, cells_of
from vit_trainer.tracking.chosen import Finished, choose

CELL = replace(cells_of(MINI)[0], dropout=0.0)
TOTAL = CELL.schedule.total_steps  # 80
RATES = (0.001, 0.003, 0.01, 0.03)


def trials_of(*seeds: int, rates: tuple[float, ...] = RATES) -> list[Trial]:
    return [Trial(CELL, rate, seed) for rate in rates for seed in seeds or (0,)]


def row(step: int, value: object) -> dict[str, object]:
    return {"step": step, METRIC: value}


def at_rung(race: Race, *values: object, seed: int = 0, step: int = 20) -> None:
    for trial, value in zip([trial for trial in race.trials if trial.seed == seed], values, strict=True):
        race.reported(trial, row(step, value))


def going_on(race: Race) -> list[float]:
    return [leg.trial.base_lr for leg in race.legs if leg.until is None]


def test_the_better_half_goes_on_once_all_are_there() -> None:
    race = Race(CELL.name, trials_of(), Halving())
    assert [leg.until for leg in race.legs] == [20] * 4
    a, b, c, d = race.trials
    for trial, value in ((c, 0.7), (a, 0.9), (d, 0.8)):
        race.reported(trial, row(20, value))
    assert race.legs == [Leg(b, 20)]
    assert race.decisions() == []
    race.reported(b, row(20, 0.1))
    assert race.legs == [Leg(a), Leg(d)]
    decisions = {each.trial_id: each for each in race.decisions()}
    assert [decisions[each.trial_id].action for each in (a, b, c, d)] == [
        "goes on",
        "stays paused",
        "stays paused",
        "goes on",
    ]
    assert decisions[c.trial_id].rule == (
        "rung of 4 candidates at step 20: val/accuracy 0.7000 is number 3 of 4, of which the best 2 go on"
    )
    assert (decisions[c.trial_id].compared, decisions[c.trial_id].cutoff) == ((0.9, 0.8, 0.1), 0.8)
    race.ended(a, "finished")
    assert not race.is_done
    race.ended(d, "finished")
    assert race.is_done


def test_the_published_rate_never_pauses() -> None:
    race = Race(CELL.name, trials_of(), Halving(), lambda trial: trial.base_lr == 0.03)
    assert [leg.until for leg in race.legs] == [20, 20, 20, None]
    at_rung(race, 0.9, 0.8, 0.7, 0.1)
    assert going_on(race) == [0.001, 0.003, 0.03]
    (published,) = [each for each in race.decisions() if each.trial_id == race.trials[3].trial_id]
    assert published.rule.endswith("number 4 of 4, of which the best 2 go on; as the published one it goes on too")


@pytest.mark.parametrize(("rates", "kept"), [((0.01,), 1), ((0.01, 0.1), 1), ((0.01, 0.1, 1.0), 1), (RATES, 2)])
def test_how_many_go_on(rates: tuple[float, ...], kept: int) -> None:
    race = Race(CELL.name, trials_of(rates=rates), Halving())
    if len(rates) > 1:
        at_rung(race, *(0.5 for _ in rates))
    assert going_on(race) == list(rates[:kept])  # where values are equal, the earlier


def test_without_rungs_all_run_to_their_end() -> None:
    race = Race(CELL.name, trials_of(0, 1), Halving(num_rungs=0))
    assert race.legs == [Leg(trial) for trial in race.trials]


def test_later_rungs_are_among_those_that_went_on() -> None:
    race = Race(CELL.name, trials_of(), Halving(num_rungs=2))
    at_rung(race, 0.1, 0.7, 0.8, 0.9)
    assert race.legs == [Leg(race.trials[3], 40), Leg(race.trials[2], 40)]  # the best first, if a budget is to end
    race.reported(race.trials[2], row(40, 0.95))
    race.reported(race.trials[3], row(40, 0.9))
    assert race.legs == [Leg(race.trials[2])]
    assert len(race.decisions()) == 6


@pytest.mark.parametrize("seed", [*range(20), 454, 469])  # in the last two equal means differ in their last bits
def test_of_those_that_finish_the_best_at_the_last_rung_is_the_one_that_counts(seed: int) -> None:
    """Whoever shows the cell chooses as the rungs did, where nothing changes after them; equal means included."""
    chance = random.Random(seed)
    trials = trials_of(0, 1, 2)
    accuracies = {trial: chance.randint(9_700, 9_703) / 10_000 for trial in trials}
    race = Race(CELL.name, trials, Halving(num_rungs=2), lambda trial: trial.base_lr == chance.choice(RATES))
    finished = []
    while race.legs:
        leg = chance.choice(race.legs)
        race.reported(leg.trial, row(leg.until or TOTAL, accuracies[leg.trial]))
        if leg.until is None:
            race.ended(leg.trial, "finished")
            own = accuracies[leg.trial]
            finished.append(Finished(leg.trial.trial_id, leg.trial.recipe, leg.trial.seed, own, own))
    chosen = choose(finished)
    (best,) = [each.trial_id for each in race.decisions() if each.rung == 40 and "is number 1 of" in each.rule]
    assert chosen is not None
    assert (chosen.trials[0].trial_id, len(chosen.trials)) == (best, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.9"])
def test_no_number_is_the_worst(value: object) -> None:
    race = Race(CELL.name, trials_of(), Halving())
    at_rung(race, value, 0.1, 0.05, 0.2)
    assert going_on(race) == [0.03, 0.003]


def test_where_one_that_goes_on_fails_the_next_best_takes_its_place() -> None:
    race = Race(CELL.name, trials_of(), Halving())
    at_rung(race, 0.9, 0.8, 0.7, 0.6)
    a, b, c, d = race.trials
    race.ended(a, "failed")
    assert going_on(race) == [0.003, 0.01]
    race.ended(b, "finished")
    race.ended(c, "failed")
    assert going_on(race) == [0.03]
    race.ended(d, "failed")
    assert race.is_done  # with the number of b


def test_one_that_fails_before_the_rung_is_not_waited_for() -> None:
    race = Race(CELL.name, trials_of(), Halving())
    race.ended(race.trials[0], "failed")
    for trial, value in zip(race.trials[1:], (0.1, 0.2, 0.3), strict=True):
        race.reported(trial, row(20, value))
    assert going_on(race) == [0.03, 0.01]


def test_seeds_beyond_the_first_start_for_what_goes_on() -> None:
    race = Race(CELL.name, trials_of(0, 1, 2), Halving())
    assert [(leg.trial.base_lr, leg.trial.seed) for leg in race.legs] == [(rate, 0) for rate in RATES]
    at_rung(race, 0.9, 0.1, 0.2, 0.8)
    assert [(leg.trial.base_lr, leg.trial.seed, leg.until) for leg in race.legs] == [
        (rate, seed, None) for rate in (0.001, 0.03) for seed in (0, 1, 2)
    ]


def test_seeds_count_by_the_mean_over_those_that_all_have() -> None:
    race = Race(CELL.name, trials_of(0, 1, rates=(0.01, 0.1)), Halving())
    at_rung(race, 0.5, 0.6)  # seed 0
    at_rung(race, 0.99, 0.1, seed=1)
    assert going_on(race) == [0.01, 0.01]
    alone = Race(CELL.name, trials_of(0, 1, rates=(0.01, 0.1)), Halving())
    at_rung(alone, 0.5, 0.6)
    alone.reported(alone.trials[1], row(20, 0.99))  # the other rate has no seed 1 to compare with
    assert going_on(alone) == [0.1, 0.1]


def test_a_first_seed_that_fails_is_followed_by_the_next() -> None:
    race = Race(CELL.name, trials_of(0, 1, rates=(0.01, 0.1)), Halving())
    race.ended(race.trials[0], "failed")
    assert race.legs[0] == Leg(race.trials[1], 20)


def test_what_an_earlier_version_stopped_stays_stopped_unless_nothing_else_is_left() -> None:
    race = Race(CELL.name, trials_of(), Halving())
    at_rung(race, 0.9, 0.8, 0.7, 0.6)
    a, b, c, d = race.trials
    race.ended(a, "stopped")
    race.ended(b, "finished")
    assert race.is_done
    race.ended(b, "failed")  # c takes its place
    assert race.legs == [Leg(c)]
    race.ended(c, "failed")
    assert race.legs == [Leg(d)]
    race.ended(d, "failed")
    assert race.legs == [Leg(a)]


class Play:
    """A sweep of one cell on some slots: trials take random times, and some fail for good at some step."""

    def __init__(self, seed: int, num_rungs: int) -> None:
        draw = random.Random(seed)
        self.trials = trials_of(*range(draw.choice((1, 1, 2))), rates=RATES[: draw.choice((2, 3, 4, 4))])
        self.halving = Halving(num_rungs=num_rungs)
        self.certain = draw.choice((None, *RATES))
        kinds = ([0.1, 0.2, 0.3], [0.5], [0.7, math.nan], [draw.random() for _ in range(20)])
        values = draw.choice(kinds)
        self.values = {(trial, step): draw.choice(values) for trial in self.trials for step in (20, 40, 60, TOTAL)}
        self.fails_at = {trial: draw.choice((20, 40, 60)) for trial in self.trials if draw.random() < 0.2}

    def race(self) -> Race:
        return Race(CELL.name, self.trials, self.halving, lambda trial: trial.base_lr == self.certain)

    def run(self, num_slots: int, delays: random.Random) -> tuple[object, ...]:
        """What was decided, who finished, and what was recorded of those that didn't."""
        race, steps, now = self.race(), dict.fromkeys(self.trials, 0), 0.0
        running: list[tuple[float, int, Leg]] = []
        journals: dict[Trial, list[dict[str, object]]] = {trial: [] for trial in self.trials}
        ended: dict[Trial, str] = {}
        for number in range(10_000):
            busy = {leg.trial for *_, leg in running}
            for leg in (leg for leg in race.legs if leg.trial not in busy):
                if len(running) < num_slots:
                    heapq.heappush(running, (now + delays.random(), id(leg) + number, leg))
            if not running:
                break
            now, _, leg = heapq.heappop(running)
            trial = leg.trial
            steps[trial] += 20
            if self.fails_at.get(trial) == steps[trial]:
                ended[trial] = "failed"
                race.ended(trial, "failed")
                continue
            journals[trial].append(row(steps[trial], self.values[trial, steps[trial]]))
            race.reported(trial, journals[trial][-1])
            if steps[trial] == TOTAL:
                ended[trial] = "finished"
                race.ended(trial, "finished")
            elif leg.until is None or steps[trial] < leg.until:
                heapq.heappush(running, (now + delays.random(), id(leg) + number, leg))
            if delays.random() < 0.1:  # the driver dies; another rebuilds what it knew from run folders
                race = self.race()
                for each, rows in journals.items():
                    for line in rows:
                        race.reported(each, line)
                    if each in ended:
                        race.ended(each, ended[each])
        assert race.is_done
        decisions = {(each.trial_id, each.rung): (each.action, each.value, each.compared) for each in race.decisions()}
        finished = {trial for trial, status in ended.items() if status == "finished"}
        if not finished:
            assert set(ended) == set(self.trials), "no cell ends without a number while a candidate can still run"
        return decisions, finished


@pytest.mark.parametrize("num_rungs", [1, 2])
def test_the_order_of_arrival_decides_nothing(num_rungs: int) -> None:
    num_failed = 0
    for seed in range(150):
        play = Play(seed, num_rungs)
        alone = play.run(1, random.Random(seed))
        for num_slots in (2, 4, 16):
            assert play.run(num_slots, random.Random(seed + num_slots)) == alone
        num_failed += bool(play.fails_at)
    assert num_failed > 20
