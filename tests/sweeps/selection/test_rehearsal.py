"""Rehearsals: what is ranked, from what, and what then runs whole."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps import sweep
from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates
from sweeps.planning.capacity import Resources
from sweeps.planning.plan import make_plan
from sweeps.planning.rates import Rates
from sweeps.records.decisions import read_decisions
from sweeps.running.session import Session
from sweeps.selection.asha_scheduler import PerCellASHA
from sweeps.selection.rehearsal import Rehearsal
from sweeps.table.cells import MINI, PAPER, Cell, Trial, cells_of, official_cell
from tests.sweeps.sweep_process import Start, is_finished
from vit_trainer.cards import CARDS
from vit_trainer.command_line import INTERRUPTED
from vit_trainer.config import Execution
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import Storage

CELL = official_cell("ViT-B_32-mini", "digits-even", dropout=0.1)
RATES = ("0.003", "0.001", "0.0003")


def options(storage: Path, **values: Any) -> SweepOptions:
    return SweepOptions(**{"storage": str(storage), "base_lrs": RATES, "early_stopping": "rehearsal"} | values)


def leave(rehearsal: Rehearsal, trial: Trial, accuracy: float | None, hours: float = 1.0) -> None:
    """What a short trial leaves; None: it failed."""
    run_dir = rehearsal.options.run_dir(trial)
    run_dir.open_for_writing(trial.config.to_dict())
    step = trial.cell.schedule.total_steps
    run_dir.append({"step": step, "gpu_hours": hours} | ({} if accuracy is None else {"val/accuracy": accuracy}))
    # what the test images say must not matter
    good = {"status": "finished", "step": step, "val/accuracy": accuracy, "test/accuracy": 1 - (accuracy or 0.0)}
    run_dir.write_result(good if accuracy is not None else {"status": "failed", "step": 0, "cause": "a bug"})
    run_dir.close()


def decisions(storage: Path) -> list[Any]:
    return read_decisions(Storage(storage), "sweep")[0]


def test_dollars_limit_the_rehearsal_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def bring_to_end(name: str, cells: list[Cell], options: SweepOptions, execution: Execution) -> int:
        limits.append(options.max_gpu_hours)
        return 0

    monkeypatch.setattr(sweep, "_bring_to_end", bring_to_end)
    of_run = options(tmp_path, max_dollars=6.0, price_per_gpu_hour=2.0)
    assert sweep.run_sweep("sweep", [CELL], of_run, Execution()) == 0
    for trial in Rehearsal("sweep", [CELL], of_run).trials:
        leave(Rehearsal("sweep", [CELL], of_run), trial, 0.5, hours=0.5)
    assert sweep.run_sweep("sweep", [CELL], of_run, Execution()) == 0
    assert limits == [3.0, 3.0, 1.5]


def test_the_best_on_the_validation_images_runs_whole(tmp_path: Path) -> None:
    rehearsal = Rehearsal("sweep", [CELL], options(tmp_path))
    assert rehearsal.cells == [replace(CELL, schedule=replace(CELL.schedule, total_steps=20, warmup_steps=2))]
    assert rehearsal.options.early_stopping is None
    for trial, accuracy in zip(rehearsal.trials, (0.7, 0.9, 0.8), strict=True):
        assert not rehearsal.is_over
        leave(rehearsal, trial, accuracy)
    assert rehearsal.is_over
    cells, whole = Rehearsal("sweep", [CELL], options(tmp_path, keep=1)).whole()
    (trial,) = candidates(whole, cells)
    assert (trial.cell, trial.base_lr) == (CELL, 0.001)
    cells, whole = rehearsal.whole()
    assert [trial.base_lr for trial in candidates(whole, cells)] == [0.001, 0.0003]
    rehearsal.record()
    Rehearsal("sweep", [CELL], options(tmp_path)).record()
    first, second, third = decisions(tmp_path)
    assert [each.action for each in (first, second, third)] == ["stops", "goes on", "goes on"]
    what = "rehearsal of 20 steps: val/accuracy 0.7000 is not among those that go on"
    assert first.rule == f"{what}: 0.9000 of base_lr 0.001, 0.8000 of base_lr 0.0003"
    assert first.compared == (0.9, 0.8)
    assert second.trial_id == trial.trial_id


def test_seeds_count_by_their_mean_and_a_failed_one_takes_its_rate_out(tmp_path: Path) -> None:
    rehearsal = Rehearsal("sweep", [CELL], options(tmp_path, seeds=(0, 1)))
    values = {(0.003, 0): 0.99, (0.003, 1): None, (0.001, 0): 0.9, (0.001, 1): 0.5, (0.0003, 0): 0.8, (0.0003, 1): 0.8}
    for trial in rehearsal.trials:
        leave(rehearsal, trial, values[trial.base_lr, trial.seed])
    assert rehearsal.is_over
    assert rehearsal.accuracies(CELL) == {0.003: None, 0.001: pytest.approx(0.7), 0.0003: pytest.approx(0.8)}
    cells, whole = rehearsal.whole()
    seeds = {(rate, seed) for rate in (0.0003, 0.001) for seed in (0, 1)}
    assert {(trial.base_lr, trial.seed) for trial in candidates(whole, cells)} == seeds


def test_a_cell_whose_rehearsals_all_failed_does_not_go_on(tmp_path: Path) -> None:
    other = replace(CELL, dropout=0.0)
    rehearsal = Rehearsal("sweep", [CELL, other], options(tmp_path))
    for trial in rehearsal.trials:
        leave(rehearsal, trial, None if trial.cell.dropout else 0.5)
    cells, _ = rehearsal.whole()
    assert cells == [other]
    assert rehearsal.best(CELL) == ()


def test_the_published_rate_runs_whole_too(tmp_path: Path) -> None:
    cell = cells_of(PAPER)[0]
    rehearsal = Rehearsal("sweep", [cell], options(tmp_path, base_lrs=("0.001", "0.01", "0.03", "0.1"), keep=2))
    for trial, accuracy in zip(rehearsal.trials, (0.9, 0.8, 0.7, 0.6), strict=True):
        leave(rehearsal, trial, accuracy)
    assert rehearsal.best(cell) == (0.001, 0.01, 0.03)


def test_a_cell_with_one_rate_needs_no_rehearsal(tmp_path: Path) -> None:
    rehearsal = Rehearsal("sweep", [CELL], options(tmp_path, base_lrs=("official",)))
    assert rehearsal.cells == []
    cells, whole = rehearsal.whole()
    assert [trial.base_lr for trial in candidates(whole, cells)] == [0.003]


def test_the_whole_runs_have_what_the_rehearsal_left_of_the_budget(tmp_path: Path) -> None:
    rehearsal = Rehearsal("sweep", [CELL], options(tmp_path, max_gpu_hours=10.0))
    for trial in rehearsal.trials:
        leave(rehearsal, trial, 0.5, hours=1.5)
    assert rehearsal.whole()[1].max_gpu_hours == pytest.approx(5.5)


def test_asha_does_not_take_a_rehearsal_for_a_rung(tmp_path: Path) -> None:
    rehearsal = Rehearsal("sweep", [CELL], options(tmp_path))
    for trial, accuracy in zip(rehearsal.trials, (0.7, 0.9, 0.8), strict=True):
        leave(rehearsal, trial, accuracy)
    rehearsal.record()
    asha = options(tmp_path, early_stopping="asha")
    begun = Trial(CELL, 0.003, 0)
    run_dir = asha.run_dir(begun)  # killed after the step at which the rehearsal would have stopped it
    run_dir.open_for_writing(begun.config.to_dict())
    run_dir.append({"step": 20, "val/accuracy": 0.6})
    run_dir.close()
    session = Session("sweep", [CELL], asha, Execution(), lambda trial: None)
    session.replay(PerCellASHA(session.trials.values(), record=session.record_decision))
    assert session.display.result(begun.trial_id) is None


def test_after_an_interruption_nothing_runs_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a trial that failed before was about to be tried again."""
    given = options(tmp_path)
    rehearsal = Rehearsal("sweep", [CELL], given)
    for trial, accuracy in zip(rehearsal.trials, (0.7, 0.9, None), strict=True):
        leave(rehearsal, trial, accuracy)
    begun: list[str] = []

    def interrupted(name: str, *_: Any) -> int:
        begun.append(name)
        return INTERRUPTED

    monkeypatch.setattr(sweep, "_bring_to_end", interrupted)
    assert sweep.run_sweep("sweep", [CELL], given, Execution()) == INTERRUPTED
    assert begun == ["sweep-rehearsal"]


def test_what_another_sweep_stopped_is_not_rehearsed_yet(tmp_path: Path) -> None:
    rehearsal = Rehearsal("sweep", [CELL], options(tmp_path))
    for trial in rehearsal.trials:
        leave(rehearsal, trial, 0.5)
    run_dir = rehearsal.options.run_dir(rehearsal.trials[0])
    run_dir.open_for_writing(rehearsal.trials[0].config.to_dict())
    run_dir.write_result({"status": "stopped", "step": 10, "cause": "ASHA"})
    run_dir.close()
    assert not rehearsal.is_over
    assert options(tmp_path).settled(run_dir.result()) is None


def test_rehearsals_are_not_registered(tmp_path: Path) -> None:
    rehearsal = Rehearsal("sweep", [CELL], options(tmp_path, register=True))
    for trial in rehearsal.trials:
        leave(rehearsal, trial, 0.5)
    assert not rehearsal.options.register
    assert rehearsal.whole()[1].register


def test_an_optuna_search_is_not_rehearsed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave --search optuna out"):
        Rehearsal("sweep", [CELL], options(tmp_path, base_lrs=(), search="optuna"))


def hours(trials: list[Trial]) -> float:
    plan = make_plan(trials, [], Rates(CARDS["A100-40GB"]), Resources((8,), (96,)), share_left=None)
    assert plan.hours is not None
    return plan.hours


@pytest.mark.parametrize("grid", [PAPER, replace(PAPER, dropouts=(0.1,))])
def test_with_four_rates_it_costs_two_thirds_and_for_one_kept_a_third(tmp_path: Path, grid: Any) -> None:
    cells: list[Cell] = cells_of(grid)
    given = options(tmp_path, base_lrs=())
    share = hours(Rehearsal("sweep", cells, given).planned()) / hours(candidates(given, cells))
    assert 0.5 < share <= 0.85


def test_a_plan_counts_the_one_validation_of_a_rehearsal(tmp_path: Path) -> None:
    cells = cells_of(replace(PAPER, models=("ViT-B_32",)))
    given = options(tmp_path, base_lrs=(), plan=True, register=True)
    rehearsal, rates = Rehearsal("sweep", cells, given), Rates(CARDS["A100-40GB"])
    plan = sweep._plan(cells, given, Execution(), rehearsal)
    whole = rehearsal.planned()[len(rehearsal.trials) :]
    expected = [rates.hours(trial, 1) for trial in rehearsal.trials] + [rates.hours(trial) for trial in whole]
    assert plan.hours == pytest.approx(sum(each or 0.0 for each in expected))
    assert plan.hours < hours(rehearsal.planned())
    assert f"{len(cells)} registered models" in [item.name for item in plan.disk]


def test_the_miniature_rehearses_a_quarter_of_its_steps(tmp_path: Path) -> None:
    rehearsal = Rehearsal("sweep", cells_of(MINI), options(tmp_path))
    assert {cell.schedule.total_steps for cell in rehearsal.cells} == {20}


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_miniature_from_the_command_line_interrupted_in_its_rehearsal(
    tmp_path: Path, start: Start, two_slots: str
) -> None:
    rates = (0.003, 0.001, 0.0003, 0.0001)
    flags = ("--early-stopping", "rehearsal", "--keep", "1", "--base-lrs", *map(str, rates))
    first = start(tmp_path, *flags, address=two_slots)
    first.wait_until(lambda run_dir: bool(run_dir.attempts()))
    first.process.send_signal(signal.SIGINT)
    code, out, err = first.finish()
    assert code == INTERRUPTED, err
    assert "paper_grid-mini-rehearsal: 4 trials, 0 of them done" in out
    assert {(run_dir.config() or {})["total_steps"] for run_dir in first.run_dirs()} == {20}
    for num_done in (0, 1):
        code, out, err = start(tmp_path, *flags, address=two_slots).finish()
        assert code == 0, err
        assert f"paper_grid-mini: 1 trial, {num_done} of them done" in out
    runs = [RunDir(path) for path in (tmp_path / "runs").iterdir()]
    assert all(map(is_finished, runs))
    found = [((run.config() or {})["base_lr"], run.result() or {}) for run in runs]
    assert sorted(result["step"] for _, result in found) == [20, 20, 20, 20, 80]
    short = {rate: result["val/accuracy"] for rate, result in found if result["step"] == 20}
    (whole,) = [rate for rate, result in found if result["step"] == 80]
    assert set(short) == set(rates)
    assert short[whole] == max(short.values())
    on_record = read_decisions(Storage(tmp_path), "paper_grid-mini")[0]
    assert sorted(each.action for each in on_record) == ["goes on", "stops", "stops", "stops"]
    report = (tmp_path / "sweeps" / "paper_grid-mini" / "report" / "report.md").read_text()
    assert "rehearsal of 20 steps" in report
