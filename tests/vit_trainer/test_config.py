import dataclasses

import pytest

from vit_trainer.architectures import MODELS
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.datasets import DATASETS, dataset_info
from vit_trainer.errors import InputError

PAPER = FinetuneConfig("ViT-B_16", "cifar10")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "ViT-B16"}, "unknown model 'ViT-B16'; did you mean 'ViT-B_16'?"),
        ({"dataset": "cifar11"}, "unknown dataset 'cifar11'; did you mean 'cifar10'?"),
        ({"upstream": "imagenet21"}, "unknown upstream 'imagenet21'; did you mean 'imagenet21k'?"),
        ({"resolution": 230}, "resolution 230 does not fit ViT-B_16: give a multiple of 16, such as 224"),
        ({"resolution": 0}, "resolution 0 does not fit"),
        ({"dropout": 1.0}, r"dropout 1.0 is outside \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout -0.1 is outside \[0, 1\)"),
        ({"dropout": float("nan")}, r"dropout nan is outside \[0, 1\)"),
        ({"base_lr": 0.0}, "base_lr 0.0 is not positive"),
        ({"base_lr": float("inf")}, "base_lr inf is not positive"),
        ({"total_steps": 0}, "total_steps 0 is below 1"),
        ({"warmup_steps": 10_000}, r"warmup_steps 10000 is outside \[0, total_steps=10000\)"),
        ({"global_batch_size": 0}, r"global_batch_size 0 is outside \[1, 2\*\*20\]: give images per step"),
        ({"seed": -1}, "seed -1 is outside"),
    ],
)
def test_bad_values_are_refused_in_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        dataclasses.replace(PAPER, **values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(FinetuneConfig)])
def test_every_field_is_part_of_a_trials_identity(name: str) -> None:
    other = {
        "model": "ViT-B_32",
        "dataset": "cifar100",
        "upstream": "scratch",
        "resolution": 224,
        "dropout": 0.1,
        "base_lr": 0.01,
        "total_steps": 501,
        "warmup_steps": 7,
        "global_batch_size": 64,
        "seed": 1,
    }
    assert dataclasses.replace(PAPER, **{name: other[name]}).trial_id != PAPER.trial_id


def test_a_trial_id_never_changes() -> None:
    # Run folders of years ago must still be found: a change here loses everybody's results.
    assert PAPER.trial_id == "ViT-B_16-cifar10-d0-lr0.03-s0-138cee"


def test_the_official_recipe() -> None:
    assert FinetuneConfig.official("ViT-B_16", "cifar10").base_lr == 0.01  # vit.py:35
    assert FinetuneConfig.official("ViT-B_16", "cifar100").base_lr == 0.03
    imagenet = FinetuneConfig.official("ViT-L_32", "imagenet2012")
    assert (imagenet.total_steps, imagenet.warmup_steps, imagenet.resolution) == (20_000, 500, 384)
    assert imagenet.global_batch_size == 512


def test_a_misspelt_override_names_the_nearest_field() -> None:
    with pytest.raises(InputError, match="unknown field 'base_lrs'; did you mean 'base_lr'"):
        FinetuneConfig.official("ViT-B_16", "cifar10", base_lrs=0.1)


def test_execution_is_checked() -> None:
    with pytest.raises(InputError, match="micro_batch_size 0 is below 1"):
        Execution(micro_batch_size=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ViT-B_16", 85_798_656),
        ("ViT-B_32", 87_455_232),
        ("ViT-L_16", 303_301_632),
        ("ViT-L_32", 305_510_400),
        ("ViT-H_14", 630_764_800),
        ("R50+ViT-B_16", 97_890_112),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, parameters: int) -> None:
    assert MODELS[name].num_parameters(224) == parameters


@pytest.mark.parametrize(
    ("name", "giga_flops_224", "giga_flops_384"),
    [("ViT-B_32", 8.8, 26.1), ("ViT-B_16", 35.1, 111.0), ("R50+ViT-B_16", 43.1, 134.3), ("ViT-L_16", 123.1, 382.1)],
)
def test_flops(name: str, giga_flops_224: float, giga_flops_384: float) -> None:
    assert MODELS[name].forward_flops(224) / 1e9 == pytest.approx(giga_flops_224, rel=0.01)
    assert MODELS[name].forward_flops(384) / 1e9 == pytest.approx(giga_flops_384, rel=0.01)


def test_vit_h_14_takes_384_pixels_and_leaves_six_unused() -> None:
    assert MODELS["ViT-H_14"].accepts(384)
    assert MODELS["ViT-H_14"].grid(384) == 27


def test_every_data_set_has_a_miniature_recipe_or_the_official_one() -> None:
    for info in DATASETS.values():
        assert 0 <= info.warmup_steps < info.total_steps
        assert info.num_evaluations % 4 == 0  # so that a validation falls on each of ASHA's rungs


@pytest.mark.parametrize(
    ("dataset", "total_steps", "expected"),
    [("cifar10", 10_000, 40), ("imagenet2012", 20_000, 40), ("cifar100", 1000, 36), ("cifar10", 500, 12)],
)
def test_evaluations_cost_at_most_3_percent(dataset: str, total_steps: int, expected: int) -> None:
    config = FinetuneConfig.official("ViT-B_16", dataset, total_steps=total_steps, warmup_steps=50)
    info = dataset_info(dataset)
    assert config.num_evaluations == expected
    forward_passes = expected * info.num_validation + info.num_test
    assert forward_passes <= 0.03 * 3 * total_steps * config.global_batch_size


def test_the_shortest_runs_are_validated_too() -> None:
    config = FinetuneConfig.official("ViT-B_16", "imagenet2012", total_steps=100, warmup_steps=10)
    assert config.num_evaluations == 8
