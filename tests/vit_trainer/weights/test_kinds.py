"""Files that hold weights elsewhere, in their real formats: which are read, and what is said of the others."""

import gzip
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.vit_trainer.conftest import MakeArrays
from tests.vit_trainer.finished_trial import finished_trial, outcome_of, output_of
from vit_trainer.architectures import MODELS
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import CheckpointError
from vit_trainer.files.run_dir import RunDir
from vit_trainer.train import initial_model
from vit_trainer.weights.load import read_weights
from vit_trainer.weights.npz_files import check_checkpoint, file_upstream, model_of, write_npz

MODEL = "ViT-B_32-mini"
ARCHITECTURE = MODELS[MODEL]
TRAIN = ["train", "--model", MODEL, "--dataset", "digits-even", "--total-steps", "2", "--warmup-steps", "1"]


def plain_timm(**options: object) -> torch.nn.Module:
    """What others train with timm: a ViT of the miniature's shape, of 7 classes and for images of 64 pixels."""
    sizes = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
    torch.manual_seed(1)
    model: torch.nn.Module = timm.create_model(
        "vit_base_patch32_224", pretrained=False, **({"img_size": 64, "num_classes": 7} | sizes | options)
    )
    return model


def saved(path: Path, model: torch.nn.Module) -> Path:
    save_file(model.state_dict(), path, {"format": "pt"})  # as timm's on Hugging Face
    return path


def test_plain_timms_file_starts_a_trial_as_the_same_arrays_do(
    tmp_path: Path, make_arrays: MakeArrays, capsys: pytest.CaptureFixture[str]
) -> None:
    npz, ours = tmp_path / "a.npz", tmp_path / "a.safetensors"
    write_npz(npz, make_arrays(ARCHITECTURE, grid=8, num_classes=7))
    output_of(["export", "--checkpoint", str(npz), "--output", str(ours)], capsys)
    timms = plain_timm()
    timms.load_state_dict(load_file(ours))
    theirs = saved(tmp_path / "model.safetensors", timms)
    assert [model_of(path) for path in (npz, ours, theirs)] == [MODEL] * 3
    started = []
    for path in (npz, ours, theirs):
        config = FinetuneConfig.official(MODEL, "digits-even", upstream=file_upstream(path))
        started.append(initial_model(config, Execution(checkpoint=path)).state_dict())
    for other in started[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in started[0].items())
    assert started[0]["pos_embed"].shape == (1, 17, 48), "64 px became 32"
    assert not started[0]["head.weight"].any()


def test_a_trial_goes_on_from_anothers_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run_dir = finished_trial(tmp_path / "first")
    weights = f"{run_dir.location}/model.safetensors"
    out = output_of([*TRAIN, "--checkpoint", weights, "--storage", str(tmp_path / "second")], capsys)
    (folder,) = (tmp_path / "second" / "runs").iterdir()
    assert "after 2 steps" in out
    assert (RunDir(folder).config() or {})["upstream"] == file_upstream(Path(weights))
    assert file_upstream(Path(weights)).startswith("safetensors-")


def test_whatever_byte_of_a_header_is_wrong_it_is_one_line_or_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", plain_timm())
    content, draw = path.read_bytes(), random.Random(0)
    length = 8 + int.from_bytes(content[:8], "little")
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 20))):
            damaged[draw.randrange(length)] = draw.randrange(256)
        if draw.random() < 0.2:
            del damaged[draw.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        said = ""
        try:
            read_weights(path, MODEL)
        except CheckpointError as error:
            said = str(error)
        assert "\n" not in said
    for cut in (len(content) - 1, length + 5, length - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged"):
            check_checkpoint(path, MODEL)


def flax_bytes() -> bytes:
    """As flax.serialization.to_bytes writes: arrays are extensions of type 1."""
    array = msgpack.ExtType(1, msgpack.packb(((1,), "float32", b"\0\0\0\0")))
    return bytes(msgpack.packb({"params": {"cls": array}}))


HTML = b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "model.pth": (lambda path: torch.save(plain_timm().state_dict(), path), "is PyTorch's, pickled, which could run"),
    "pytorch_model.bin": (
        lambda path: torch.save(plain_timm(), path),
        "is PyTorch's, pickled, which could run code: s",
    ),
    "old.pt": (
        lambda path: torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False),
        "is a pickle, such as older PyTorch's, which could run code: save its state_dict() as .safetensors",
    ),
    "renamed.npz": (lambda path: torch.save({"a": torch.zeros(1)}, path), "is PyTorch's, pickled"),
    "any.pickle": (lambda path: path.write_bytes(pickle.dumps({"a": np.zeros(1)})), "is a pickle"),
    "big_vision.npz": (
        lambda path: np.savez(path, **{"params/embedding/kernel": np.zeros((8, 8, 3, 48), np.float32)}),
        "is big_vision's, whose arrays have other names (params/…)",
    ),
    "state.npz": (
        lambda path: np.savez(path, **{"opt/target/cls": np.zeros(1, np.float32), "opt/state/step": np.float32(1)}),
        "is a training state (opt/target/…): write those arrays to an .npz without opt/target/",
    ),
    "flax_model.msgpack": (lambda path: path.write_bytes(flax_bytes()), "is Flax's msgpack"),
    "transformers.safetensors": (
        lambda path: save_file({"vit.embeddings.cls_token": torch.zeros(1, 1, 48)}, path),
        "is Hugging Face transformers' (vit.embeddings.…): give timm's of this model",
    ),
    "layer-scale.safetensors": (
        lambda path: saved(path, plain_timm(init_values=1e-5)),
        f"is of another architecture than {MODEL}: it holds blocks.",
    ),
    "small.safetensors": (
        lambda path: saved(path, plain_timm(embed_dim=24)),
        "looks like a Vision Transformer of patch 8, width 24 and depth 3",
    ),
    "half.safetensors": (lambda path: saved(path, plain_timm().half()), "is F16, not F32: give a file of float32"),
    "resnet.safetensors": (
        lambda path: save_file({"layer1.0.conv1.weight": torch.zeros(1)}, path),
        "looks like no Vision Transformer",
    ),
    "state.safetensors": (
        lambda path: save_file({"model/cls_token": torch.zeros(1), "momentum/0": torch.zeros(1)}, path),
        "is the state of a training: give the trial's model.safetensors",
    ),
    "torn.safetensors": (lambda path: path.write_bytes(b'\x40\0\0\0\0\0\0\0{"a": '), "is damaged ("),
    "llama.gguf": (lambda path: path.write_bytes(b"GGUF\x03\0\0\0" + bytes(64)), "is a GGUF"),
    "model.onnx": (lambda path: path.write_bytes(b"\x08\x09\x12\x07pytorch\x1a\x052.9.0:\x04"), "is an ONNX"),
    "page.npz": (lambda path: path.write_bytes(HTML), "is a web page or an error message of a server: download"),
    "page.safetensors": (lambda path: path.write_bytes(HTML), "is a web page or an error message of a server"),
    "pointer.npz": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:19d3\nsize 347502902\n"),
        "is a Git LFS pointer, not the file that it stands for: run git lfs pull there",
    ),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "is empty: download the file itself again"),
    "index.json": (lambda path: path.write_text(json.dumps({"weight_map": {}})), "is JSON, such as a model's config"),
    "a.npz.gz": (lambda path: path.write_bytes(gzip.compress(b"PK\x03\x04")), "is an archive or compressed: unpack"),
    "folder": (lambda path: path.mkdir(), "is a folder: give the .npz or .safetensors file itself"),
    "hub": (
        lambda path: (path.mkdir(), saved(path / "model.safetensors", plain_timm())),
        "is a folder: give ",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_another_kind_of_file_is_called_by_its_kind_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, (write, message) = tmp_path / name, FILES[name]
    write(path)
    commands = (
        [*TRAIN, "--storage", str(tmp_path / "results")],
        ["export", "--model", MODEL, "--output", str(tmp_path / "out.npz")],
    )
    for command in commands:
        code, out, error = outcome_of([*command, "--checkpoint", str(path)], capsys)
        assert (code, out, error.count("\n")) == (2, "", 1), error
        assert message in error
        assert name in error
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "out.npz").exists()
    if name != "layer-scale.safetensors":
        with pytest.raises(CheckpointError):
            model_of(path)
