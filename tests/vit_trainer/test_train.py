"""The loop, on real digits with the real miniature checkpoints."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.vit_trainer.finished_trial import finished_trial, outcome_of
from tests.vit_trainer.finished_trial import weights_of as weights
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.datasets import DATASETS
from vit_trainer.data.load import load_dataset
from vit_trainer.errors import InputError, LeaseLostError, NonFiniteLossError, RunInterruptedError
from vit_trainer.files.predictions import Predictions
from vit_trainer.files.run_dir import PREDICTIONS, Row, RunDir
from vit_trainer.loop import ledger
from vit_trainer.loop.step import choose_micro_batch_size
from vit_trainer.model.memory import memory_bytes
from vit_trainer.train import steps_of_evaluations, train

CONFIG = FinetuneConfig.official(
    "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=8, warmup_steps=2, global_batch_size=16
)
EXECUTION = Execution(micro_batch_size=8, num_evaluations=4, save_weights=True)


class Killed(BaseException):
    """Stands in for the end of the process right after a report."""


@pytest.mark.usefixtures("saves_at_validations")
def test_four_steps_a_kill_and_four_more_are_eight(tmp_path: Path) -> None:
    whole, broken = RunDir(tmp_path / "whole"), RunDir(tmp_path / "broken")
    train(CONFIG, whole, EXECUTION)

    def kill_at_step_4(row: Row) -> None:
        broken.finish_checkpoint()
        if row["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        train(CONFIG, broken, EXECUTION, kill_at_step_4)
    assert broken.result() is None
    reports: list[Row] = []
    train(CONFIG, RunDir(broken.location), EXECUTION, reports.append)

    assert [row["step"] for row in reports] == [6, 8]
    assert [row["step"] for row in broken.journal()] == [2, 4, 6, 8]
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(broken)[name]), name
    for one, other in zip(whole.journal(), broken.journal(), strict=True):
        assert one["train/loss"] == other["train/loss"]
        assert one["val/accuracy"] == other["val/accuracy"]


@pytest.mark.usefixtures("saves_at_validations")
def test_the_journal_gets_the_row_that_a_crash_kept_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = RunDir(tmp_path)

    def crash(self: RunDir, row: Row) -> Row:
        if "step" in row:
            raise Killed
        return row

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append", crash)  # between the checkpoint and the journal
        with pytest.raises(Killed):
            train(CONFIG, run_dir, EXECUTION)
    assert run_dir.journal() == []
    train(CONFIG, RunDir(tmp_path), EXECUTION)
    assert [row["step"] for row in run_dir.journal()] == [2, 4, 6, 8]


@pytest.mark.parametrize("micro_batch_size", [4, 16])
def test_the_trajectory_does_not_depend_on_the_micro_batch(tmp_path: Path, micro_batch_size: int) -> None:
    reference, other = RunDir(tmp_path / "8"), RunDir(tmp_path / "other")
    train(CONFIG, reference, EXECUTION)
    train(CONFIG, other, dataclasses.replace(EXECUTION, micro_batch_size=micro_batch_size))
    for one, two in zip(reference.journal(), other.journal(), strict=True):
        assert one["train/loss"] == pytest.approx(two["train/loss"], abs=1e-5)
    for name, tensor in weights(reference).items():
        torch.testing.assert_close(tensor, weights(other)[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("gib", [500, 39, 16, 0.1])
def test_a_gpu_gets_the_largest_micro_batch_that_it_is_estimated_to_hold(
    monkeypatch: pytest.MonkeyPatch, gib: float
) -> None:
    config = FinetuneConfig.official("ViT-L_16", "cifar10")
    card = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    gpu: Any = SimpleNamespace(device=torch.device("cuda"), num_processes=1, mixed_precision="bf16")
    in_float32: Any = SimpleNamespace(device=torch.device("cuda"), num_processes=1, mixed_precision="no")
    cpu: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    size = choose_micro_batch_size(config, Execution(), gpu)
    assert size == 1 or memory_bytes(config, size) <= 0.9 * gib * 2**30
    assert size == 128 or memory_bytes(config, 2 * size) > 0.9 * gib * 2**30
    assert (size == 128) == (gib == 500)
    assert (size == 1) == (gib == 0.1)
    if gib < 500:
        assert choose_micro_batch_size(config, Execution(), in_float32) == max(1, size // 2)
    assert choose_micro_batch_size(config, Execution(), cpu) == 128


def test_a_result_holds_what_the_table_needs(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    train(CONFIG, run_dir, EXECUTION)
    result = run_dir.result()
    assert result is not None
    assert result["status"] == "finished"
    assert result["step"] == 8
    num_test = DATASETS["digits-even"].num_test
    predictions = Predictions.from_bytes(run_dir.folder.read(PREDICTIONS) or b"")
    assert predictions.num_images == num_test
    assert result["test/accuracy"] == predictions.num_correct / num_test
    assert result["runtime_hours"] > 0
    assert result["gpu_hours"] == 0
    for row in run_dir.journal():
        assert 0 < row["input_wait_fraction"] < 1
        assert not {"mfu", "peak_memory_gib"} & set(row), "on a CPU nobody knows them"
    with run_dir.checkpoint() as path:
        assert path is None


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"the training loss is nan at step [23]:"):
        train(dataclasses.replace(CONFIG, base_lr=1e38), run_dir, Execution(num_evaluations=2))
    result = run_dir.result()
    assert result is not None
    assert result["status"] == "failed"
    assert result["cause"].startswith("NonFiniteLossError: the training loss is nan")
    assert "Traceback" in result["traceback"]
    assert all(math.isfinite(row["train/loss"]) for row in run_dir.journal())


def test_a_run_that_was_taken_over_stops_and_records_nothing(tmp_path: Path) -> None:
    def successor(row: Row) -> None:
        RunDir(tmp_path).open_for_writing(CONFIG.to_dict())

    with pytest.raises(LeaseLostError):
        train(CONFIG, RunDir(tmp_path), EXECUTION, successor)
    assert RunDir(tmp_path).result() is None
    assert [row["step"] for row in RunDir(tmp_path).journal()] == [2]


def test_a_micro_batch_that_does_not_divide_the_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="micro_batch_size 5 does not divide 16"):
        train(CONFIG, RunDir(tmp_path), dataclasses.replace(EXECUTION, micro_batch_size=5))


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    one, other = RunDir(tmp_path / "0"), RunDir(tmp_path / "1")
    train(CONFIG, one, EXECUTION)
    train(dataclasses.replace(CONFIG, seed=1), other, EXECUTION)
    assert one.journal()[-1]["train/loss"] != other.journal()[-1]["train/loss"]


@pytest.mark.parametrize("name", [name for name in DATASETS if name.startswith("digits-")])
def test_digits_have_the_sizes_that_are_planned_with(name: str) -> None:
    info, splits = DATASETS[name], load_dataset(name)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (
        info.num_train,
        info.num_validation,
        info.num_test,
    )


def test_fine_tuning_sees_no_image_of_the_pre_training_and_no_split_shares_one() -> None:
    from vit_trainer.data.families.digits import subset_indices

    pretrain = {int(i) for part in subset_indices("digits-pretrain").values() for i in part}
    seen: list[int] = [
        int(i) for name in ("digits-even", "digits-odd") for part in subset_indices(name).values() for i in part
    ]
    assert len(seen) == len(set(seen))
    assert not pretrain & set(seen)
    assert len(pretrain) + len(seen) == 1797


def test_a_validation_falls_on_each_quarter_that_is_rounded_up() -> None:
    config = FinetuneConfig.official("ViT-B_16", "cifar10", total_steps=510, warmup_steps=50)
    steps = steps_of_evaluations(config, Execution())
    assert len(steps) == config.num_evaluations == 12
    assert {128, 255, 383, 510} <= steps


def test_a_damaged_trial_is_named_by_who_wants_it_and_runs_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run_dir = finished_trial(tmp_path)
    path = Path(run_dir.location) / "result.json"
    result = json.loads(path.read_text())
    damaged = json.dumps(result | {"test/accuracy": 5.0})
    path.write_text(damaged)
    where = ["--storage", str(tmp_path)]
    reason = f"runs/{config.trial_id}/result.json is damaged: test/accuracy is 5.0, not a fraction in [0, 1]"
    digit = tmp_path / "digit.png"
    Image.new("L", (8, 8)).save(digit)
    assert outcome_of(["predict", str(digit), "--trial", config.trial_id, *where], capsys) == (
        2,
        "",
        f"error: {reason}\n",
    )
    flags = ["--total-steps", "2", "--warmup-steps", "1", "--base-lr", "0.03", "--num-evaluations", "1"]
    command = ["train", "--model", config.model, "--dataset", config.dataset, *flags, *where]
    code, out, err = outcome_of(command, capsys)
    assert (code, err) == (0, f"{reason}: its trial runs anew, and what is there is kept\n")
    assert f"test/accuracy {100 * result['test/accuracy']:.2f}% after 2 steps" in out
    assert (path.parent / "damaged-1" / "result.json").read_text() == damaged
    assert (RunDir(path.parent).result() or {})["test/accuracy"] == result["test/accuracy"]
    assert [row["step"] for row in RunDir(path.parent).journal()] == [2]


def test_rows_between_validations_are_reported_after_minutes_and_a_trial_can_end_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = replace(EXECUTION, num_evaluations=2, log_every_steps=1)
    reported: list[int] = []
    train(CONFIG, RunDir(tmp_path / "whole"), execution, lambda row: reported.append(row["step"]))
    assert reported == [4, 8]
    monkeypatch.setattr(ledger, "REPORT_MINUTES", 0.0)

    def end_at_3(row: Row) -> None:
        if row["step"] == 3:
            raise RunInterruptedError("enough")

    run_dir = RunDir(tmp_path / "in two")
    with pytest.raises(RunInterruptedError):
        train(CONFIG, run_dir, execution, end_at_3)
    train(CONFIG, run_dir, execution, lambda row: reported.append(row["step"]))
    assert run_dir.attempts()[1]["from_step"] == 3
    assert reported == [4, 8, 4, 5, 6, 7, 8]
    whole = RunDir(tmp_path / "whole").result() or {}
    assert (run_dir.result() or {})["test/loss"] == whole["test/loss"]
