import io
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from vit_trainer.architectures import MODELS
from vit_trainer.data.load import load_dataset
from vit_trainer.data.splits import InMemorySplit
from vit_trainer.errors import CheckpointError, InputError
from vit_trainer.evaluate import evaluate, label_ranks, likeliest
from vit_trainer.files.predictions import NO_CLASS, Predictions
from vit_trainer.inference.evaluate_checkpoint import evaluate_checkpoint
from vit_trainer.weights.choice import Weights, WeightsChoice
from vit_trainer.weights.load import pretrained_model
from vit_trainer.weights.npz_files import MINIATURES, write_npz

MODEL = "ViT-B_16-mini"


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def checkpoint(tmp_path, make_arrays) -> Path:
    write_npz(tmp_path / "own.npz", make_arrays(MODELS[MODEL], grid=8))
    return tmp_path / "own.npz"


def weights_in(path: Path, resolution: int | None = None) -> Weights:
    return Weights(MODEL, path, str(path), resolution)


def start(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "vit_trainer", "evaluate", "--model", MODEL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
def test_bfloat16_evaluates_as_float32_does():
    precisions = ("bfloat16", "float32")
    size = ["--dataset", "digits-pretrain", "--upstream", "digits", "--batch-size", "64", "--json", "-"]
    started = [start(*size, "--precision", precision) for precision in precisions]
    half, full = (json.loads(process.communicate()[0]) for process in started)
    assert abs(half["test/accuracy"] - full["test/accuracy"]) <= 0.0005
    assert half["test/loss"] != full["test/loss"]


def test_ranks_order_equal_logits_by_class_and_put_nan_last():
    nan = float("nan")
    logits = torch.tensor([[1.0, 3, 2], [2, 2, 2], [2, 2, 2], [1, nan, 2], [0, nan, 2], [3, 3, 1]])
    assert label_ranks(logits, torch.tensor([1, 0, 2, 0, 1, 1])).tolist() == [0, 0, 2, 2, 3, 1]


def test_the_sums_are_those_of_all_images_at_once(checkpoint, accelerator):
    split = load_dataset("digits-pretrain").test
    model = pretrained_model(MODEL, checkpoint, resolution=32)
    everything = split.evaluation_batches(np.arange(len(split)), len(split), resolution=32, device=torch.device("cpu"))
    images, labels, _ = next(everything)
    with torch.inference_mode():
        logits = model.eval()(images).double().numpy()
    order = np.argsort(-logits, axis=1)
    hits = order == labels.numpy()[:, None]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    for batch_size in (1, 7, 64, len(split)):
        sums = evaluate(model, split, accelerator, resolution=32, batch_size=batch_size)
        assert (sums.num_correct, sums.num_correct_top5) == (hits[:, 0].sum(), hits[:, :5].sum())
        assert sums.num_images == len(split) == 180
        assert sums.loss == pytest.approx(losses.mean(), rel=1e-5)
    assert 0 < sums.num_correct < sums.num_correct_top5 < sums.num_images


def test_numbered_folders_are_the_heads_classes_by_their_numbers(tmp_path, accelerator):
    """As ImageNet-V2 is laid out, 0 to 999, of which text has 10 before 2; here the digits are classes 2 to 11."""
    arrays = dict(np.load(MINIATURES / f"{MODEL}.npz"))
    for name, fill in (("head/kernel", 0), ("head/bias", -99)):
        none = np.full((*arrays[name].shape[:-1], 2), fill, np.float32)
        arrays[name] = np.concatenate([none, arrays[name]], axis=-1)
    write_npz(tmp_path / "own.npz", arrays)
    digits = load_dataset("digits-pretrain").test
    for i, (image, label) in enumerate(zip(digits._images.numpy(), digits._labels.tolist(), strict=True)):
        for part in ("train", "test"):
            folder = tmp_path / "v2" / part / str(label + 2)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    for path in ("train/0", "train/1", "test/0", "test/1"):
        (tmp_path / "v2" / path).mkdir()
        Image.fromarray(image).save(tmp_path / "v2" / path / "no digit.png")
    expected = evaluate_checkpoint(weights_in(MINIATURES / f"{MODEL}.npz"), "digits-pretrain", accelerator).sums
    for names in (None, tuple("abcdefghijkl")):
        weights = Weights(MODEL, tmp_path / "own.npz", "own.npz", class_names=names)
        found = evaluate_checkpoint(weights, f"{tmp_path}/v2", accelerator, num_workers=0)
        sums = found.sums
        assert (sums.num_correct, sums.num_images) == (expected.num_correct, expected.num_images + 2)
        in_words = f"{tmp_path}/v2: the head's classes are taken to be 0, 1, 2 … in this order"
        by_number = f"{tmp_path}/v2 has numbers for classes, taken for the head's: 0 for a, 1 for b, 2 for c …"
        assert found.note == (by_number if names else in_words)
    assert expected.accuracy > 0.9


def test_fewer_classes_than_five_are_all_among_the_top_five(accelerator):
    split = InMemorySplit(np.zeros((3, 1, 1, 3), np.uint8), np.array([0, 1, 1]))

    class Constant(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 1.0]]).repeat(len(images), 1)

    sums = evaluate(Constant(), split, accelerator, resolution=1, batch_size=2, keeps_predictions=True)
    assert (sums.accuracy, sums.accuracy_top5) == (2 / 3, 1.0)
    assert sums.predictions is not None
    assert sums.predictions.classes.tolist() == [[1, 0, NO_CLASS, NO_CLASS, NO_CLASS]] * 3
    assert sums.predictions.is_correct.tolist() == [False, True, True]
    assert sums.predictions.confidences == pytest.approx([math.e / (1 + math.e)] * 3, rel=1e-3)


def test_the_likeliest_classes_are_those_that_ranks_count() -> None:
    """With ties, NaN, and fewer classes than five."""
    generator = torch.Generator().manual_seed(0)
    for num_classes in (2, 5, 40):
        logits = torch.randint(0, 6, (500, num_classes), generator=generator).float()
        logits[torch.rand(logits.shape, generator=generator) < 0.1] = torch.nan
        labels = torch.randint(0, num_classes, (500,), generator=generator)
        ranks, classes = label_ranks(logits, labels), likeliest(logits)
        is_number = ~logits.gather(1, labels[:, None]).isnan()[:, 0]
        assert torch.equal((classes == labels[:, None]).any(1), (ranks < 5) & is_number)
        assert torch.equal(classes[:, 0] == labels, (ranks < 1) & is_number)


def test_predictions_come_back_from_their_file_and_nothing_else_does(checkpoint, accelerator):
    split = load_dataset("digits-pretrain").test
    model = pretrained_model(MODEL, checkpoint, resolution=32)
    sums = evaluate(model, split, accelerator, resolution=32, batch_size=64)
    kept = evaluate(model, split, accelerator, resolution=32, batch_size=50, keeps_predictions=True)
    assert (kept.num_correct, kept.num_correct_top5, kept.num_images) == (
        sums.num_correct,
        sums.num_correct_top5,
        sums.num_images,
    )
    assert kept.predictions is not None
    back = Predictions.from_bytes(kept.predictions.to_bytes())
    for ours, theirs in zip(vars(kept.predictions).values(), vars(back).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (back.num_correct, back.num_images) == (sums.num_correct, 180)
    other = io.BytesIO()
    np.savez(other, classes=back.classes, confidences=back.confidences, labels=back.labels.astype(np.int64))
    for content in (b"", b"PK", kept.predictions.to_bytes()[:-30], other.getvalue()):
        with pytest.raises(InputError, match=r"no file of predictions .*: give predictions\.npz of a run folder"):
            Predictions.from_bytes(content)


def test_fifty_thousand_predictions_take_less_than_a_megabyte() -> None:
    draw = np.random.default_rng(0)
    classes, labels = draw.integers(0, 1000, (50_000, 5)), draw.integers(0, 1000, 50_000)
    labels, places = np.sort(labels), draw.permutation(50_000)
    names = np.array([f"n{1440764 + i // 50:08}/ILSVRC2012_val_{place:08}.JPEG" for i, place in enumerate(places)], "S")
    classes[: 4 * 50_000 // 5, 0] = labels[: 4 * 50_000 // 5]  # most are right; what follows is chance
    confidences = draw.random(50_000).astype(np.float16)
    found = Predictions(classes.astype(np.uint16), confidences, labels.astype(np.uint16), names)
    assert len(found.to_bytes()) < 1e6


@pytest.mark.slow
def test_two_processes_count_the_same_as_one(tmp_path, checkpoint, accelerator):
    gang = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    arguments = ("--checkpoint", str(checkpoint), "--dataset", "digits-pretrain", "--split", "validation")
    processes = [
        start(
            *arguments,
            "--batch-size=7",
            "--json=-",
            environment=gang | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    (printed, _), (silence, _) = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert silence == ""
    two = json.loads(printed)
    one = evaluate_checkpoint(weights_in(checkpoint), "digits-pretrain", accelerator, split="validation").to_dict()
    assert set(two) - set(one) == {"checkpoint_sha256", "computed_by"}
    assert set(one) < set(two)
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    for key in ("num_correct", "num_correct_top5", "num_images", "val/accuracy", "val/accuracy_top5", "resolution"):
        assert two[key] == one[key]
    assert two["val/loss"] == pytest.approx(one["val/loss"], rel=1e-6)
    assert two["val/accuracy"] == two["num_correct"] / 180
    assert two["images_per_second"] == pytest.approx(180 / two["seconds"])


def test_the_resolution_is_the_files_unless_given(tmp_path, make_arrays, accelerator):
    write_npz(tmp_path / "48.npz", make_arrays(MODELS[MODEL], grid=12))
    at_48 = evaluate_checkpoint(weights_in(tmp_path / "48.npz"), "digits-pretrain", accelerator)
    at_32 = evaluate_checkpoint(weights_in(tmp_path / "48.npz", 32), "digits-pretrain", accelerator)
    assert (at_48.resolution, at_32.resolution) == (48, 32)
    assert at_48.sums != at_32.sums
    with (
        pytest.raises(InputError, match="resolution 30 does not fit ViT-B_16-mini: give a multiple of 4"),
        WeightsChoice(checkpoint=tmp_path / "48.npz", resolution=30).opened(),
    ):
        pass


def test_a_head_for_other_classes_is_refused(tmp_path, make_arrays, checkpoint, accelerator):
    with pytest.raises(CheckpointError, match=r"head of .*own\.npz has 10 classes, digits-even has 5: choose"):
        evaluate_checkpoint(weights_in(checkpoint), "digits-even", accelerator)
    write_npz(tmp_path / "headless.npz", make_arrays(MODELS[MODEL], grid=8, num_classes=None))
    with pytest.raises(CheckpointError, match="has no classes, digits-even has 5"):
        evaluate_checkpoint(weights_in(tmp_path / "headless.npz"), "digits-even", accelerator)


def test_pre_logits_are_kept(tmp_path, make_arrays, accelerator):
    write_npz(tmp_path / "a.npz", make_arrays(MODELS[MODEL], grid=8, representation_size=24))
    model = pretrained_model(MODEL, tmp_path / "a.npz", resolution=32)
    split = load_dataset("digits-pretrain").test
    expected = evaluate(model, split, accelerator, resolution=32, batch_size=180)
    assert model.head.pre_logits.out_features == 24
    assert (
        evaluate_checkpoint(weights_in(tmp_path / "a.npz"), "digits-pretrain", accelerator, batch_size=180).sums
        == expected
    )


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, make_arrays):
    write_npz(tmp_path / "other.npz", make_arrays(MODELS["R50+ViT-B_16-mini"]))
    process = start("--checkpoint", str(tmp_path / "other.npz"), "--dataset", "digits-pretrain")
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (2, "")
    assert stderr.startswith(f"error: {tmp_path}/other.npz does not fit ViT-B_16-mini: embedding/kernel has shape")
    assert stderr.endswith("give a file of ViT-B_16-mini, or choose model R50+ViT-B_16-mini\n")
    assert stderr.count("\n") == 1
