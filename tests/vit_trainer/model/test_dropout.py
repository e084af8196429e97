"""Dropout masks: right in number, independent, and a function of the images' keys alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vit_trainer.architectures import MODELS
from vit_trainer.data.randomness import dropout_keys
from vit_trainer.model.build import build_model, dropout_keys_of
from vit_trainer.model.dropout import DropoutKeys, ImageDropout

SIZE = 17 * 96
IMAGES = 128


def masks(p: float, *, site: int = 0, step: int = 0, size: int = SIZE) -> Tensor:
    """(images, size) float32: 1 where kept."""
    keys = torch.from_numpy(dropout_keys(0, step, slice(0, IMAGES)))
    return ImageDropout(p, site, DropoutKeys()).kept(keys, size).float()


def correlation(one: Tensor, other: Tensor, p: float) -> float:
    """Of two sets of kept bits, in standard deviations of what independent ones give."""
    one, other = one - (1 - p), other - (1 - p)
    return float((one * other).mean() / (p * (1 - p)) * one.numel() ** 0.5)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_every_site_keeps_its_share(p: float) -> None:
    for site in range(12):
        kept = masks(p, site=site)
        deviation = (p * (1 - p) / kept.numel()) ** 0.5
        assert abs(float(kept.mean()) - (1 - p)) < 4 * deviation
        deviation = (p * (1 - p) / IMAGES) ** 0.5
        assert float((kept.mean(0) - (1 - p)).abs().max()) < 5.5 * deviation  # the worst of 1,632 elements


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_are_independent(p: float) -> None:
    kept = masks(p)
    others = {f"elements {d} apart": (kept[:, d:], kept[:, :-d]) for d in (1, 2, 3, 32, 96, SIZE // 2, SIZE // 2 - 1)}
    others |= {f"images {d} apart": (kept[d:], kept[:-d]) for d in (1, 2, 64)}
    others |= {f"sites 0 and {site}": (kept, masks(p, site=site)) for site in (1, 2, 3, 7)}
    others |= {f"steps 0 and {step}": (kept, masks(p, step=step)) for step in (1, 2, 100)}
    for name, pair in others.items():
        assert abs(correlation(*pair, p)) < 4, name


def test_consecutive_keys_are_as_independent_as_random_ones() -> None:
    keys = torch.arange(-IMAGES // 2, IMAGES // 2, dtype=torch.int32)
    kept = ImageDropout(0.5, 0, DropoutKeys()).kept(keys, SIZE).float()
    assert abs(float(kept.mean()) - 0.5) < 4 * 0.5 / kept.numel() ** 0.5
    for distance in (1, 2, 4, 64):
        assert abs(correlation(kept[distance:], kept[:-distance], 0.5)) < 4, distance


def test_no_two_masks_are_alike() -> None:
    kept = torch.cat([masks(0.5, site=site) for site in range(8)])
    assert len(torch.unique(kept, dim=0)) == len(kept)


def test_a_mask_depends_on_its_image_alone() -> None:
    keys = torch.from_numpy(dropout_keys(0, 3, slice(0, 6)))
    dropout = ImageDropout(0.1, 2, DropoutKeys())
    for size in (SIZE, SIZE + 1, 1):  # an odd size leaves half a hash over
        whole = dropout.kept(keys, size)
        assert whole.shape == (6, size)
        assert torch.equal(whole, torch.cat([dropout.kept(part, size) for part in keys.split([1, 3, 2])]))


@pytest.mark.parametrize("size", [1, 2, SIZE, SIZE + 1])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_gpu_s_masks_are_a_cpu_s(p: float, size: int) -> None:
    keys = torch.from_numpy(dropout_keys(0, 3, slice(0, 6)))
    dropout = ImageDropout(p, 2, DropoutKeys())
    assert torch.equal(dropout.kept_by_place(keys, size), dropout.kept(keys, size))


@pytest.mark.slow
def test_a_gpu_s_mask_costs_one_hash_per_activation() -> None:
    from torch._inductor.utils import run_and_get_code

    dropout = ImageDropout(0.1, 2, DropoutKeys())
    keys = torch.from_numpy(dropout_keys(0, 3, slice(0, 6)))
    kept, (code,) = run_and_get_code(torch.compile(dropout.kept_by_place), keys, SIZE)
    assert torch.equal(kept, dropout.kept(keys, SIZE))
    assert code.count("2048144789") in (1, 2)  # in the vectorised loop, and in the one for what it leaves over


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stays_is_scaled_and_its_gradient_too(dtype: torch.dtype) -> None:
    shared = DropoutKeys()
    shared.set(torch.from_numpy(dropout_keys(0, 0, slice(0, 4))))
    dropout = ImageDropout(0.1, 1, shared)
    values = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    kept = dropout.kept(shared.keys, 30).view(4, 5, 6)  # type: ignore[arg-type]
    dropped = dropout(values)
    dropped.sum().backward()
    scale = 1 / 0.9
    assert dropped.dtype == dtype
    expected = torch.where(kept, (values.float() * scale).to(dtype), 0.0)
    assert torch.equal(dropped, expected)
    assert torch.equal(values.grad, torch.where(kept, torch.tensor(scale, dtype=dtype), 0.0))  # type: ignore[arg-type]
    assert torch.equal(dropout.eval()(values), values)


def test_a_certain_drop_is_not_a_certain_keep() -> None:
    assert masks(1 - 2**-20).mean() < 1e-3


def test_the_official_places_and_no_other() -> None:
    model = build_model(MODELS["R50+ViT-B_16-mini"], num_classes=5, resolution=32, dropout=0.1)
    sites = {name: module for name, module in model.named_modules() if isinstance(module, ImageDropout)}
    per_block = ["attn.proj_drop", "mlp.drop1", "mlp.drop2"]
    assert list(sites) == ["pos_drop"] + [f"blocks.{block}.{name}" for block in range(3) for name in per_block]
    assert [site.site for site in sites.values()] == list(range(10))
    assert not [name for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p > 0]


def test_a_micro_batch_gives_what_the_whole_batch_gives() -> None:
    torch.manual_seed(0)
    model = build_model(MODELS["ViT-B_32-mini"], num_classes=5, resolution=32, dropout=0.5)
    nn.init.normal_(model.head.weight)
    model.train()
    images, keys = torch.randn(6, 3, 32, 32), torch.from_numpy(dropout_keys(0, 0, slice(0, 6)))

    def logits(part: slice) -> Tensor:
        dropout_keys_of(model).set(keys[part])
        with torch.no_grad():
            output: Tensor = model(images[part])
        return output

    whole = logits(slice(0, 6))
    parts = torch.cat([logits(slice(0, 2)), logits(slice(2, 6))])
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert not torch.allclose(whole, logits(slice(0, 6)).flip(0))
    model.eval()
    assert not torch.allclose(whole, logits(slice(0, 6)), atol=1e-2)
