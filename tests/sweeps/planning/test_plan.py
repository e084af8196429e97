"""Plans against known figures, the scheduler's arithmetic, and the budget's."""

import json
import os
import random
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from sweeps.machines.cards import DEFAULT_CARD, card_of, cards_of_ray
from sweeps.machines.prices import Price
from sweeps.options import SweepOptions
from sweeps.paper_grid import app
from sweeps.planning.candidates import planned_trials
from sweeps.planning.capacity import Resources, require_fit, wall_hours
from sweeps.planning.expected_savings import early_stopping_range
from sweeps.planning.memory_and_disk import disk_items, fit_on_card, memory_bytes
from sweeps.planning.order import cheapest_first, longest_first, trial_flops
from sweeps.planning.plan import make_plan
from sweeps.planning.plan_text import plan_lines
from sweeps.planning.probed_rates import Workload, measure
from sweeps.planning.rates import MeasuredRate, Rates
from sweeps.records.hours import hours_lost, hours_not_run
from sweeps.selection.asha_scheduler import PerCellASHA
from sweeps.table.cells import MINI, PAPER, Cell, Grid, Schedule, Trial, cells_of
from tests.sweeps.storages import finished, write_run
from vit_trainer.architectures import MODELS
from vit_trainer.cards import CARDS, card_of_device, card_of_gpu
from vit_trainer.command_line import run
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.datasets import dataset_info
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.files.storage import PROBES, Storage
from vit_trainer.loop.probe import ProbeResult
from vit_trainer.train import train

A100 = CARDS[DEFAULT_CARD]
EIGHT = Resources((8,), (64,))
LAPTOP = Resources((0,), (2,))
PAPER_CELLS = cells_of(PAPER)
PAPER_TRIALS = [Trial(cell, lr, 0) for cell in PAPER_CELLS for lr in dataset_info(cell.dataset).base_lrs]
MINI_TRIALS = [Trial(cell, lr, 0) for cell in cells_of(MINI) for lr in (0.003, 0.01)]


def hours_of(trial: Trial) -> float:
    hours = Rates(A100).hours(trial)
    assert hours is not None
    return hours


def probed(train_rate: float, evaluation_rate: float) -> ProbeResult:
    return ProbeResult(train_rate, evaluation_rate, None, 64, "a device", 10, 60.0)


# Hours.


def test_the_papers_15_cells_take_108_a100_hours_with_evaluations_every_100_steps() -> None:
    hours = 0.0
    for cell in PAPER_CELLS:
        if cell.dropout == 0:
            forward = MODELS[cell.model].forward_flops(cell.resolution)
            info = dataset_info(cell.dataset)
            ours = info.num_evaluations * info.num_validation + info.num_test
            theirs = cell.schedule.total_steps // 100 * info.num_test
            hours += hours_of(Trial(cell, 0.03, 0)) + (theirs - ours) * forward / (0.45 * 312e12) / 3600
    assert hours == pytest.approx(108, rel=0.01)


def test_the_whole_grid_takes_731() -> None:
    plan = make_plan(PAPER_TRIALS, [], Rates(A100), EIGHT)
    assert plan.hours == pytest.approx(731, abs=0.5)
    assert plan.stopped_early is not None
    assert [share / 731 for share in plan.stopped_early] == pytest.approx([0.625, 0.719], abs=0.01)


def test_what_comes_to_each_node_and_what_its_gpus_cost_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIT_CHECKPOINTS", str(tmp_path))
    trials = [trial for trial in PAPER_TRIALS if trial.cell.model == "ViT-B_16"]
    text = plan_lines(make_plan(trials, [], Rates(A100), EIGHT, price=Price(2.5, "as given")))
    start = 4 * (MODELS["ViT-B_16"].num_parameters(224) + 768 * 769 + 769 * 21_843)
    assert text[-2:] == [
        f"inputs: {(start + 2 * 356e6) / 1e9:.3g} GB to each node before its first trial, 1.1 s of 8 idle GPUs ($0.01) "
        "if it gets 1 GB/s",
        "  imagenet2012: 155 GB in shards, read from the first step on; copied as files to a node 44 min of 8 idle "
        "GPUs ($14.79) if it gets 500 files/s",
    ]
    cifar = [trial for trial in trials if trial.cell.dataset == "cifar10"]
    assert plan_lines(make_plan(cifar, [], Rates(A100), EIGHT))[-1].startswith("inputs: 769 MB to each node")
    assert not any("inputs:" in line for line in plan_lines(make_plan(MINI_TRIALS, [], Rates(A100), LAPTOP)))


def test_what_is_done_costs_nothing_more() -> None:
    done = {trial.trial_id for trial in PAPER_TRIALS if trial.cell.model == "ViT-L_16"}
    whole = make_plan(PAPER_TRIALS, [], Rates(A100), EIGHT).hours
    left = make_plan(PAPER_TRIALS, done, Rates(A100), EIGHT)
    assert whole is not None
    assert left.hours == pytest.approx(
        whole - sum(hours_of(trial) for trial in PAPER_TRIALS if trial.cell.model == "ViT-L_16")
    )
    assert (left.num_trials, left.num_done) == (120, 24)
    nothing = make_plan(PAPER_TRIALS, {trial.trial_id for trial in PAPER_TRIALS}, Rates(A100), EIGHT)
    assert (nothing.hours, nothing.wall) == (0, None)
    assert plan_lines(nothing)


def test_measured_rates_take_the_place_of_assumed_ones() -> None:
    trial = Trial(next(cell for cell in PAPER_CELLS if cell.model == "ViT-B_16" and cell.dropout == 0), 0.03, 0)
    rates = Rates(A100, {Workload("ViT-B_16", 384, False): probed(1000, 4000)})
    assert rates.hours(trial) == pytest.approx((10_000 * 512 / 1000 + (40 * 1000 + 10_000) / 4000) / 3600)
    with_dropout = Trial(
        next(cell for cell in PAPER_CELLS if cell.model == "ViT-B_16" and cell.dropout == 0.1), 0.03, 0
    )
    assert rates.hours(with_dropout) == hours_of(with_dropout)


def test_what_was_measured_on_such_a_card_comes_before_an_assumption() -> None:
    trial = Trial(next(cell for cell in PAPER_CELLS if cell.model == "ViT-B_16" and cell.dropout == 0), 0.03, 0)
    table = {("A100-40GB", Workload("ViT-B_16", 384, False)): MeasuredRate(1000, 4000, "a benchmark")}
    rates = Rates(A100, table=table)
    assert rates.hours(trial) == pytest.approx((10_000 * 512 / 1000 + (40 * 1000 + 10_000) / 4000) / 3600)
    assert Rates(CARDS["H100"], table=table).hours(trial) == Rates(CARDS["H100"]).hours(trial)
    text = "\n".join(plan_lines(make_plan([trial], [], rates, EIGHT)))
    assert "rates: measured on A100-40GB by a benchmark" in text
    assert "assumed" not in text
    other = replace(trial, cell=replace(trial.cell, model="ViT-L_16"))
    text = "\n".join(plan_lines(make_plan([trial, other], [], rates, EIGHT)))
    assert "a benchmark" in text
    assert "other trainings reach 29% to 68%, so it may take 0.66 to 1.6 times these hours" in text


def test_the_plan_of_a_search_over_dropout_says_how_sure_it_is() -> None:
    options = SweepOptions(search="optuna", search_over=("base_lr", "dropout"))
    cells = cells_of(replace(PAPER, datasets=("cifar10",), dropouts=(None,)))
    plan = make_plan(planned_trials(options, cells), [], Rates(A100, table={}), EIGHT)
    assert "other trainings reach 29% to 68%" in "\n".join(plan_lines(plan))


def test_the_plan_of_a_search_counts_what_it_has_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = SweepOptions(search="optuna", num_trials=3)
    (cell, *_) = cells_of(replace(MINI, models=("ViT-B_32-mini",), datasets=("digits-even",), dropouts=(0.1,)))
    for base_lr in (0.0021, 0.0042):
        config = Trial(cell, base_lr, 0).config
        write_run(tmp_path, config, *finished(config, 0.9, 0.9))
    for other in (Trial(cell, 0.0021, 1), Trial(cell, 5.0, 0), Trial(replace(cell, dropout=0.0), 0.0021, 0)):
        write_run(tmp_path, other.config, *finished(other.config, 0.9, 0.9))
    grid = ["--models", cell.model, "--datasets", cell.dataset, "--dropouts", "0.1", "--storage", str(tmp_path)]
    with pytest.raises(SystemExit):
        run(app, ["--preset", "mini", *grid, "--plan", "--search", "optuna", "--num-trials", "3"])
    out = capsys.readouterr().out
    assert "1 cell, 3 trials, 2 of them done" in out
    assert "0.0021, 0.0042" in out
    assert len(planned_trials(options, [cell])) == 3


def written(root: Path, **counts: int) -> str:
    """A folder of five classes of real images: as many as given per class and part."""
    for part, count in counts.items():
        for number in range(5):
            folder = root / part / f"class {number}"
            folder.mkdir(parents=True)
            for i in range(count):
                if i < 2:
                    Image.new("RGB", (40, 30), (number, i, 0)).save(folder / f"{i}.png")
                else:
                    os.link(folder / f"{i % 2}.png", folder / f"{i}.png")
    return str(root)


@pytest.mark.parametrize(
    ("counts", "steps", "batch", "sizes", "said"),
    [
        ({"train": 32, "test": 8}, 500, 128, (128, 32, 40), "500 steps of 128 images are 500 epochs"),
        ({"train": 5000, "test": 100}, 10_000, 512, (24_500, 500, 500), "10,000 steps of 512 images are 209 epochs"),
    ],
)
def test_a_plan_says_what_it_means_for_a_folder(
    tmp_path: Path, counts: dict[str, int], steps: int, batch: int, sizes: tuple[int, int, int], said: str
) -> None:
    folder = written(tmp_path / "mine", **counts)
    cells = cells_of(Grid(("ViT-B_16",), (folder,)))
    trials = [Trial(cell, lr, 0) for cell in cells for lr in dataset_info(folder).base_lrs]
    assert {cell.name for cell in cells} == {
        f"ViT-B_16 {folder} 384px {steps} steps {d} from imagenet21k" for d in ("d0", "d0.1")
    }
    assert [trial.base_lr for trial in trials] == [0.001, 0.003, 0.01, 0.03] * 2
    plan = make_plan(trials, [], Rates(A100, estimates_cores=True), LAPTOP)
    text = "\n".join(plan_lines(plan))
    train, validation, test = sizes
    total = sum(sizes)
    assert (
        f"{folder}: {total:,} images in 5 classes, of which {train:,} train, {validation:,} validate and {test} test"
        in text
    )
    assert plan.hours is not None
    assert plan.hours == pytest.approx(
        8 * steps * batch * MODELS["ViT-B_16"].train_flops(384) / (0.45 * 312e12) / 3600, rel=0.03
    )
    assert f"  {said}, {plan.hours:.3g} GPU-hours in all" in text
    assert ("  warning: " in text) == (validation < 100)
    assert plan.cores is not None
    assert plan.cores[1] > 100 * plan.hours / 2
    assert re.search(r"here, without a GPU: about \S+ h on 2 CPU cores \(an estimate, by ", text)
    mini = [Trial(cell, 0.01, 0) for cell in cells_of(Grid(("ViT-B_16-mini",), (folder,)))]
    text = "\n".join(plan_lines(make_plan(mini, [], Rates(A100, estimates_cores=True), LAPTOP)))
    assert re.search(r"epochs, \S+ slot-hours in all", text)
    assert "wall time: " in text
    assert "rates: an estimate, by " in text
    assert "without a GPU" not in text


def test_a_miniature_has_no_hours_until_it_is_measured() -> None:
    plan = make_plan(MINI_TRIALS, [], Rates(A100), LAPTOP, price=Price(3, "as given"))
    text = "\n".join(plan_lines(plan))
    assert plan.hours is None
    assert "-hours" not in text
    assert "$" not in text
    assert "dollars" not in text
    assert "GiB" not in text
    assert "hours: not known for miniatures: --probe measures them" in text
    rates = Rates(A100, {Workload.of(trial): probed(600, 2000) for trial in MINI_TRIALS})
    measured = make_plan(MINI_TRIALS, [], rates, LAPTOP)
    assert measured.hours == pytest.approx(40 * (80 * 64 / 600 + (8 * 90 + 179.5) / 2000) / 3600)
    text = "\n".join(plan_lines(measured))
    assert "slot-hours" in text
    assert "on 2 CPU cores" in text


def test_the_printed_plan_of_a_cluster() -> None:
    plan = make_plan(PAPER_TRIALS, [], Rates(A100), EIGHT, price=Price(2, "as given"))
    lines = plan_lines(plan)
    text = "\n".join(lines)
    assert lines[9].split()[-2:] == ["94.6", "189.21"]
    assert "expected; 731 GPU-hours ($1,462.71) if early stopping stops nothing" in text
    assert "assumed and not measured" in text
    assert "wall time: 91.4 h on 8 GPUs; if early stopping stops nothing" in lines
    assert "ViT-L_16 384px fits with micro-batch 64" in text
    assert "imagenet2012 155 GB" in text
    unstopped = make_plan(PAPER_TRIALS, [], Rates(CARDS["T4"]), LAPTOP, share_left=None)
    text = "\n".join(plan_lines(unstopped))
    assert "expected" not in text
    assert "8 GPUs, for example: there is none here" in text
    assert "45% of T4's peak of 8.1 TFLOP/s in float32 (it has no bfloat16) by its data sheet" in text


# Cards.


@pytest.mark.parametrize(
    ("resources", "name"),
    [
        ([], "A100-40GB"),
        (["CPU", "GPU", "accelerator_type:H100"], "H100"),
        (["accelerator_type:A100", "node:10.0.0.1"], "A100-40GB"),
        (["accelerator_type:A100-80G"], "A100-80GB"),
        (["accelerator_type:H100", "accelerator_type:L4"], "L4"),
        (["accelerator_type:GeForce-RTX-4090"], "RTX-4090"),
        (["accelerator_type:RTX-A6000"], "RTX-A6000"),
        (["accelerator_type:H100", "accelerator_type:K80"], "K80"),
    ],
)
def test_the_card_is_the_clusters_slowest(resources: list[str], name: str) -> None:
    assert card_of(None, cards_of_ray(resources)).name == name
    assert card_of("T4", cards_of_ray(resources)).name == "T4"


@pytest.mark.parametrize(
    ("device_name", "name"),
    [
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA GeForce RTX 5090", "RTX-5090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX-PRO-6000"),
        ("Tesla T4", "T4"),
        # Other chips of like names, and a part of one: nothing is known.
        ("Quadro RTX 6000", None),
        ("NVIDIA GeForce RTX 3080 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
    ],
)
def test_cards_by_what_drivers_call_them(device_name: str, name: str | None) -> None:
    card = card_of_device(device_name)
    assert (card and card.name) == name


def test_an_unknown_card_is_planned_for_by_its_own_word_and_a_probe() -> None:
    card = card_of_gpu("NVIDIA GeForce RTX 4070", 11.6, has_bfloat16=True)
    trials = [trial for trial in PAPER_TRIALS if trial.cell.model == "ViT-B_32"]
    plan = make_plan(trials, [], Rates(card), Resources((1,), (8,)))
    text = "\n".join(plan_lines(plan))
    assert plan.hours is None
    assert "hours: not known for RTX 4070: --probe measures them" in text
    assert "memory, estimated for RTX 4070, 11.6 GiB:" in text
    rates = Rates(card, {Workload.of(trial): probed(600, 2000) for trial in trials})
    assert make_plan(trials, [], rates, Resources((1,), (8,))).hours
    assert plan_lines(make_plan(trials, {trial.trial_id for trial in trials}, Rates(card), EIGHT))
    nothing_known = make_plan(trials, [], Rates(*cards_of_ray(["accelerator_type:K80"])), EIGHT)
    assert "memory" not in "\n".join(plan_lines(nothing_known))


def test_without_bfloat16_half_the_images_fit() -> None:
    config, card = FinetuneConfig.official("ViT-B_16", "cifar10"), CARDS["L4"]
    halves = [fit_on_card(config, replace(card, memory_gib=14, has_bfloat16=has)) for has in (True, False)]
    assert halves[0] is not None
    assert halves[1] is not None
    assert halves[0].micro_batch_size == 2 * halves[1].micro_batch_size


# Order and wall time.


def test_the_cheapest_cells_come_first_and_their_candidates_together() -> None:
    shuffled = random.Random(1).sample(PAPER_TRIALS, len(PAPER_TRIALS))
    order = cheapest_first(shuffled)
    assert sorted(trial.trial_id for trial in order) == sorted(trial.trial_id for trial in PAPER_TRIALS)
    cells = list(dict.fromkeys(trial.cell for trial in order))
    work = [sum(trial_flops(trial) for trial in PAPER_TRIALS if trial.cell == cell) for cell in cells]
    assert work == sorted(work)
    assert all(len({trial.cell for trial in order[i : i + 4]}) == 1 for i in range(0, 120, 4))
    assert cells[0].model == "ViT-B_32"
    # A cell with one candidate left is cheaper than one with four of the same size.
    one = [trial for trial in PAPER_TRIALS if trial.cell == cells[-1]][:1]
    others = [trial for trial in PAPER_TRIALS if trial.cell == cells[-2]]
    assert cheapest_first(others + one)[0] == one[0]


def test_jobs_start_when_they_fit_in_their_order() -> None:
    assert wall_hours([], [4]) == 0
    assert wall_hours([(5, (1,))] * 4, [2, 2]) == 5
    assert wall_hours([(1, (1,)), (1, (1,)), (2, (1,))], [2]) == 3
    assert wall_hours([(2, (1,)), (1, (1,)), (1, (1,))], [2]) == 2
    # The gang waits until both slots of one node are free; the last job needn't wait for it.
    assert wall_hours([(3, (1,)), (1, (2,)), (1, (1,))], [2]) == 4
    # One slot free on each of two nodes holds no gang of two, but a gang of two parts.
    assert wall_hours([(1, (1,)), (2, (1,)), (1, (2,))], [1, 2]) == 3
    assert wall_hours([(1, (1,)), (2, (1,)), (1, (1, 1))], [1, 2]) == 2
    assert wall_hours([(1, (2, 2)), (1, (2,))], [2, 2]) == 2
    # Small jobs fill the fuller node, so the gang after them starts at once.
    assert wall_hours([(3, (1,)), (3, (1,)), (3, (2,))], [2, 2]) == 3


def test_wall_time_is_between_its_bounds_on_random_jobs() -> None:
    draw = random.Random(0)
    for _ in range(50):
        jobs = [(draw.uniform(0.1, 5), (1,)) for _ in range(draw.randint(1, 30))]
        slots = [draw.randint(1, 4) for _ in range(draw.randint(1, 3))]
        longest, work = max(hours for hours, _ in jobs), sum(hours for hours, _ in jobs)
        least = max(longest, work / sum(slots))
        assert least - 1e-9 <= wall_hours(jobs, slots) <= work / sum(slots) + longest  # Graham's bound


def test_gangs_take_the_same_gpu_hours() -> None:
    plans = [make_plan(PAPER_TRIALS, [], Rates(A100), EIGHT, gpus_of=lambda model, n=count: n) for count in (1, 8)]
    assert plans[0].hours == plans[1].hours
    assert plans[1].wall is not None
    assert plans[1].wall.hours == pytest.approx(731 / 8, rel=0.001)
    assert plans[0].wall is not None
    assert plans[0].wall.hours == pytest.approx(731 / 8, rel=0.001)


def test_a_trial_that_can_never_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"ViT-L_16: a trial of 8 GPUs does not fit on nodes with 4, 2: give"):
        make_plan(PAPER_TRIALS, [], Rates(A100), Resources((4, 2), (8, 8)), gpus_of=lambda model: 8)
    with pytest.raises(InputError, match=r"ViT-L_16: its global batch of 512 images .* 6 GPUs: .* such as 4"):
        require_fit(longest_first(PAPER_TRIALS), lambda model: 6, EIGHT)
    require_fit(PAPER_TRIALS, lambda model: 16, Resources((8, 8), (8, 8)))
    make_plan(PAPER_TRIALS, [], Rates(A100), LAPTOP, gpus_of=lambda model: 16)  # for GPUs that are yet to come


# Early stopping.


def share_run(trials: list[Trial], accuracy: dict[Trial, float]) -> float:
    """Share of the steps that PerCellASHA lets candidates run that report in the order given."""
    asha, alive, steps = PerCellASHA(trials), list(trials), 0
    for step in range(20, 81, 20):
        steps += 20 * len(alive)
        alive = [t for t in alive if asha.decide(t.trial_id, {"step": step, "val/accuracy": accuracy[t]})]
    return steps / (80 * len(trials))


@pytest.mark.parametrize("num_candidates", [1, 2, 3, 4, 5])
def test_early_stopping_saves_what_the_rule_itself_saves(num_candidates: int) -> None:
    cell = Cell("digits", "ViT-B_16-mini", "digits-even", 32, Schedule(80, 8, 64), 0.0)
    trials = [Trial(cell, 0.01 * (i + 1), 0) for i in range(num_candidates)]
    draw = random.Random(1)
    shares = [share_run(trials, {trial: draw.random() for trial in trials}) for _ in range(500)]
    low, high = early_stopping_range(num_candidates)
    assert high == pytest.approx(sum(shares) / len(shares), abs=0.02)
    assert low <= high
    assert max(shares) == 1  # a cell may save nothing


def test_the_range_is_what_is_known_of_4_and_2_candidates() -> None:
    assert early_stopping_range(4) == pytest.approx((0.625, 0.69), abs=0.01)
    assert early_stopping_range(2) == pytest.approx((0.75, 0.8125), abs=0.01)
    assert early_stopping_range(1) == (1, 1)


# Memory and disk.


def test_a_model_fits_with_the_largest_micro_batch_that_divides_its_share() -> None:
    config = FinetuneConfig.official("ViT-L_16", "imagenet2012")
    found = fit_on_card(config, A100)
    assert found is not None
    usable = 0.9 * 39 * 2**30
    assert memory_bytes(config, found.micro_batch_size) == found.num_bytes <= usable
    assert 512 % found.micro_batch_size == 0
    assert memory_bytes(config, 2 * found.micro_batch_size) > usable
    gang = fit_on_card(FinetuneConfig.official("ViT-B_32", "cifar10"), CARDS["H200"], 8)
    assert gang is not None
    assert gang.micro_batch_size == 64


def test_a_model_that_does_not_fit_with_one_image_is_refused() -> None:
    small = CARDS["T4"].__class__("pocket", 1e12, 8)
    with pytest.raises(InputError, match=r"ViT-H_14 at 384 px needs .* GiB with one image .* 7.2 GiB of pocket: "):
        fit_on_card(FinetuneConfig.official("ViT-H_14", "cifar100"), small)


def test_disk_holds_two_checkpoints_of_each_trial_that_runs_and_one_of_each_that_waits() -> None:
    trials = [trial for trial in PAPER_TRIALS if trial.cell.model == "ViT-B_16" and trial.cell.dataset == "cifar10"]
    sizes = {
        item.name: item.num_bytes for item in disk_items(trials, 3, saves_weights=True, registered=[trials[0].cell])
    }
    parameters = MODELS["ViT-B_16"].num_parameters(384) + 769 * 10
    assert sizes["checkpoints at most"] == 3 * 2 * 6 * parameters
    assert disk_items(trials, 3, num_paused=4)[0].num_bytes == (3 * 2 + 4) * 6 * parameters
    assert sizes["weights of 8 trials"] == 8 * 4 * parameters
    assert sizes["1 registered model"] == 4 * parameters
    assert sizes["cifar10"] == 356e6
    assert sizes["1 checkpoint to start from"] == pytest.approx(413e6, rel=0.01)


# The budget.


def row(step: int, hours: float) -> Row:
    return {"time": 0.0, "step": step, "runtime_hours": hours, "gpu_hours": 2 * hours}


def attempt(number: int, from_step: int) -> Row:
    return {"time": 0.0, "attempt": number, "from_step": from_step}


def test_hours_lost_are_those_since_the_checkpoint_that_was_gone_on_from() -> None:
    first = [attempt(1, 0), row(10, 1.0), row(20, 2.0), row(30, 3.0)]
    assert hours_lost(first) == 0
    assert hours_lost([*first, attempt(2, 30), row(40, 4.0)]) == 0
    again = [*first, attempt(2, 20), row(30, 3.5), row(40, 4.5)]
    assert hours_lost(again) == pytest.approx(2 * 1.0)
    # The second attempt is cut off too, without a newer checkpoint; notes don't matter.
    assert hours_lost([*again, attempt(3, 20), {"time": 0.0, "note": "a retry"}, row(30, 3.0)]) == pytest.approx(
        2 * (1.0 + 2.5)
    )
    assert hours_lost([*first, attempt(2, 0), row(10, 1.0)]) == pytest.approx(2 * 3.0)
    # The checkpoint lies between rows: only what is certain counts.
    assert hours_lost([*first, attempt(2, 15), row(20, 2.0)]) == pytest.approx(2 * 1.0)
    # Nothing was reported after the checkpoint, and once it was newer than every row.
    assert hours_lost([*first, attempt(2, 35), row(40, 4.0), attempt(3, 35)]) == 0.0
    assert hours_lost([{"time": 0.0, "step": 10, "runtime_hours": 1.0, "gpu_hours": 0.0}, attempt(2, 0)]) == 1.0


class Killed(BaseException):
    """Stands in for the end of the process."""


def test_hours_lost_of_a_run_that_was_really_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FinetuneConfig.official("ViT-B_32-mini", "digits-even", total_steps=6, warmup_steps=1)
    execution = Execution(num_evaluations=3, log_every_steps=1)
    append = RunDir.append

    def cut_off(self: RunDir, line: Row) -> Row:
        written = append(self, line)
        if line.get("step") == 3:
            raise Killed
        return written

    with monkeypatch.context() as patch:
        patch.setattr("vit_trainer.loop.ledger.VALIDATION_MINUTES", 0.0)
        patch.setattr(RunDir, "append", cut_off)
        with pytest.raises(Killed):
            train(config, RunDir(tmp_path), execution)
    run_dir = RunDir(tmp_path)
    hours = {row["step"]: row["runtime_hours"] for row in run_dir.rows()}
    train(config, RunDir(tmp_path), execution)
    assert [row["step"] for row in run_dir.rows()] == [1, 2, 3, 3, 4, 5, 6]
    assert hours_lost(run_dir.lines()) == pytest.approx(hours[3] - hours[2], abs=0.5 / 3600)
    assert hours[3] > hours[2]


def test_hours_saved_are_steps_not_run_at_the_trials_own_speed() -> None:
    rows = [row(10, 0.4), row(20, 1.0)]
    saved = [hours_not_run({"status": status, "step": 20}, rows, 80) for status in ("finished", "stopped", "failed")]
    assert saved == [0, pytest.approx(2 * 1.0 / 20 * 60), 0]
    assert hours_not_run(None, rows, 80) == hours_not_run({"status": "stopped"}, [], 80) == 0


# Probes.


@pytest.mark.slow
def test_a_workload_is_probed_once_in_its_own_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["--models", "ViT-B_32-mini", "--datasets", "digits-even", "--dropouts", "0.0"]
    with pytest.raises(SystemExit) as left:
        run(app, ["--preset", "mini", *grid, "--storage", str(tmp_path), "--plan", "--probe", "--probe-seconds", "0.2"])
    assert left.value.code == 0
    output = capsys.readouterr()
    assert output.err == "probing ViT-B_32-mini 32px for 0.2 s\n"
    assert "slot-hours" in output.out
    assert "rates: measured for 0.2 s on " in output.out

    ((key, result),) = json.loads((tmp_path / PROBES).read_bytes()).items()
    assert result["device_name"] in key
    assert f"torch {version('torch')}" in key
    trials = [trial for trial in MINI_TRIALS if trial.cell.model == "ViT-B_32-mini" and trial.cell.dropout == 0]
    workload = Workload("ViT-B_32-mini", 32, has_dropout=False)
    kept = measure(trials, Storage(tmp_path), seconds=0.1, on_gpu=False)
    assert kept == {workload: ProbeResult(**result)}
    assert capsys.readouterr().err == ""


def test_a_probe_that_fails_is_said_in_its_own_words(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"^cannot probe: there is no GPU on this machine"):
        measure(MINI_TRIALS[:1], Storage(tmp_path), seconds=0.1, on_gpu=True)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_of_probes_is_named(tmp_path: Path) -> None:
    (tmp_path / PROBES).write_text("[1]")
    with pytest.raises(InputError, match=r"probes.json is damaged .*: delete it"):
        measure(MINI_TRIALS[:1], Storage(tmp_path), seconds=0.1, on_gpu=False)
