"""ONNX: what onnxruntime computes of it, what it says of itself, and when it isn't written."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.vit_trainer.conftest import MakeArrays
from tests.vit_trainer.finished_trial import finished_trial, outcome_of, output_of
from vit_trainer.architectures import MODELS
from vit_trainer.inference import onnx_file
from vit_trainer.inference.classifier import Classifier
from vit_trainer.inference.onnx_file import write_onnx
from vit_trainer.weights.choice import Weights, WeightsChoice
from vit_trainer.weights.npz_files import MINIATURES, write_npz

CHECKPOINT = ["--checkpoint", str(MINIATURES / "ViT-B_32-mini.npz")]


def logits_of(file: Path, images: torch.Tensor) -> np.ndarray:  # type: ignore[type-arg]
    session = onnxruntime.InferenceSession(file)
    (logits,) = session.run(None, {"images": images.numpy()})
    return np.asarray(logits)


def about(file: Path) -> dict[str, str]:
    return dict(onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map)


def images(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 2 - 1


def test_a_trials_model_takes_any_batch_and_knows_its_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = finished_trial(tmp_path)
    monkeypatch.chdir(tmp_path)
    choice = ["--trial", config.trial_id, "--storage", str(tmp_path)]
    out = output_of(["export", "--onnx", *choice], capsys)
    file = tmp_path / f"{config.trial_id}.onnx"
    assert out.startswith(
        f"{file.name}: images (batch, 3, 32, 32) float32 in [-1, 1] -> logits (batch, 5), class names"
    )
    with WeightsChoice(trial=config.trial_id, storage=str(tmp_path)).opened() as weights:
        model = Classifier.load(weights).model.cpu()
    for count in (1, 2, 5):
        with torch.inference_mode():
            expected = model(images(count, 32)).numpy()
        assert np.abs(logits_of(file, images(count, 32)) - expected).max() < 1e-4
    found = about(file)
    assert (found["model"], found["resolution"]) == (config.model, "32")
    assert json.loads(found["class_names"]) == list("02468")
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, "runs"], "nothing else is left"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-L_16-mini", "R50+ViT-B_16-mini"])
def test_hybrids_pre_logits_and_other_resolutions_are_computed_too(
    tmp_path: Path, make_arrays: MakeArrays, name: str
) -> None:
    write_npz(tmp_path / "a.npz", make_arrays(MODELS[name], grid=MODELS[name].grid(32), representation_size=40))
    weights = Weights(name, tmp_path / "a.npz", "it", resolution=48)
    write_onnx(weights, tmp_path / "a.onnx")
    model = Classifier.load(weights).model.cpu()
    with torch.inference_mode():
        expected = model(images(3, 48)).numpy()
    assert np.abs(logits_of(tmp_path / "a.onnx", images(3, 48)) - expected).max() < 1e-4 * np.abs(expected).max()
    assert "class 0" in about(tmp_path / "a.onnx")["class_names"]


@pytest.mark.slow
def test_other_logits_are_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.onnx").write_text("an earlier one")
    computed = onnx_file._logits
    monkeypatch.setattr(onnx_file, "_logits", lambda *arguments: computed(*arguments) * 1.001)
    code, out, err = outcome_of(["export", *CHECKPOINT, "--output", f"{tmp_path}/a.onnx"], capsys)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith(f"error: {tmp_path}/a.onnx isn't written: onnxruntime's logits are up to ")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.onnx", "an earlier one")]


def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, make_arrays: MakeArrays, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path / "no-head.npz", make_arrays(MODELS["ViT-B_32-mini"], grid=4, num_classes=None))
    (tmp_path / "file").touch()
    headless = ["--checkpoint", f"{tmp_path}/no-head.npz"]
    for arguments, message in [
        (CHECKPOINT, "give --output with a name that ends in .safetensors, .onnx or .npz, or --onnx"),
        ([*CHECKPOINT, "--onnx", "--output", "a.npz"], "cannot write a.npz: give a name that ends in .onnx, or leave"),
        ([*CHECKPOINT, "--output", "a.pt"], "cannot write a.pt: give a name that ends in .safetensors, .onnx or .npz"),
        ([*CHECKPOINT, "--output", f"{tmp_path}/file/a.onnx"], f"cannot write {tmp_path}/file/a.onnx ("),
        ([*headless, "--output", f"{tmp_path}/a.onnx"], f"{tmp_path}/no-head.npz has no head for predictions"),
    ]:
        code, out, err = outcome_of(["export", *arguments], capsys)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith(f"error: {message}")
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "onnx_that_is_not_there"))
    code, out, err = outcome_of(["export", *CHECKPOINT, "--onnx"], capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ONNX needs onnx_that_is_not_there: ")
    assert err.endswith("-m pip install onnx_that_is_not_there, then again\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B_32", "R50+ViT-B_16"])
def test_full_size_models_are_computed_as_ours(tmp_path: Path, make_arrays: MakeArrays, name: str) -> None:
    arrays = make_arrays(MODELS[name], grid=MODELS[name].grid(224))
    for key, array in arrays.items():  # as large as trained ones, so that logits are of order 1
        if key.endswith("kernel"):
            arrays[key] = array * np.float32(0.1)
    np.savez(tmp_path / "a.npz", **arrays)
    write_onnx(Weights(name, tmp_path / "a.npz", "it"), tmp_path / "a.onnx")  # raises if it differs
    assert logits_of(tmp_path / "a.onnx", images(1, 224)).shape == (1, 10)
