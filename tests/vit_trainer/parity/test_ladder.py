"""The ladder holds, and no rung of it is for show: every known mistake, made on purpose, fails the rung it should."""

import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from timm.layers import Mlp, StdConv2dSame, resample_abs_pos_embed
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop

from vit_trainer.__main__ import app
from vit_trainer.command_line import run
from vit_trainer.data.crops import Crops
from vit_trainer.loop.optim import OfficialSGD, learning_rate
from vit_trainer.loop.step import backward
from vit_trainer.model.build import OfficialStdConv, build_model
from vit_trainer.parity import forward_pass, pixels, same_bits, updates
from vit_trainer.parity.golden import SHIPPED, FinetuneFacts, GoldenFolder, make_images, make_params
from vit_trainer.parity.ladder import ladder
from vit_trainer.parity.official_forward import official_layers
from vit_trainer.parity.rung import Rung, Setting
from vit_trainer.parity.updates import GoldenRun
from vit_trainer.weights import load as checkpoints

Patch = pytest.MonkeyPatch
GOLDEN = GoldenFolder(SHIPPED)
ROOT = Path(__file__).parents[3]


def climbed(rungs: Iterator[Rung]) -> dict[str, Rung]:
    return {rung.name: rung for rung in rungs}


def failures(rungs: Iterator[Rung]) -> set[str]:
    return {rung.name for rung in rungs if not rung.passed and not rung.skipped}


def trap_model(patch: Patch, change: Callable[[nn.Module], object]) -> None:
    """Have `change` made to every model that the ladder builds."""

    def build(*arguments: Any, **options: Any) -> nn.Module:
        model = build_model(*arguments, **options)
        change(model)
        return model

    patch.setattr(forward_pass, "build_model", build)


def copy_of_the_shipped(path: Path, **files: dict[str, NDArray[Any]] | None) -> GoldenFolder:
    """A golden folder like the shipped one, some of its .npz files replaced, or removed."""
    shutil.copytree(SHIPPED, path)
    for stem, arrays in files.items():
        (path / f"{stem}.npz").unlink(missing_ok=True)
        if arrays is not None:
            np.savez(path / f"{stem}.npz", **arrays)  # type: ignore[arg-type]
    return GoldenFolder(path)


def shipped(stem: str) -> dict[str, NDArray[Any]]:
    arrays = GOLDEN.arrays(stem)
    assert arrays is not None
    return arrays


def only_run(patch: Patch, suffix: str) -> None:
    """Have the ladder take one run's steps only, to save time."""
    patch.setattr(updates, "golden_runs", lambda arrays: [GoldenRun.from_suffix(suffix)])


# The ladder as it is.


def test_the_shipped_ladder_holds() -> None:
    rungs = climbed(ladder(GOLDEN, full=False))
    assert not [rung for rung in rungs.values() if not rung.skipped and not rung.passed]
    assert {name for name, rung in rungs.items() if rung.skipped} == {
        "logits of full-size models",
        "updates tiny_hybrid",
    }
    assert len(rungs) == 47


@pytest.mark.slow
def test_full_size_models_hold() -> None:
    rungs = climbed(forward_pass.full_size(GOLDEN))
    assert len(rungs) == 5
    assert all(rung.passed for rung in rungs.values()), rungs


@pytest.mark.slow
def test_full_size_models_notice_another_resize(monkeypatch: Patch, tmp_path: Path) -> None:
    interpolate = F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda x, **official: interpolate(x, **(official | {"mode": "bicubic"})))
    one = {"ViT-B_32_384": shipped("full_logits")["ViT-B_32_384"]}
    (rung,) = forward_pass.full_size(copy_of_the_shipped(tmp_path / "golden", full_logits=one))
    assert not rung.passed
    assert rung.note.startswith("first differs: Transformer/posembed_input ")


def test_the_reference_is_the_official_forward_pass() -> None:
    for name, architecture in GOLDEN.architectures.items():
        weights = GOLDEN.checkpoint(name)
        assert weights is not None
        layers = dict(official_layers(architecture, weights, make_images(4, GOLDEN.resolution(name), 7)))
        assert np.abs(layers["head"].numpy() - shipped(f"{name}_forward")["logits"]).max() < 1e-5


# Traps of the forward pass; each names the layer that it is made in.


def exact_gelu(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Mlp):
            module.act = nn.GELU()


def epsilon_of(kind: type[nn.Module], value: float, model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, kind):
            module.eps = value


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (exact_gelu, "Transformer/encoderblock_0/MlpBlock_3/gelu"),
        (partial(epsilon_of, nn.LayerNorm, 1e-5), "Transformer/encoderblock_0/LayerNorm_0"),
    ],
    ids=["exact GELU", "LayerNorm epsilon 1e-5"],
)
def test_traps_of_every_model(change: Callable[[nn.Module], object], layer: str, monkeypatch: Patch) -> None:
    trap_model(monkeypatch, change)
    rung = climbed(forward_pass.forward(GOLDEN, "tiny_vit"))["logits tiny_vit"]
    assert not rung.passed
    assert rung.note.startswith(f"first differs: {layer} (relative error")


def test_group_normalisation_with_epsilon_1e_5(monkeypatch: Patch) -> None:
    trap_model(monkeypatch, partial(epsilon_of, nn.GroupNorm, 1e-5))
    rung = climbed(forward_pass.forward(GOLDEN, "tiny_hybrid"))["layers tiny_hybrid, in float64"]  # logits hardly move
    assert not rung.passed
    assert rung.note.startswith("first differs: gn_root ")


def test_timms_weight_standardisation(monkeypatch: Patch) -> None:
    monkeypatch.setattr(OfficialStdConv, "forward", StdConv2dSame.forward)
    rung = climbed(forward_pass.forward(GOLDEN, "tiny_hybrid"))["logits tiny_hybrid"]
    assert not rung.passed
    assert rung.note.startswith("first differs: conv_root ")


def test_timms_padding(monkeypatch: Patch) -> None:
    def pad_evenly(self: OfficialStdConv, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True, correction=0)
        padding = [size // 2 for size in self.kernel_size]
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), None, self.stride, padding)

    monkeypatch.setattr(OfficialStdConv, "forward", pad_evenly)
    assert "logits tiny_hybrid" in failures(forward_pass.forward(GOLDEN, "tiny_hybrid"))


def test_a_mistake_in_the_golden_values_is_told_apart(tmp_path: Path) -> None:
    other = shipped("tiny_vit_forward") | {"logits": shipped("tiny_vit_forward")["logits"] + 1}
    golden = copy_of_the_shipped(tmp_path / "golden", tiny_vit_forward=other)
    rung = climbed(forward_pass.forward(golden, "tiny_vit"))["logits tiny_vit"]
    assert not rung.passed
    assert rung.note == "no layer differs from our float64 reference"


def test_nan_is_no_success(monkeypatch: Patch) -> None:
    trap_model(monkeypatch, lambda model: model.norm.register_forward_hook(lambda *seen: seen[-1] * torch.nan))
    assert "logits tiny_vit" in failures(forward_pass.forward(GOLDEN, "tiny_vit"))


# Traps of dropout.


def dropout_before_gelu(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Mlp):
            module.act, module.drop1 = module.drop1, module.act


@pytest.mark.parametrize(
    "options",
    [{"attn_drop_rate": 0.1}, {"drop_rate": 0.1}, {"pos_drop_rate": 0.0}, {"proj_drop_rate": 0.0}],
    ids=["on attention weights", "on the head", "not on position embeddings", "not in the blocks"],
)
def test_dropout_elsewhere(options: dict[str, float], monkeypatch: Patch) -> None:
    create = timm.create_model

    def create_trapped(*arguments: Any, **official: Any) -> nn.Module:
        model: nn.Module = create(*arguments, **(official | (options if official["pos_drop_rate"] else {})))
        return model

    monkeypatch.setattr(timm, "create_model", create_trapped)
    assert {"dropout tiny_vit: places", "dropout tiny_vit: logits"} <= failures(
        forward_pass.forward(GOLDEN, "tiny_vit")
    )


def test_as_many_dropouts_in_other_places(monkeypatch: Patch) -> None:
    trap_model(monkeypatch, dropout_before_gelu)
    assert "dropout tiny_vit: logits" in failures(forward_pass.forward(GOLDEN, "tiny_vit"))


# Traps of fine-tuning.


@pytest.mark.parametrize(
    "options",
    [{"mode": "bicubic"}, {"align_corners": False}, {"align_corners": False, "antialias": True}],
    ids=["bicubic", "corners not kept", "antialiased"],
)
def test_another_resize_of_position_embeddings(options: dict[str, Any], monkeypatch: Patch) -> None:
    only_run(monkeypatch, "")
    interpolate = F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda x, **official: interpolate(x, **(official | options)))
    assert failures(forward_pass.position_embeddings(GOLDEN)) == {"position embeddings"}
    assert {"fine-tuning: position embeddings", "fine-tuning: loss"} <= failures(updates.finetuning(GOLDEN))


def test_timms_resize_of_position_embeddings(monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        forward_pass, "resize_position_embedding", lambda table, grid: resample_abs_pos_embed(table, [grid, grid])
    )
    assert failures(forward_pass.position_embeddings(GOLDEN)) == {"position embeddings"}


def test_a_head_of_noise(monkeypatch: Patch) -> None:
    only_run(monkeypatch, "")
    torch.manual_seed(0)
    trap_model(monkeypatch, lambda model: [nn.init.trunc_normal_(p, std=0.02) for p in model.head.parameters()])
    assert "fine-tuning: loss" in failures(updates.finetuning(GOLDEN))


def test_a_kept_head_when_class_counts_agree(tmp_path: Path, monkeypatch: Patch) -> None:
    only_run(monkeypatch, "")
    facts = GOLDEN.facts("finetune", FinetuneFacts)
    assert facts is not None
    # The same weights, but for a head that would fit: what the official code computed stays true.
    weights = make_params(GOLDEN.architectures[facts.architecture], 4, facts.num_classes, seed=1)
    values = {name: array for name, array in shipped("tiny_vit_finetune").items() if name != "in21k_logits"}
    golden = copy_of_the_shipped(tmp_path / "golden", tiny_vit_in21k_ckpt=weights, tiny_vit_finetune=values)
    assert not failures(updates.finetuning(golden))

    def keep(*arguments: Any, **options: Any) -> None:
        checkpoints.load_arrays(*arguments, **(options | {"keep_head": True}))

    monkeypatch.setattr(forward_pass, "load_arrays", keep)
    assert {"fine-tuning: loss", "fine-tuning: weights"} <= failures(updates.finetuning(golden))


def test_a_forgotten_tanh_after_pre_logits(monkeypatch: Patch) -> None:
    only_run(monkeypatch, "")

    def forget(model: nn.Module) -> None:
        if isinstance(model.head, nn.Sequential):
            model.head.tanh = nn.Identity()

    trap_model(monkeypatch, forget)
    assert failures(updates.finetuning(GOLDEN)) == {"fine-tuning: logits of the checkpoint"}


# Traps of the updates.


class PlainMomentum(OfficialSGD):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.decay = 0.9


class WeightDecay(OfficialSGD):
    def step(self, lr: float) -> Tensor:
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.mul_(1 - lr * 1e-4)
        return super().step(lr)


class Nesterov(OfficialSGD):
    def step(self, lr: float) -> Tensor:
        norm = super().step(lr)
        with torch.no_grad():
            for parameter, momentum in zip(self.parameters, self.momentum, strict=True):
                assert parameter.grad is not None
                parameter.sub_(lr * (parameter.grad + (self.decay - 1) * momentum.float()))
        return norm


class ClipsEachTensor(OfficialSGD):
    def step(self, lr: float) -> Tensor:
        for parameter in self.parameters:
            nn.utils.clip_grad_norm_([parameter], self.max_norm)
        return super().step(lr)


class NeverClips(OfficialSGD):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **(options | {"max_norm": 1e9}))


@pytest.mark.parametrize(
    ("trapped", "rung"),
    [
        (PlainMomentum, "updates tiny_vit bf16mom: loss"),
        (PlainMomentum, "updates tiny_vit bf16mom: weights"),
        (WeightDecay, "updates tiny_vit: weights"),
        (Nesterov, "updates tiny_vit: loss"),
        (ClipsEachTensor, "updates tiny_vit: loss"),
        (NeverClips, "updates tiny_vit: loss"),
    ],
)
def test_other_optimisers(trapped: type[OfficialSGD], rung: str, monkeypatch: Patch) -> None:
    only_run(monkeypatch, "_bf16mom" if "bf16mom" in rung else "")
    monkeypatch.setattr(updates, "OfficialSGD", trapped)
    assert rung in failures(updates.updates(GOLDEN, "tiny_vit"))


def test_a_rate_counted_from_1(monkeypatch: Patch) -> None:
    monkeypatch.setattr(updates, "learning_rate", lambda step, **facts: learning_rate(step + 1, **facts))
    assert failures(updates.schedule(GOLDEN)) == {"learning rates"}
    assert "updates tiny_hybrid lr003: weights" in failures(updates.updates(GOLDEN, "tiny_hybrid"))
    only_run(monkeypatch, "")
    wrong = {f"updates tiny_vit: {what}" for what in ("rate", "loss", "weights")}
    assert wrong <= failures(updates.updates(GOLDEN, "tiny_vit"))


def test_clipping_each_micro_batch(monkeypatch: Patch) -> None:
    only_run(monkeypatch, "_accum2")

    def clip_too_early(accelerator: Any, model: nn.Module, *batch: Any) -> Tensor:
        loss = backward(accelerator, model, *batch)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return loss

    monkeypatch.setattr(updates, "backward", clip_too_early)
    assert "updates tiny_vit accum2: loss" in failures(updates.updates(GOLDEN, "tiny_vit"))


def test_gradients_summed_over_micro_batches(monkeypatch: Patch) -> None:
    only_run(monkeypatch, "_accum2")

    def sum_up(accelerator: Any, model: nn.Module, images: Tensor, labels: Tensor, last: bool, share: int) -> Tensor:
        return backward(accelerator, model, images, labels, last, len(images))

    monkeypatch.setattr(updates, "backward", sum_up)
    assert failures(updates.updates(GOLDEN, "tiny_vit")) == {"updates tiny_vit accum2: loss"}


def test_label_smoothing(monkeypatch: Patch) -> None:
    only_run(monkeypatch, "")
    monkeypatch.setattr(F, "cross_entropy", partial(F.cross_entropy, label_smoothing=0.1))
    assert "updates tiny_vit: loss" in failures(updates.updates(GOLDEN, "tiny_vit"))


# Traps of the pixels.


def by_interpolation(images: Tensor, crops: Crops, resolution: int, *, antialias: bool) -> Tensor:
    top, left = int(crops.top[0]), int(crops.left[0])
    part = images[:, top : top + int(crops.height[0]), left : left + int(crops.width[0])].permute(0, 3, 1, 2).float()
    size = (resolution, resolution)
    return (F.interpolate(part, size, mode="bilinear", align_corners=False, antialias=antialias) - 127.5) / 127.5


def by_pil(images: Tensor, crops: Crops, resolution: int) -> Tensor:
    top, left = int(crops.top[0]), int(crops.left[0])
    box = (left, top, left + int(crops.width[0]), top + int(crops.height[0]))
    resized = Image.fromarray(images[0].numpy()).crop(box).resize((resolution, resolution), Image.Resampling.BILINEAR)
    return (torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() - 127.5) / 127.5


def rounded(images: Tensor, crops: Crops, resolution: int) -> Tensor:
    return (our_resize(images, crops, resolution) * 127.5).round() / 127.5


def imagenet_statistics(images: Tensor, crops: Crops, resolution: int) -> Tensor:
    return our_resize(images, crops, resolution) * 0.5 / 0.225


our_resize = pixels.resize_crops


@pytest.mark.parametrize(
    "resize", [partial(by_interpolation, antialias=True), by_pil, rounded, imagenet_statistics], ids=str
)
def test_other_resizes(resize: Callable[..., Tensor], monkeypatch: Patch) -> None:
    monkeypatch.setattr(pixels, "resize_crops", resize)
    assert failures(pixels.pixels(GOLDEN)) == {"pixels: whole image", "pixels: crop"}


def test_interpolation_without_antialias_is_the_our_resize(monkeypatch: Patch) -> None:
    monkeypatch.setattr(pixels, "resize_crops", partial(by_interpolation, antialias=False))
    assert not failures(pixels.pixels(GOLDEN))


def test_a_centre_crop_instead_of_the_squashed_image(monkeypatch: Patch) -> None:
    def centre(heights: NDArray[np.int64], widths: NDArray[np.int64]) -> Crops:
        side = np.minimum(heights, widths)
        return Crops((heights - side) // 2, (widths - side) // 2, side, side, np.zeros(len(side), dtype=bool))

    monkeypatch.setattr(pixels, "whole_images", centre)
    assert failures(pixels.pixels(GOLDEN)) == {"pixels: whole image"}


def test_torchvisions_crops(monkeypatch: Patch) -> None:
    torch.manual_seed(0)

    def crops(seed: int, step: int, positions: slice, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> Crops:
        image = torch.empty(3, heights[0], widths[0])
        drawn = [RandomResizedCrop.get_params(image, [0.05, 1.0], [3 / 4, 4 / 3]) for _ in heights]
        return Crops(*np.array(drawn).T, np.arange(len(heights)) % 2 == 0)

    monkeypatch.setattr(pixels, "NUM_CROPS", 2000)
    monkeypatch.setattr(pixels, "random_crops", crops)
    for name, rung in climbed(pixels.crops(GOLDEN)).items():
        # 2,000 crops of the right distribution would be off by 0.03 at most.
        assert name == "flips" or (rung.error or 0) > (0.1 if "distance" in name else 0.03), rung


@pytest.mark.parametrize(("limit", "value"), [("AREAS", (0.08, 1.0)), ("ASPECT_RATIOS", (0.8, 1.25))])
def test_other_limits_of_crops(limit: str, value: object, monkeypatch: Patch) -> None:
    monkeypatch.setattr(f"vit_trainer.data.crops.{limit}", value)
    assert "crops of 32x32 pixels: distance" in failures(pixels.crops(GOLDEN))


def test_images_that_are_always_mirrored(monkeypatch: Patch) -> None:
    crops = pixels.random_crops

    def mirror(*arguments: Any) -> Crops:
        drawn = crops(*arguments)
        return Crops(drawn.top, drawn.left, drawn.height, drawn.width, np.ones_like(drawn.flip))

    monkeypatch.setattr(pixels, "random_crops", mirror)
    assert failures(pixels.crops(GOLDEN)) == {"flips"}


# Other golden folders.

SMALL = {"patch_size": 8, "width": 48, "depth": 3, "num_heads": 3, "mlp_dim": 80, "resnet_stages": None}
OTHER_META: dict[str, Any] = {
    "architectures": {
        "small": SMALL,
        "mixed": {
            "patch_size": 1,
            "width": 32,
            "depth": 1,
            "num_heads": 2,
            "mlp_dim": 64,
            "resnet_stages": [1, 1],
            "resnet_width_factor": 0.5,
        },
    },
    "resolution": {"small": 40, "mixed": 32},
    "num_classes": 7,
    "forward": {"batch": 3, "image_seed": 70},
    "sgd": {
        "steps": 4,
        "warmup_steps": 2,
        "base_lr": 0.01,
        "batch": 6,
        "image_seed": 10,
        "label_seed": 20,
        "grad_clip": 0.5,
    },
    "finetune": {
        "architecture": "small",
        "checkpoint": "pretrained.npz",
        "pretrain_resolution": 24,
        "pretrain_classes": 5,
        "representation_size": 40,
        "resolution": 32,
        "num_classes": 4,
    },
}


def write_other_folder(path: Path) -> GoldenFolder:
    """Other names, sizes, seeds, steps and classes, with zeros for golden values: all of it is run, little holds."""
    path.mkdir()
    (path / "meta.json").write_text(json.dumps(OTHER_META))
    golden = GoldenFolder(path)
    small, mixed = golden.architectures["small"], golden.architectures["mixed"]
    files: dict[str, dict[str, NDArray[Any]]] = {
        "small_ckpt": dict(make_params(small, 5, 7, seed=3)),
        "mixed_ckpt": dict(make_params(mixed, 4, 7, seed=3)),
        "pretrained": dict(make_params(small, 3, 5, representation_size=40, seed=4)),
        "small_forward": {"logits": np.zeros((3, 7)), "dropout01_logits": np.zeros((3, 7)), "dropout_sites": 10},
        "mixed_forward": {"features": np.zeros((3, 32)), "logits": np.zeros((3, 7))},
        "small_sgd": {"loss": np.zeros(4), "loss_accum3": np.zeros(4), "loss_bf16mom": np.zeros(4)},
        "mixed_sgd": {"loss": np.zeros(4), "loss_lr01": np.zeros(4), "lr_lr01": np.array([0, 0.0005, 0.001, 0.0005])},
        "small_finetune": {"in21k_logits": np.zeros((3, 5)), "pos_embedding": np.zeros((1, 17, 48))},
        "full_logits": {"small_32": np.zeros((2, 6)), "ViT-X_32": np.zeros((2, 6))},
    }
    files["small_finetune"]["loss"] = np.zeros(4)
    for stem, arrays in files.items():
        np.savez(path / f"{stem}.npz", **arrays)  # type: ignore[arg-type]
    return golden


def test_a_folder_with_other_sizes_seeds_steps_and_classes(tmp_path: Path) -> None:
    rungs = climbed(ladder(write_other_folder(tmp_path / "other")))
    assert [name for name, rung in rungs.items() if rung.passed] == [
        "layers small, in float64",
        "dropout small: places",
        "layers mixed, in float64",
        "updates mixed lr01: rate",
    ]
    assert {name: rung.note for name, rung in rungs.items() if rung.skipped} == {
        "learning rates": "no schedule.npz",
        "position embeddings": "no posembed.npz",
        "logits ViT-X at 32 px": "ViT-X is no architecture in meta.json, nor one of ours",
        "updates small bf16mom: weights": "no small_sgd_bf16mom_final.npz",
        "updates mixed": "at the base rate rounding is amplified: float32 momentum",
        "pixels": "no preprocess.npz",
        "crops": "no crop_stats.npz",
    }
    assert rungs["fine-tuning: loss"].error == pytest.approx(np.log(4), abs=0.05)  # a zero head of 4 classes
    assert rungs["updates small accum3: loss"].error == pytest.approx(rungs["updates small: loss"].error, abs=1e-5)
    assert rungs["updates small bf16mom: loss"].error != rungs["updates small: loss"].error
    assert all("no layer differs" in rung.note for name, rung in rungs.items() if name.startswith("logits small"))


def test_a_folder_that_lacks_files_checks_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("meta.json", "schedule.npz", "posembed.npz"):
        shutil.copy(SHIPPED / name, tmp_path)
    with pytest.raises(SystemExit) as left:
        run(app, ["verify", "--golden", str(tmp_path)])
    assert left.value.code == 0
    output = capsys.readouterr().out
    assert output.endswith("4 of 4 rungs hold, 8 skipped\n")
    assert "no tiny_vit_forward.npz" in output
    assert "no crop_stats.npz" in output


def test_a_rung_that_fails_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SHIPPED / "meta.json", tmp_path)
    arrays = shipped("posembed")
    np.savez(tmp_path / "posembed.npz", **(arrays | {"out_4_6": arrays["out_4_6"] + 1e-4}))  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as left:
        run(app, ["verify", "--golden", str(tmp_path)])
    assert left.value.code == 1
    output = capsys.readouterr().out
    assert "FAIL" in output
    assert "2 of 3 rungs hold" in output


def test_weights_that_no_file_and_no_seed_gives_are_skipped(tmp_path: Path) -> None:
    golden = write_other_folder(tmp_path / "other")
    (golden.path / "small_ckpt.npz").unlink()
    (rung,) = forward_pass.forward(golden, "small")
    assert rung.note == "no small_ckpt.npz and no seed for it in meta.json"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "cannot read meta.json"),
        ({"meta.json": "{"}, "meta.json is malformed (Expecting property name"),
        ({"meta.json": "[]"}, "no object `architectures`"),
        ({"meta.json": '{"architectures": {"a": {"patch_size": 4}}}'}, "`architectures.a`"),
        ({"meta.json": '{"architectures": {}}'}, "holds nothing to compare with"),
        ({"meta.json": OTHER_META | {"sgd": {"steps": 4}}}, "`sgd`"),
        ({"meta.json": OTHER_META | {"forward": {"batch": "x", "image_seed": 0}}}, "`forward.batch` is 'x'"),
        ({"meta.json": OTHER_META | {"resolution": {"small": 4, "mixed": 32}}}, "less than the model's stride of 8"),
        ({"meta.json": OTHER_META | {"resolution": None}}, "`resolution.small` is None"),
        ({"meta.json": {"architectures": {"a": SMALL | {"num_heads": 5}}}}, "not a multiple of num_heads"),
        ({"meta.json": {"architectures": {"a": SMALL | {"depth": "x"}}}}, "`architectures.a.depth` is 'x'"),
        ({"meta.json": OTHER_META | {"num_classes": None}}, "`num_classes` is None"),
        ({"meta.json": OTHER_META | {"num_classes": 9}}, "it has 7 classes and no pre_logits, the model 9"),
        ({"small_forward.npz": "PK hello"}, "small_forward.npz"),
        ({"small_forward.npz": {"logits": np.zeros((3, 8))}}, "logits has shape (3, 8), not (3, 7)"),
        ({"posembed.npz": {"in_3_4": np.zeros((1, 10, 2))}}, "lacks array out_3_4"),
    ],
)
def test_malformed_folders(
    files: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "golden"
    if files:
        write_other_folder(path)
    for name, content in files.items():
        if name.endswith(".npz") and isinstance(content, dict):
            np.savez(path / name, **content)
        else:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    if "nothing" in message:
        for file in path.glob("*.npz"):
            file.unlink()
    with pytest.raises(SystemExit) as left:
        run(app, ["verify", "--golden", str(path)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_golden_values_are_packaged() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["vit_trainer"]
    package = ROOT / "vit_trainer"
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    assert set(SHIPPED.iterdir()) <= packaged
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3e6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(app, ["verify", "--device", "cuda"])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("error: no GPU that PyTorch can use here: give --device cpu")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_short_form_prints_what_computes_and_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(app, ["verify", "--short"])
    output = capsys.readouterr().out
    assert left.value.code == 0, output
    assert output.splitlines()[0].endswith(f", torch {torch.__version__}")
    assert output.endswith("17 of 17 rungs hold, 0 skipped\n")


@pytest.mark.long
def test_compiled_models_hold() -> None:
    compiled = climbed(updates.updates(GOLDEN, "tiny_vit", Setting(compiled=True), one_run=True))
    assert len(compiled) == 4
    assert all(rung.passed for rung in compiled.values()), compiled
    (masks,) = same_bits.dropout_masks(Setting(compiled=True))
    assert masks.passed
