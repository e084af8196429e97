from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.errors import CheckpointError, InputError
from vit_trainer.model.build import build_model
from vit_trainer.weights import export
from vit_trainer.weights.choice import Weights
from vit_trainer.weights.load import load_arrays, pretrained_model
from vit_trainer.weights.npz_files import read_npz, write_npz

HYBRID = Architecture(1, 48, 1, 3, 96, (3, 4, 9), timm_name="vit_base_r50_s16_224")


def export_weights(model: str, source: Path, output: Path, resolution: int | None = None) -> str:
    return export.export_weights(Weights(model, source, str(source)), output, resolution=resolution)


def logits_of(model: torch.nn.Module, resolution: int) -> torch.Tensor:
    images = torch.rand(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        return model.eval()(images)


def timm_model(architecture: Architecture, **options) -> torch.nn.Module:
    """What a user of plain timm builds, made small by options that don't touch how it computes."""
    if architecture.patch_size > 1:
        options["patch_size"] = architecture.patch_size
    return timm.create_model(
        architecture.timm_name or "vit_base_patch16_224",
        pretrained=False,
        act_layer="gelu_tanh",
        embed_dim=architecture.width,
        depth=architecture.depth,
        num_heads=architecture.num_heads,
        mlp_ratio=architecture.mlp_dim / architecture.width,
        **options,
    )


@pytest.fixture
def hybrid(monkeypatch) -> str:
    """The R50 as released before a transformer of one narrow block."""
    monkeypatch.setitem(MODELS, "R50-narrow", HYBRID)
    return "R50-narrow"


@pytest.mark.parametrize("resolution", [None, 48])
def test_plain_timm_gives_the_same_logits(tmp_path, make_arrays, resolution):
    architecture = MODELS["ViT-B_16-mini"]
    write_npz(tmp_path / "a.npz", make_arrays(architecture, grid=8))
    export_weights("ViT-B_16-mini", tmp_path / "a.npz", tmp_path / "a.safetensors", resolution=resolution)
    theirs = timm_model(architecture, img_size=resolution or 32, num_classes=10)
    theirs.load_state_dict(load_file(tmp_path / "a.safetensors"))
    ours = pretrained_model("ViT-B_16-mini", tmp_path / "a.npz", resolution=resolution or 32)
    assert torch.equal(logits_of(ours, resolution or 32), logits_of(theirs, resolution or 32))


@pytest.mark.parametrize("norm_scale", [1.0, 0.05], ids=["usual", "small GroupNorm scales"])
def test_plain_timms_hybrid_gives_the_same_logits_only_because_its_epsilons_are_made_up_for(
    tmp_path, make_arrays, hybrid, norm_scale
):
    arrays = make_arrays(HYBRID, grid=4)
    for name, array in arrays.items():
        if "/gn" in name:
            arrays[name] = array * np.float32(norm_scale)
        elif "conv" in name:
            arrays[name] = array * np.float32(0.1)  # standard deviations of 0.03, as usual in trained networks
    np.savez(tmp_path / "a.npz", **arrays)
    line = export_weights(hybrid, tmp_path / "a.npz", tmp_path / "a.safetensors")
    assert line == (
        'timm.create_model("vit_base_r50_s16_224", pretrained=False, img_size=64, num_classes=10, '
        'act_layer="gelu_tanh")'
    )
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert file.metadata()["timm"] == line
    ours = build_model(HYBRID, num_classes=10, resolution=64)
    load_arrays(ours, HYBRID, arrays, keep_head=True)
    theirs = timm_model(HYBRID, img_size=64, num_classes=10)
    expected = logits_of(ours, 64)
    theirs.load_state_dict(ours.state_dict())
    unchanged = (logits_of(theirs, 64) - expected).abs().max()
    theirs.load_state_dict(load_file(tmp_path / "a.safetensors"))
    exported = (logits_of(theirs, 64) - expected).abs().max()
    assert exported < 2e-5
    assert unchanged > 10 * exported


@pytest.mark.parametrize("name", ["ViT-B_16-mini", "R50+ViT-B_16-mini"])
def test_a_trials_weights_become_an_official_file_bit_by_bit(tmp_path, make_arrays, name):
    arrays = make_arrays(MODELS[name], grid=MODELS[name].grid(32))
    write_npz(tmp_path / "a.npz", arrays)
    model = pretrained_model(name, tmp_path / "a.npz", resolution=32)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    export_weights(name, tmp_path / "model.safetensors", tmp_path / "new" / "folder" / "b.npz")
    back = read_npz(tmp_path / "new" / "folder" / "b.npz")
    assert list(back) == list(arrays)
    assert all(np.array_equal(back[key], arrays[key]) for key in arrays)


def test_an_exported_vit_comes_back_bit_by_bit_and_a_hybrid_is_refused(tmp_path, make_arrays):
    for name in ("ViT-L_32-mini", "R50+ViT-B_16-mini"):
        arrays = make_arrays(MODELS[name], grid=4)
        write_npz(tmp_path / "a.npz", arrays)
        export_weights(name, tmp_path / "a.npz", tmp_path / "a.safetensors")
        if name.startswith("R50"):
            with pytest.raises(CheckpointError, match=r"a\.safetensors was exported for timm, which changed its Res"):
                export_weights(name, tmp_path / "a.safetensors", tmp_path / "b.npz")
        else:
            export_weights(name, tmp_path / "a.safetensors", tmp_path / "b.npz")
            back = read_npz(tmp_path / "b.npz")
            assert all(np.array_equal(back[key], arrays[key]) for key in arrays)


def test_what_cannot_be_exported_is_one_line(tmp_path, make_arrays):
    architecture = MODELS["ViT-B_16-mini"]
    write_npz(tmp_path / "21k.npz", make_arrays(architecture, grid=8, representation_size=40))
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x00" * 20)
    for source, output, problem in [
        ("21k.npz", "a.safetensors", "timm's model has no pre_logits layer: export these weights as .npz"),
        ("21k.npz", "a.pt", "give a name that ends in .safetensors, .onnx or .npz"),
        ("21k.npz", "21k.npz/a.npz", r"cannot write .*a\.npz \(File exists\)"),
        ("other.safetensors", "a.npz", "does not fit ViT-B_16-mini"),
        ("torn.safetensors", "a.npz", "torn.safetensors is damaged"),
        ("none.safetensors", "a.npz", "no checkpoint at"),
    ]:
        with pytest.raises(InputError, match=problem):
            export_weights("ViT-B_16-mini", tmp_path / source, tmp_path / output)
    with pytest.raises(InputError, match="resolution 30 does not fit ViT-B_16-mini: give a multiple of 4"):
        export_weights("ViT-B_16-mini", tmp_path / "21k.npz", tmp_path / "a.npz", resolution=30)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B_32", "R50+ViT-B_16"])
def test_full_size_models_load_as_the_line_says(tmp_path, make_arrays, name):
    architecture = MODELS[name]
    arrays = make_arrays(architecture, grid=architecture.grid(224))
    for key, array in arrays.items():  # as large as trained ones, so that logits are of order 1
        if key.endswith("kernel"):
            arrays[key] = array * np.float32(0.1)
    np.savez(tmp_path / "a.npz", **arrays)
    line = export_weights(name, tmp_path / "a.npz", tmp_path / "a.safetensors")
    theirs = eval(line, {"timm": timm})
    theirs.load_state_dict(load_file(tmp_path / "a.safetensors"))
    ours = pretrained_model(name, tmp_path / "a.npz", resolution=224)
    expected = logits_of(ours, 224)
    assert (logits_of(theirs, 224) - expected).abs().max() < 1e-4 * expected.abs().max()
