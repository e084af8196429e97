"""build_model(): the official architectures, sizes and places, whatever timm's defaults are."""

from functools import lru_cache

import pytest
import timm
import torch
from timm.layers import GroupNormAct, StdConv2dSame
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.model.build import Float32Linear, OfficialStdConv, PatchProjection, build_model
from vit_trainer.parity.golden import array_shapes, make_params
from vit_trainer.weights.load import export_arrays, load_arrays

OFFICIAL = [name for name in MODELS if not name.endswith("-mini")]
MINIATURES = [name for name in MODELS if name.endswith("-mini")]
NUM_PARAMETERS = {
    "ViT-B_16": 85_798_656,
    "ViT-B_32": 87_455_232,
    "ViT-L_16": 303_301_632,
    "ViT-L_32": 305_510_400,
    "ViT-H_14": 630_764_800,
    "R50+ViT-B_16": 97_890_112,
}


@lru_cache
def built(name: str, resolution: int = 224, num_classes: int = 10) -> VisionTransformer:
    with torch.device("meta"):  # shapes only, so that ViT-H_14 costs nothing
        return build_model(MODELS[name], num_classes=num_classes, resolution=resolution)


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_are_as_many_as_published(name: str) -> None:
    count = sum(parameter.numel() for key, parameter in built(name).named_parameters() if not key.startswith("head"))
    assert count == NUM_PARAMETERS[name] == MODELS[name].num_parameters(224)


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_are_those_of_the_timm_model(name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(MODELS[name].timm_name, pretrained=False, num_classes=10, img_size=384)
    ours = built(name, 384)
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == {
        key: tensor.shape for key, tensor in theirs.state_dict().items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_arrays_of_a_checkpoint_are_the_parameters(name: str) -> None:
    model, architecture = built(name, 384), MODELS[name]
    shapes = dict(array_shapes(architecture, architecture.grid(384), 10))
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MINIATURES)
def test_weights_survive_the_way_in_and_out(name: str) -> None:
    architecture = MODELS[name]
    for size in (None, 24):
        arrays = make_params(architecture, architecture.grid(32), 7, representation_size=size, seed=5)
        model = build_model(architecture, num_classes=7, resolution=32, representation_size=size)
        load_arrays(model, architecture, arrays, keep_head=True)
        exported = export_arrays(model, architecture)
        assert exported.keys() == arrays.keys()
        assert all((exported[key] == arrays[key]).all() for key in arrays)


def test_the_head_is_zero_even_if_the_class_counts_agree() -> None:
    architecture = MODELS["ViT-B_32-mini"]
    model = build_model(architecture, num_classes=7, resolution=32)
    load_arrays(model, architecture, make_params(architecture, 4, 7))
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    assert model(torch.randn(2, 3, 32, 32)).tolist() == [[0.0] * 7] * 2


def test_pre_logits_are_dropped_when_fine_tuning_and_kept_with_the_head() -> None:
    architecture = MODELS["ViT-B_32-mini"]
    arrays = make_params(architecture, 4, 7, representation_size=24)
    model = build_model(architecture, num_classes=7, resolution=32)
    load_arrays(model, architecture, arrays)
    assert isinstance(model.head, nn.Linear)
    kept = build_model(architecture, num_classes=7, resolution=32, representation_size=24)
    load_arrays(kept, architecture, arrays, keep_head=True)
    assert [type(module) for module in kept.head] == [nn.Linear, nn.Tanh, Float32Linear]
    assert kept.head.head.weight.any()


def test_position_embeddings_are_resized_to_the_models_grid() -> None:
    architecture = MODELS["ViT-B_32-mini"]
    arrays = make_params(architecture, 4, 7)
    model = build_model(architecture, num_classes=7, resolution=48)
    load_arrays(model, architecture, arrays)
    table = torch.from_numpy(arrays["Transformer/posembed_input/pos_embedding"])
    assert model.pos_embed.shape == (1, 37, 48)
    assert torch.equal(model.pos_embed[:, 0], table[:, 0])
    old, new = table[0, 1:].view(4, 4, -1), model.pos_embed[0, 1:].view(6, 6, -1)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(new[corner], old[corner])


def test_vit_h_14_at_384_leaves_the_last_6_pixels_unused() -> None:
    assert built("ViT-H_14", 384).pos_embed.shape[1] == 27**2 + 1
    architecture = MODELS["ViT-B_32-mini"]
    model = build_model(architecture, num_classes=3, resolution=38).eval()
    load_arrays(model, architecture, make_params(architecture, 4, 3), keep_head=True)
    images = torch.randn(2, 3, 38, 38)
    cut = images.clone()
    cut[:, :, 32:], cut[:, :, :, 32:] = 0, 0
    assert torch.equal(model(images), model(cut))


@pytest.mark.parametrize("name", MODELS)
def test_every_normalisation_has_epsilon_1e_6(name: str) -> None:
    epsilons = {type(module): module.eps for module in built(name, 384).modules() if "Norm" in type(module).__name__}
    assert set(epsilons.values()) == {1e-6}
    assert (GroupNormAct in epsilons) == (MODELS[name].resnet_stages is not None)


def test_weight_standardisation_adds_its_epsilon_to_the_deviation() -> None:
    official, theirs = OfficialStdConv(4, 8, 3, bias=False).double(), StdConv2dSame(4, 8, 3, bias=False).double()
    for convolution in (official, theirs):
        nn.init.constant_(convolution.weight, 3.0)
        convolution.weight.data[:, 0, 0, 0] += 1e-3  # so that epsilon counts
    images = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    weight = official.weight
    deviation = weight.std((1, 2, 3), keepdim=True, correction=0)
    expected = torch.nn.functional.conv2d(
        images, (weight - weight.mean((1, 2, 3), keepdim=True)) / (deviation + 1e-5), padding=1
    )
    torch.testing.assert_close(official(images), expected)
    assert not torch.allclose(theirs(images), expected, rtol=1e-2)


def test_weights_are_standardised_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution, images, seen = OfficialStdConv(4, 8, 3, bias=False), torch.randn(2, 4, 6, 6), []
    convolve = torch.nn.functional.conv2d

    def conv2d(x: torch.Tensor, weight: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(weight)
        return convolve(x, weight, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    convolution(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolution(images).dtype == torch.bfloat16
    assert seen[1].dtype == torch.float32
    assert torch.equal(*seen)


@pytest.mark.parametrize("resolution", [42, 48])  # 48: as ViT-H_14 at 384, the last 6 pixels are no patch
def test_patches_as_a_matrix_product_are_the_convolution_s(resolution: int) -> None:
    architecture = Architecture(14, 64, 1, 1, 64, published_resolutions=(48,))
    model = build_model(architecture, num_classes=2, resolution=resolution)
    projection = model.patch_embed.proj
    assert isinstance(projection, PatchProjection)
    images = torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projection.as_product(images), projection(images), rtol=0, atol=1e-5)
    tokens = projection.as_product(images).flatten(2).transpose(1, 2)
    assert tokens.is_contiguous()  # as the encoder reads them


def test_the_head_s_logits_are_float32_under_autocast() -> None:
    model = build_model(MODELS["ViT-B_32-mini"], num_classes=1000, resolution=32)
    nn.init.normal_(model.head.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.float32
    assert len(logits[0].unique()) > len(logits[0].bfloat16().unique())  # which would make ties


def test_random_weights_draw_what_they_always_drew() -> None:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
    plain = timm.create_model("vit_base_patch16_224", **sizes)
    torch.manual_seed(0)
    model = build_model(MODELS["ViT-B_32-mini"], num_classes=1000, resolution=32)
    assert torch.equal(model.patch_embed.proj.weight, plain.patch_embed.proj.weight)
    assert torch.equal(model.cls_token, plain.cls_token)
