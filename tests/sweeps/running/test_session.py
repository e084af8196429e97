"""What a session knows before anything runs, and says when all has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeps.machines.cards import CARDS
from sweeps.options import SweepOptions
from sweeps.planning.capacity import Resources
from sweeps.planning.rates import Rates
from sweeps.running.session import Session
from sweeps.sweep import _cost_lines
from sweeps.table.cells import PAPER, Cell, Trial, cells_of
from tests.sweeps.storages import ATTEMPT, finished, write_run
from vit_trainer.config import Execution

B32, B16 = cells_of(replace(PAPER, models=("ViT-B_32", "ViT-B_16"), datasets=("cifar10",), dropouts=(0.0,)))


def session(storage: Path, *cells: Cell, **options: Any) -> Session:
    given = SweepOptions(storage=str(storage), quiet=True, base_lrs=("0.003", "0.01"), **options)
    return Session("sweep", list(cells), given, Execution(), lambda trial: None)


def gpus(*of_nodes: int, num_there: int | None = None) -> Resources:
    return Resources(of_nodes, tuple(8 * count for count in of_nodes), num_there)


def test_under_a_budget_a_cell_costs_what_is_left_of_it(tmp_path: Path) -> None:
    # Of two equal cells the one with a candidate less to run comes first, and so does a larger one with none.
    other = replace(B32, dataset="cifar100")
    assert session(tmp_path, B32, other, max_gpu_hours=10.0).pending[0].cell == B32
    config = Trial(other, 0.01, 0).config
    write_run(tmp_path, config, *finished(config, 0.9, 0.9))
    assert session(tmp_path, B32, other, max_gpu_hours=10.0).pending[0].cell == other


def test_the_closing_line_predicts_for_the_card_that_trials_had(tmp_path: Path) -> None:
    trials = [Trial(B32, 0.003, 0), Trial(B32, 0.01, 0)]
    for trial, name in zip(trials, ("NVIDIA GeForce RTX 3090", "NVIDIA H100 80GB HBM3"), strict=True):
        run = finished(trial.config, 0.9, 0.9)
        write_run(tmp_path, trial.config, *run, hours=8.0, attempt=ATTEMPT | {"device_name": name})
    hours = sum(Rates(CARDS[name]).hours(trials[0]) or 0.0 for name in ("RTX-3090", "H100"))
    assert _cost_lines(session(tmp_path, B32)) == [f"16 hours of 2 trials, {hours:.3g} predicted"]
    unknown = Trial(B16, 0.003, 0)
    attempt = ATTEMPT | {"device_name": "NVIDIA GeForce RTX 2060"}
    write_run(tmp_path, unknown.config, *finished(unknown.config, 0.9, 0.9), hours=4.0, attempt=attempt)
    assert _cost_lines(session(tmp_path, B32, B16)) == ["20 hours of 3 trials"]


def test_who_would_end_last_begins_with_more_slots(tmp_path: Path) -> None:
    """ViT-L_16 on ImageNet takes 24 hours of one GPU, and all together 16 of 32: it gets two, and nobody else does."""
    options = SweepOptions(storage=str(tmp_path), quiet=True)
    session = Session("sweep", cells_of(PAPER), options, Execution(), lambda trial: None)
    session.settle()
    session.max_gang = 8
    sizes: dict[str, int] = {}
    while (leg := session.ask(gpus(8, 8, 8, 8))) is not None:
        sizes[leg.trial.trial_id] = session.slots_of(leg.trial.trial_id)
        session.started(leg.trial.trial_id)
    larger = {trial_id for trial_id, size in sizes.items() if size > 1}
    assert {sizes[trial_id] for trial_id in larger} == {2}
    assert sorted(trial_id.rpartition("-")[0] for trial_id in larger) == [
        "ViT-L_16-imagenet2012-d0-lr0.03-s0",
        "ViT-L_16-imagenet2012-d0.1-lr0.03-s0",
    ]
    assert 32 <= sum(sizes.values()) <= 33
    alone = Session("sweep", cells_of(PAPER)[:1], options, Execution(), lambda trial: None)
    alone.settle()
    alone.max_gang = 8
    found = {leg.until: alone.slots_of(leg.trial.trial_id) for _ in range(4) if (leg := alone.ask(gpus(8))) is not None}
    assert found == {None: 4, 2500: 1}  # the published rate, which goes on whatever the rung says, and the others


def test_a_gang_that_waits_has_the_next_slots_within_bounds(tmp_path: Path) -> None:
    options = SweepOptions(storage=str(tmp_path), quiet=True, gpus_per_trial=("1", "ViT-B_16=4"))
    waits = Session("sweep", [B16, B32], options, Execution(), lambda trial: None)
    waits.settle()
    first = waits.ask(gpus(4, 4))
    assert first is not None
    assert waits.slots_of(first.trial.trial_id) == 4
    assert waits.ask(gpus(4, 3)) is None  # three more slots may be kept from others for it
    assert waits.ask(gpus(3, 3, 1)) is not None  # no node can hold it any more
    assert waits.ask(gpus(4, 4, 4, 4)) is not None  # they are on nodes where it doesn't fit
    assert waits.ask(gpus()) is None
    waits.started(first.trial.trial_id)
    waits.lost(first.trial.trial_id)
    assert waits.slots_of(first.trial.trial_id) == 4


def test_nodes_that_are_there_do_not_wait_for_those_that_are_to_come(tmp_path: Path) -> None:
    """A gang over two nodes waits for the second; on the first one its GPUs are taken all the same, and one waits."""
    options = SweepOptions(storage=str(tmp_path), quiet=True, gpus_per_trial=("1", "ViT-B_16=16"), seeds=(0, 1, 2))
    waits = Session("sweep", [B16, B32], replace(options, early_stopping=None), Execution(), lambda trial: None)
    waits.settle()
    nodes = gpus(8, 8, num_there=1)
    asked = [waits.slots_of(leg.trial.trial_id) for _ in range(40) if (leg := waits.ask(nodes)) is not None]
    assert asked[0] == 16
    assert asked[1:] == [16] * (len(asked) - 10) + [1] * 9


def test_a_gang_is_sized_for_nodes_to_come_until_they_are_late(tmp_path: Path) -> None:
    for late, size in ((False, 4), (True, 2)):
        options = SweepOptions(storage=str(tmp_path), quiet=True, base_lrs=("0.01",), early_stopping=None)
        session = Session("sweep", [B32], options, Execution(), lambda trial: None)
        session.settle()
        session.max_gang = 4
        leg = session.ask(gpus(2, 4, num_there=1), counts_on_more=not late)
        assert leg is not None
        assert session.slots_of(leg.trial.trial_id) == size
        assert session.unplaced == {leg.trial.trial_id: size}
    session.ask_anew(leg.trial.trial_id)
    assert session.ask(gpus(4, 1, num_there=0), counts_on_more=False) == leg
    assert session.unplaced == {leg.trial.trial_id: 1}


def test_a_search_is_not_over_while_a_trial_may_still_be_lost(tmp_path: Path) -> None:
    """Tune asks no more once it has heard that all is over, and a trial that is lost is asked for again."""
    options = SweepOptions(storage=str(tmp_path), quiet=True, search="optuna", num_trials=1, early_stopping="asha")
    search = Session("sweep", [B32], options, Execution(), lambda trial: None)
    leg = search.ask(gpus(2))
    assert leg is not None
    trial_id = leg.trial.trial_id
    search.started(trial_id)
    assert search.ask(gpus(2)) is None
    assert not search.is_over
    search.lost(trial_id)
    assert search.ask(gpus(2)) == leg
    search.ended(trial_id, search.record(trial_id, {"status": "failed", "cause": "for good"}))
    assert search.ask(gpus(2)) is None
    assert search.is_over
