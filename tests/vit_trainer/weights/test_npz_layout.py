import math

import pytest

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.errors import CheckpointError
from vit_trainer.weights.npz_layout import POSITION_EMBEDDING, Contents, check_fits, looks_like, tensor_map


def shapes_of(
    architecture: Architecture, *, grid: int = 14, num_classes: int | None = 1000, representation: int | None = None
) -> dict[str, tuple[int, ...]]:
    given = {
        POSITION_EMBEDDING: (1, grid**2 + 1, architecture.width),
        "pre_logits/kernel": (architecture.width, representation),
        "pre_logits/bias": (representation,),
        "head/kernel": (representation or architecture.width, num_classes),
        "head/bias": (num_classes,),
    }
    pairs = tensor_map(architecture, pre_logits=representation is not None, head=num_classes is not None)
    return {pair.array: given.get(pair.array, pair.shape) for pair in pairs}


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [  # without head, 224 px: counted on the official models
        ("ViT-B_16", 85_798_656),
        ("ViT-B_32", 87_455_232),
        ("ViT-L_16", 303_301_632),
        ("ViT-L_32", 305_510_400),
        ("ViT-H_14", 630_764_800),
        ("R50+ViT-B_16", 97_890_112),
    ],
)
def test_the_shapes_are_those_of_the_official_models(name, num_parameters):
    architecture = MODELS[name]
    shapes = shapes_of(architecture, grid=architecture.grid(224), num_classes=None)
    assert sum(math.prod(shape) for shape in shapes.values()) == num_parameters


@pytest.mark.parametrize("name", MODELS)
def test_every_file_is_recognised_with_any_head_and_resolution(name):
    architecture = MODELS[name]
    for representation, num_classes in ((None, 1000), (768, 21843), (None, None)):
        for grid in (7, 24):
            shapes = shapes_of(architecture, grid=grid, num_classes=num_classes, representation=representation)
            assert looks_like(shapes) == name
            assert check_fits(shapes, architecture) == Contents(grid, representation, num_classes)


@pytest.mark.parametrize("name", MODELS)
def test_every_other_model_refuses_the_file_and_says_whose_it_is(name):
    shapes = shapes_of(MODELS[name])
    for other in MODELS:
        if other != name:
            with pytest.raises(CheckpointError, match=f"fit {other.replace('+', '.')}: .*looks like") as caught:
                check_fits(shapes, MODELS[other], source="it")
            assert f"it looks like {name}; give a file of {other}, or choose model {name}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"cls": None}, "it lacks cls"),
        ({"head/bias": None}, "it lacks head/bias"),
        ({"head/kernel": (48, 11)}, r"head/bias has shape \(10,\), not \(11,\)"),
        ({"head/kernel": (48,)}, r"head/kernel has shape \(48,\), not \(48, any\)"),
        ({POSITION_EMBEDDING: (1, 64, 48)}, "has 64 tokens, which is no square"),
        ({POSITION_EMBEDDING: (1, 0, 48)}, r"has shape \(1, 0, 48\), not \(1, any, 48\)"),
        ({"pre_logits/kernel": (48, 7), "pre_logits/bias": (8,)}, r"head/kernel|pre_logits/bias has shape \(8,\)"),
    ],
)
def test_a_damaged_file_of_the_right_model_is_called_damaged(change, problem):
    shapes = shapes_of(MODELS["ViT-B_16-mini"], grid=8, num_classes=10) | change
    shapes = {name: shape for name, shape in shapes.items() if shape is not None}
    with pytest.raises(CheckpointError, match=rf"a\.npz is a damaged ViT-B_16-mini file: .*{problem}.*fetch it again"):
        check_fits(shapes, MODELS["ViT-B_16-mini"], source="a.npz")


def test_what_is_no_known_model_is_described():
    deeper = Architecture(16, 768, 13, 12, 3072)
    with pytest.raises(
        CheckpointError, match=r"encoderblock_12/.* as well; it looks like a Vision Transformer of patch 16"
    ):
        check_fits(shapes_of(deeper), MODELS["ViT-B_16"])
    with pytest.raises(CheckpointError, match="it lacks embedding/kernel; it looks like no Vision Transformer"):
        check_fits({"weight": (3, 3)}, MODELS["ViT-B_16"])


@pytest.mark.parametrize(
    ("name", "grid", "resolution"),
    [("ViT-B_16", 14, 224), ("ViT-B_16", 24, 384), ("ViT-B_16", 32, 512), ("ViT-H_14", 27, 384), ("ViT-L_32", 7, 224)],
)
def test_the_resolution_is_that_of_the_position_embeddings(name, grid, resolution):
    contents = check_fits(shapes_of(MODELS[name], grid=grid), MODELS[name])
    assert contents.resolution(MODELS[name]) == resolution
