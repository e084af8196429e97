"""One Optuna study per cell, on formula objectives: no training, no Ray."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from sweeps.display.sweep_display import SweepDisplay
from sweeps.options import SweepOptions
from sweeps.planning.candidates import grid_of, search_space
from sweeps.selection.studies import PastRun, Studies, open_studies, study_name
from sweeps.table.cells import MINI, Cell, Schedule, Trial, cells_of
from sweeps.table.search_space import Space
from vit_trainer.errors import InputError

ROOT = Path(__file__).parents[3]
SCHEDULE = Schedule(total_steps=80, warmup_steps=8, global_batch_size=64)
EVEN = Cell("digits", "ViT-B_16-mini", "digits-even", 32, SCHEDULE, 0.0)
ODD = Cell("digits", "ViT-B_16-mini", "digits-odd", 32, SCHEDULE, 0.0)
ANY_DROPOUT = replace(EVEN, dropout=None)
RATES = Space((0.0003, 0.3))
EVERYTHING = Space((0.0003, 0.3), (0.0, 0.5), (0, 16))

Objective = Callable[[Trial], float]


def peak(at: float) -> Objective:
    """An accuracy that is highest at one learning rate."""
    return lambda trial: 0.98 - 0.1 * math.log10(trial.base_lr / at) ** 2


def finished(trial: Trial, accuracy: float, time: float = 0.0) -> PastRun:
    rows = [{"time": time + step, "step": step, "val/accuracy": accuracy * step / 80} for step in (40, 80)]
    return PastRun(trial.config.to_dict(), rows, {"status": "finished", "step": 80, "val/accuracy": accuracy})


def stopped(trial: Trial, accuracies: dict[int, float], time: float = 0.0) -> PastRun:
    rows = [{"time": time + step, "step": step, "val/accuracy": value} for step, value in accuracies.items()]
    return PastRun(trial.config.to_dict(), rows, {"status": "stopped", "step": max(accuracies), "cause": "ASHA"})


class Search:
    """A sweep without training: run folders in memory, a clock that counts."""

    def __init__(
        self, storage: str, spaces: dict[Cell, Space] | None = None, num_trials: int = 8, seed: int = 0, **given: Any
    ) -> None:
        self.settings: dict[str, Any] = {"num_trials": num_trials, "seed": seed, "sweep": "formula"} | given
        self.spaces, self.storage = spaces or {EVEN: RATES}, storage
        self.runs: dict[str, PastRun] = {}
        self.asked: list[Trial] = []
        self.start(storage)

    def start(self, storage: str) -> None:
        """The same command, now or again."""
        self.studies = Studies(self.spaces, storage=storage, **self.settings)
        self.studies.replay(self.runs)

    def run(self, objective: Objective, at_most: int = 1_000) -> "Search":
        for _ in range(at_most):
            trial = self.studies.ask()
            if trial is None:
                break
            self.asked.append(trial)
            self.end(trial, finished(trial, objective(trial), 1_000 * len(self.asked)))
        return self

    def end(self, trial: Trial, run: PastRun) -> None:
        self.runs[trial.trial_id] = run
        assert run.result is not None
        self.studies.tell(trial.trial_id, run.rows, run.result)

    def records(self, cell: Cell = EVEN) -> list[FrozenTrial]:
        """What anybody who opens the storage sees."""
        return records(self.storage, cell, self.spaces[cell])


def records(storage: str, cell: Cell = EVEN, space: Space = RATES) -> list[FrozenTrial]:
    opened: Any = storage
    if "://" not in storage:
        opened = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    return optuna.load_study(study_name=study_name(cell, space), storage=opened).trials


def ids(trials: Iterable[Trial]) -> list[str]:
    return [trial.trial_id for trial in trials]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Optuna's tables and nothing in them, as `Studies` makes it: to be copied."""
    path = tmp_path_factory.mktemp("empty") / "optuna.db"
    Studies({}, storage=f"sqlite:///{path}", num_trials=1, seed=0, sweep="formula")
    return path


@pytest.fixture(params=["file", "database"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "new" / "optuna.log")
    shutil.copy(request.getfixturevalue("empty_database"), tmp_path / "optuna.db")
    return f"sqlite:///{tmp_path}/optuna.db"


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "optuna.log")


# Proposals.


def test_each_cell_starts_with_the_published_recipe_and_gets_its_number_of_trials(storage: str) -> None:
    search = Search(storage, {EVEN: RATES, ODD: RATES}, num_trials=3).run(peak(0.01))
    assert [trial.base_lr for trial in search.asked[:2]] == [0.003, 0.003]
    assert [trial.cell for trial in search.asked] == [EVEN, ODD] * 3
    assert len(set(ids(search.asked))) == 6
    assert ids(search.studies.trials) == ids(search.asked)
    for cell in (EVEN, ODD):
        assert [record.state for record in search.records(cell)] == [TrialState.COMPLETE] * 3


def test_what_is_proposed_is_what_is_trained_and_recorded_and_reads_well(storage: str) -> None:
    search = Search(storage, {ANY_DROPOUT: EVERYTHING}, num_trials=8).run(peak(0.1))
    for trial, record in zip(search.asked, search.records(ANY_DROPOUT), strict=True):
        config = trial.config
        assert record.params == {
            "base_lr": config.base_lr,
            "dropout": config.dropout,
            "warmup_steps": config.warmup_steps,
        }
        assert record.user_attrs["trial_id"] == trial.trial_id
        assert config.base_lr == float(f"{config.base_lr:.3g}")
        assert config.dropout == round(config.dropout, 2)
        assert isinstance(config.warmup_steps, int)
        assert EVERYTHING.contains(config.to_dict())
    first = search.asked[0].config
    assert (first.base_lr, first.dropout, first.warmup_steps) == (0.003, 0.0, 8)
    assert len({trial.config.dropout for trial in search.asked}) > 4
    assert len({trial.config.warmup_steps for trial in search.asked}) > 4


def test_it_comes_closer_to_the_best_rate_than_chance_does(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    best = {replace(EVEN, resolution=16 * (i + 2)): 10 ** (-3.4 + 2.8 * i / 12) for i in range(12)}

    def mean_distance(storage: str) -> float:
        search = Search(storage, dict.fromkeys(best, RATES), num_trials=16)
        search.run(lambda trial: peak(best[trial.cell])(trial))
        distances = [
            min(abs(math.log10(trial.base_lr / rate)) for trial in search.asked if trial.cell == cell)
            for cell, rate in best.items()
        ]
        return sum(distances) / len(distances)

    searched = mean_distance(file)
    monkeypatch.setattr("sweeps.selection.studies.NUM_STARTUP_TRIALS", 1_000)
    assert searched < 0.7 * mean_distance(file + ".chance")


def test_cells_never_learn_from_each_other(tmp_path: Path) -> None:
    def of_even(odd: Objective, storage: str) -> list[str]:
        search = Search(str(tmp_path / storage), {EVEN: RATES, ODD: RATES})
        search.run(lambda trial: (odd if trial.cell == ODD else peak(0.1))(trial))
        return ids(trial for trial in search.asked if trial.cell == EVEN)

    assert of_even(peak(0.001), "low") == of_even(peak(0.2), "high")


def test_trials_that_run_at_once_differ(file: str) -> None:
    search = Search(file)
    at_once = [search.studies.ask() for _ in range(8)]
    assert search.studies.ask() is None
    assert len({trial.trial_id for trial in at_once if trial}) == 8
    assert {record.state for record in search.records()} == {TrialState.RUNNING}


@pytest.mark.parametrize("ending", ["stopped", "running"])
def test_what_was_stopped_and_what_is_running_shape_the_next_proposal(tmp_path: Path, ending: str) -> None:
    def next_after(ending: str) -> Trial | None:
        search = Search(str(tmp_path / ending)).run(peak(0.1), at_most=5)
        trial = search.studies.ask()
        assert trial is not None
        if ending == "stopped":
            search.end(trial, stopped(trial, {20: 0.1}))
        elif ending == "failed":  # which says nothing of how good the values are
            search.end(trial, PastRun(trial.config.to_dict(), [], {"status": "failed", "step": 0}))
        return search.studies.ask()

    assert next_after(ending) != next_after("failed")


def test_what_somebody_else_queues_in_the_study_stays_there(file: str) -> None:
    search = Search(file)
    backend = optuna.storages.journal.JournalFileBackend(search.storage)
    study = optuna.load_study(study_name=study_name(EVEN, RATES), storage=optuna.storages.JournalStorage(backend))
    assert study.metric_names == ["val/accuracy"]  # optuna-dashboard's axis
    search.run(peak(0.1), at_most=4)
    study.enqueue_trial({"base_lr": 0.05})
    trial = search.studies.ask()
    assert trial is not None
    assert trial.base_lr != 0.05
    assert [record.state.name for record in search.records()] == ["COMPLETE"] * 4 + ["WAITING", "RUNNING"]


def test_seeds_and_cells_propose_differently(tmp_path: Path) -> None:
    rates = set()
    for seed in (0, 1):
        search = Search(str(tmp_path / f"{seed}"), {EVEN: RATES, ODD: RATES}, seed=seed).run(peak(0.1), at_most=4)
        rates |= {trial.base_lr for trial in search.asked}
    assert len(rates) == 1 + 4  # the published one, and one of its own for each cell and seed


def test_a_space_with_fewer_values_than_trials_is_exhausted_quietly(file: str) -> None:
    space = Space(None, None, (8, 10))
    search = Search(file, {EVEN: space}).run(lambda trial: 0.5)
    assert sorted(trial.config.warmup_steps for trial in search.asked) == [8, 9, 10]
    assert search.studies.ask() is None


# Outcomes.


def test_a_stopped_trial_is_pruned_at_its_steps(storage: str) -> None:
    search = Search(storage)
    trial = search.studies.ask()
    assert trial is not None
    search.end(trial, stopped(trial, {10: 0.5, 20: 0.4}))
    (record,) = search.records()
    assert (record.state, record.value, record.intermediate_values) == (TrialState.PRUNED, 0.4, {10: 0.5, 20: 0.4})


def test_a_finished_trial_has_the_accuracy_of_its_end_and_those_on_the_way(storage: str) -> None:
    search = Search(storage).run(lambda trial: 0.8, at_most=1)
    (record,) = search.records()
    assert (record.state, record.value) == (TrialState.COMPLETE, 0.8)
    assert record.intermediate_values == {40: 0.4, 80: 0.8}


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
@pytest.mark.parametrize("value", [math.nan, None])
def test_accuracies_that_are_no_numbers_break_nothing(storage: str, status: str, value: float | None) -> None:
    search = Search(storage, num_trials=3)
    for _ in range(3):
        trial = search.studies.ask()
        assert trial is not None
        row = {"time": 1.0, "step": 20, "val/accuracy": value}
        search.end(trial, PastRun(trial.config.to_dict(), [row], {"status": status, "step": 20, "val/accuracy": value}))
    expected = TrialState.PRUNED if status == "stopped" else TrialState.FAIL
    assert [(record.state, record.intermediate_values) for record in search.records()] == [(expected, {})] * 3
    assert search.studies.ask() is None


def test_telling_and_replaying_again_adds_nothing(storage: str) -> None:
    search = Search(storage, num_trials=3).run(peak(0.1), at_most=2)
    trial = search.studies.ask()
    assert trial is not None
    search.end(trial, stopped(trial, {20: 0.1}))
    before = search.records()
    search.studies.replay(search.runs)
    for trial_id, run in search.runs.items():
        assert run.result is not None
        search.studies.tell(trial_id, run.rows, run.result)
    search.start(storage)
    assert search.records() == before
    assert search.studies.ask() is None


def test_a_stopped_trial_that_is_run_to_its_end_later_has_both_records_and_counts_once(file: str) -> None:
    search = Search(file, num_trials=2)
    trial = search.studies.ask()
    assert trial is not None
    search.end(trial, stopped(trial, {20: 0.5}))
    search.runs[trial.trial_id] = replace(search.runs[trial.trial_id], result=None)
    search.start(file)
    again = search.studies.ask()
    assert again == trial
    search.end(trial, finished(trial, 0.9))
    assert [record.state for record in search.records()] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert len(search.run(peak(0.1)).asked) == 1
    assert len(search.studies.trials) == 2


# Restarts.


def killed_midway(storage: str) -> tuple[Search, Trial]:
    """After 5 trials, with a sixth under way."""
    search = Search(storage, {ANY_DROPOUT: EVERYTHING}, num_trials=10).run(peak(0.1), at_most=5)
    running = search.studies.ask()
    assert running is not None
    rows = [{"time": 5_500.0, "step": 20, "val/accuracy": 0.1}]
    search.runs[running.trial_id] = PastRun(running.config.to_dict(), rows, None)
    return search, running


@pytest.mark.parametrize("loses_storage", [False, True])
def test_after_a_kill_the_unfinished_goes_on_and_the_rest_is_as_without_it(
    storage: str, tmp_path: Path, loses_storage: bool
) -> None:
    whole = Search(str(tmp_path / "whole"), {ANY_DROPOUT: EVERYTHING}, num_trials=10).run(peak(0.1))
    search, running = killed_midway(storage)
    if loses_storage:
        search.storage = str(tmp_path / "lost" / "optuna.log")
    search.start(search.storage)
    assert [record.state.name for record in search.records(ANY_DROPOUT)] == ["COMPLETE"] * 5 + ["RUNNING"]
    search.run(peak(0.1))
    assert search.asked[5] == running
    assert ids(search.asked) == ids(whole.asked)
    after, without = search.records(ANY_DROPOUT), whole.records(ANY_DROPOUT)
    assert [(record.number, record.params, record.value) for record in after] == [
        (record.number, record.params, record.value) for record in without
    ]


def test_a_trial_whose_folder_was_never_made_goes_on_too(storage: str) -> None:
    search, running = killed_midway(storage)
    del search.runs[running.trial_id]
    search.start(storage)
    assert search.studies.ask() == running
    assert [record.state for record in search.records(ANY_DROPOUT)].count(TrialState.RUNNING) == 1


def test_a_trial_that_ended_while_nobody_told_is_told_at_the_start(storage: str) -> None:
    search, running = killed_midway(storage)
    search.runs[running.trial_id] = finished(running, 0.7, 5_000)
    search.start(storage)
    assert [record.value for record in search.records(ANY_DROPOUT)][5] == 0.7
    assert search.studies.ask() != running


def test_more_trials_can_be_asked_for_later(file: str, tmp_path: Path) -> None:
    whole = Search(str(tmp_path / "whole"), num_trials=8).run(peak(0.1))
    search = Search(file, num_trials=5).run(peak(0.1))
    search.settings["num_trials"] = 8
    search.start(file)
    assert ids(search.run(peak(0.1)).asked) == ids(whole.asked)


# Other sweeps.


def test_a_grid_counts_where_it_lies_in_the_space(storage: str) -> None:
    search = Search(storage, {EVEN: Space((0.001, 0.1))}, num_trials=4)
    of_grid = [Trial(EVEN, base_lr, 0) for base_lr in (0.003, 0.01, 0.5)]
    others = [Trial(ODD, 0.01, 0), Trial(replace(EVEN, dropout=0.1), 0.01, 0), Trial(EVEN, 0.02, 0, warmup_steps=4)]
    search.runs = {trial.trial_id: finished(trial, 0.5) for trial in of_grid + others}
    search.runs["from-another-version"] = PastRun(
        {"model": "ViT-B_16-mini", "base_lr": 0.01}, [], {"status": "finished"}
    )
    search.start(storage)
    assert [record.params["base_lr"] for record in search.records()] == [0.003, 0.01]
    assert len(search.run(peak(0.1)).asked) == 2
    assert 0.003 not in [trial.base_lr for trial in search.asked]  # the published rate is trained already
    assert len(search.studies.trials) == 4


def test_proposals_depend_on_what_a_grid_found(tmp_path: Path) -> None:
    def proposed(best: float) -> list[str]:
        search = Search(str(tmp_path / f"{best}"), num_trials=12)
        search.runs = {t.trial_id: finished(t, peak(best)(t)) for t in (Trial(EVEN, 0.001 * 2**i, 0) for i in range(7))}
        search.start(search.storage)
        return ids(search.run(peak(best)).asked)

    assert proposed(0.001) != proposed(0.1)


def test_trials_of_another_seed_are_told_but_do_not_count(file: str) -> None:
    search = Search(file, num_trials=2)
    other, half_done = Trial(EVEN, 0.01, 7), Trial(EVEN, 0.02, 7)
    search.runs = {
        other.trial_id: finished(other, 0.5),
        half_done.trial_id: PastRun(half_done.config.to_dict(), [], None),
    }
    search.start(file)
    search.run(peak(0.1))
    assert len(search.asked) == 2
    assert {trial.seed for trial in search.studies.trials} == {0}
    assert len(search.records()) == 3


def test_what_finishes_is_repeated_with_the_other_seeds_and_counts_by_its_mean(storage: str) -> None:
    """The third proposal is stopped, and one of the fourth's repeats fails."""
    accuracies = {0: 0.5, 1: 0.6, 2: 0.9}
    search = Search(storage, num_trials=4, repeat_seeds=(1, 2))
    assert search.studies.num_expected == 12
    asked: list[Trial] = []
    while (trial := search.studies.ask()) is not None:
        asked.append(trial)
        proposal = len(dict.fromkeys(replace(each, seed=0) for each in asked))
        run = finished(trial, accuracies[trial.seed], 1000.0 * len(asked))
        if proposal == 3:
            run = stopped(trial, {40: 0.4}, 1000.0 * len(asked))
        elif proposal == 4 and trial.seed == 2:
            run = PastRun(run.config, run.rows, {"status": "failed", "step": 0, "cause": "of a test"})
        search.end(trial, run)
        if len(asked) == 2:
            assert [record.state for record in search.records()] == [TrialState.RUNNING]
            search.start(storage)  # killed, and the same command again
    assert [trial.seed for trial in asked] == [0, 1, 2, 0, 1, 2, 0, 0, 1, 2]
    assert search.studies.num_expected == 10 == len(search.studies.trials)
    values = [(record.state.name, record.value) for record in search.records()]
    mean = pytest.approx(2.0 / 3)
    assert values == [("COMPLETE", mean), ("COMPLETE", mean), ("PRUNED", 0.4), ("COMPLETE", pytest.approx(0.55))]
    search.start(storage)
    assert len(search.records()) == 4
    assert search.studies.ask() is None


def test_a_search_of_one_seed_is_repeated_later(file: str) -> None:
    search = Search(file, num_trials=2).run(peak(0.1))
    values = [record.value for record in search.records()]
    search.settings["repeat_seeds"] = (1,)
    search.start(file)
    assert [search.studies.ask(), search.studies.ask()] == [replace(trial, seed=1) for trial in search.asked]
    assert search.studies.ask() is None
    for trial in search.asked:
        repeat = replace(trial, seed=1)
        search.end(repeat, finished(repeat, 0.5))
    assert [record.value for record in search.records()] == [*values, *((value + 0.5) / 2 for value in values)]


def test_another_sweep_shares_the_study_and_leaves_running_trials_alone(storage: str) -> None:
    one = Search(storage, num_trials=4).run(peak(0.1), at_most=2)
    running = one.studies.ask()
    assert running is not None
    other = Search(storage, num_trials=4, sweep="another")
    other.runs[running.trial_id] = PastRun(running.config.to_dict(), [], None)
    other.start(storage)
    other.run(peak(0.1))
    assert len(other.asked) == 2
    assert running not in other.studies.trials
    assert not {*ids(one.asked), running.trial_id} & {*ids(other.asked)}
    one.end(running, finished(running, 0.6))
    assert [record.state for record in one.records()] == [TrialState.COMPLETE] * 5


def test_another_range_is_another_study_that_starts_with_the_same_runs(file: str) -> None:
    wide = Search(file).run(peak(0.1))
    narrow = Search(file, {EVEN: Space((0.01, 0.3))})
    narrow.runs = dict(wide.runs)
    narrow.start(file)
    inside = {trial.trial_id for trial in wide.asked if 0.01 <= trial.base_lr <= 0.3}
    assert {record.user_attrs["trial_id"] for record in narrow.records()} == inside
    assert 0 < len(inside) < 8


PROCESS = """
import sys
from tests.sweeps.selection.test_studies import EVEN, ODD, RATES, Search, peak
print("ready", flush=True)
sys.stdin.readline()
search = Search(sys.argv[1], {EVEN: RATES, ODD: RATES}, num_trials=4, sweep=sys.argv[2]).run(peak(0.1), at_most=1)
print("asked", flush=True)
sys.stdin.readline()
print(*[trial.trial_id for trial in search.run(peak(0.1)).asked])
"""


def started(storage: str, name: str, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, *flags, "-c", PROCESS, storage, name]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def test_two_processes_share_a_storage_without_running_anything_twice(storage: str) -> None:
    Search(storage, {EVEN: RATES, ODD: RATES})  # tables of a database are made by one process
    processes = [started(storage, name) for name in ("one", "two")]
    for word in ("ready\n", "asked\n"):  # all wait, then go on together: each has asked before one asks for the rest
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == word
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    outputs = []
    for process in processes:
        outputs.append(process.communicate(timeout=60)[0].split())
        assert process.returncode == 0
    asked = [trial_id for output in outputs for trial_id in output]
    assert all(outputs)
    assert len(asked) == len(set(asked))
    for cell in (EVEN, ODD):
        kept = [record for record in records(storage, cell) if "duplicate_of" not in record.user_attrs]
        assert {record.state for record in kept} == {TrialState.COMPLETE}
        assert 4 <= len(kept) <= 5  # the last one may be asked for by both


# Names and input.


def test_a_study_is_named_after_all_that_its_trials_share() -> None:
    assert study_name(EVEN, RATES) == (
        "ViT-B_16-mini digits-even 32px 80 steps d0 from digits, batch 64, warm-up 8: base_lr 0.0003 to 0.3"
    )
    assert study_name(ANY_DROPOUT, EVERYTHING) == (
        "ViT-B_16-mini digits-even 32px 80 steps dropout searched from digits, batch 64: "
        "base_lr 0.0003 to 0.3, dropout 0.0 to 0.5, warmup_steps 0 to 16"
    )


def test_cells_of_several_dropouts_become_one_where_it_is_searched() -> None:
    options = SweepOptions(search="optuna", search_over=("base_lr", "dropout"), dropouts=(0.0, 0.3))
    cells = cells_of(grid_of(options, "mini"))
    assert len(cells) == len(cells_of(MINI)) / 2
    assert search_space(options, cells[0]) == Space((0.001, 0.03), (0.0, 0.3))
    display = SweepDisplay(cells[:1], 1)
    with display.console.capture() as printed:
        display.console.print(display.table())
    assert re.search(r" digits-even\s+model +dropout searched\n", printed.get())


def test_ranges_unless_given_lie_around_the_papers_candidates() -> None:
    cells = {cell.dataset: cell for cell in cells_of(grid_of(SweepOptions(), "paper"))}
    options = SweepOptions(search="optuna", search_over=("base_lr", "warmup_steps"))
    assert search_space(options, cells["cifar10"]) == Space((0.000333, 0.09), None, (0, 2_000))
    assert search_space(options, cells["imagenet2012"]) == Space((0.001, 0.18), None, (0, 4_000))
    given = SweepOptions(search="optuna", base_lrs=("0.002", "0.2"))
    assert search_space(given, cells["cifar10"]) == Space((0.002, 0.2))


def test_studies_of_options_lie_in_the_sweeps_folder(tmp_path: Path) -> None:
    studies = open_studies(SweepOptions(search="optuna", storage=str(tmp_path), num_trials=1), "formula", [EVEN])
    assert studies.ask() == Trial(EVEN, 0.003, 0)
    assert studies.ask() is None
    assert len(records(str(tmp_path / "optuna.log"), EVEN, Space((0.001, 0.03)))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "grid", "num_trials": 4}, "num_trials is for --search optuna only"),
        ({"search": "grid", "search_over": ("dropout",)}, "search_over is for --search optuna only"),
        ({"search": "grid", "optuna_storage": "x"}, "optuna_storage is for --search optuna only"),
        ({"num_trials": 0}, "num_trials 0 is outside [1, 10000]: give the number of trials per cell"),
        ({"seeds": ()}, "0 seeds with --search optuna: give one, or more"),
        ({"search_over": ()}, "search_over is empty: give one or more"),
        ({"base_lrs": ("0.01",)}, "base_lrs 0.01 are no range"),
        ({"base_lrs": ("official",)}, "base_lrs official are no range"),
        ({"base_lrs": ("0.1", "0.01")}, "base_lrs 0.1 0.01 are no range"),
        ({"base_lrs": ("0", "0.01")}, "two rates such as 0.001 0.1"),
        ({"base_lrs": ("0.01", "nan")}, "two rates such as 0.001 0.1"),
        ({"base_lrs": ("0.01", "0.1"), "search_over": ("dropout",)}, "without base_lr in search_over"),
        ({"dropouts": (0.1,), "search_over": ("dropout",)}, "dropouts 0.1 are no range"),
        ({"dropouts": (0.1, 1.0), "search_over": ("dropout",)}, "two in [0, 1) such as 0 0.3"),
        ({"storage": "s3://bucket/sweep"}, "give --optuna-storage a file or a database URL"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SweepOptions(**({"search": "optuna"} | options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def opening(storage: str) -> str:
    with pytest.raises(InputError) as caught:
        Search(storage)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("content", ["no journal", "\n", "3\n4\n", '{"op_code": 0}\n', '{"op_code": 0, "wor'])
def test_a_file_that_is_no_journal_is_left_as_it_is(file: str, content: str) -> None:
    Path(file).write_text(content)
    assert "is damaged or no journal of Optuna's: move it away" in opening(file)
    assert Path(file).read_text() == content


def test_a_storage_that_cannot_be_opened_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be used: " in opening(str(tmp_path / "file" / "optuna.log"))
    assert "unable to open database file" in opening(f"sqlite:///{tmp_path}/missing/optuna.db")
    for url in ("redis://host/0", "nonsense://me:secret@host/name", "postgresql+nonsense://me:secret@host/name"):
        message = opening(url)
        assert "cannot be opened" in message
        assert "secret" not in message


def test_bad_input_is_answered_without_optuna() -> None:
    code = "import sys, sweeps.paper_grid; print([name for name in ('optuna', 'ray', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout) == []


def test_optuna_says_nothing(tmp_path: Path) -> None:
    storages = (str(tmp_path / "optuna.log"), f"sqlite:///{tmp_path}/optuna.db")
    processes = [started(storage, "quiet", "-W", "always::UserWarning") for storage in storages]
    for process in processes:
        assert process.communicate("\n\n", timeout=60)[1] == ""
        assert process.returncode == 0
