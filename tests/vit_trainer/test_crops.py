"""Pixels against what TensorFlow computed in the official pipeline.

golden_values/crop_stats.npz: of 100,000 official crops of three image sizes, 21 quantiles (0%, 5%, .. 100%) of relative
area, aspect ratio and height, means of (top, left, height, width), and the share of whole images.
golden_values/preprocess.npz: random images, and what the official resize made of them whole and of one crop each.
"""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._dynamo.utils import counters

import vit_trainer.data.crops as crops_module
from vit_trainer.data.crops import (
    Crops,
    _OneKernel,
    _resize_at_once,
    _resize_one_by_one,
    most_bytes,
    random_crops,
    resize_crops,
    resize_cuts,
    thinned,
    whole_images,
)

GOLDEN = Path(__file__).parents[2] / "vit_trainer" / "parity" / "golden_values"
SIZES = [(32, 32), (375, 500), (500, 333)]


def crops_of(height: int, width: int, *, num_steps: int = 1, step: int = 0, seed: int = 0) -> list[Crops]:
    size = np.full(512, height), np.full(512, width)
    return [random_crops(seed, step + i, slice(0, 512), *size) for i in range(num_steps)]


def distance(sample: NDArray[np.float64], quantiles: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance, as far as quantiles show it: how far the sample's CDF passes them by."""
    levels = np.linspace(0, 1, len(quantiles))
    ordered = np.sort(sample)
    up_to = np.searchsorted(ordered, quantiles + 1e-9, side="right") / len(sample)
    below = np.searchsorted(ordered, quantiles - 1e-9, side="left") / len(sample)
    return float(np.maximum(levels - up_to, below - levels).max())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crops_follow_the_official_distribution(height: int, width: int) -> None:
    golden, size = np.load(GOLDEN / "crop_stats.npz"), f"{height}x{width}"
    crops = crops_of(height, width, num_steps=200)
    top, left, h, w = (np.concatenate([getattr(c, edge) for c in crops]) for edge in ("top", "left", "height", "width"))
    assert distance(h * w / (height * width), golden[f"area_q_{size}"]) <= 0.01
    assert distance(w / h, golden[f"aspect_q_{size}"]) <= 0.01
    assert distance(h, golden[f"height_q_{size}"]) <= 0.01
    deviations = np.array([edge.std() for edge in (top, left, h, w)])
    means = np.array([edge.mean() for edge in (top, left, h, w)])
    assert np.all(np.abs(means - golden[f"mean_{size}"]) <= 0.015 * deviations)
    assert abs(np.mean((h == height) & (w == width)) - golden[f"full_{size}"]) <= 0.001
    assert (top + h).max() <= height
    assert (left + w).max() <= width
    flipped = np.concatenate([c.flip for c in crops])
    assert abs(flipped.mean() - 0.5) < 0.01


def test_the_distance_tells_torchvisions_crop_from_the_official_one() -> None:
    rng = np.random.default_rng(0)
    uniform_area = rng.uniform(0.05, 1, 100_000)  # RandomResizedCrop draws the area, not the height, uniformly
    assert distance(uniform_area, np.load(GOLDEN / "crop_stats.npz")["area_q_375x500"]) > 0.05


def test_a_crop_is_a_function_of_seed_step_and_position() -> None:
    heights, widths = np.arange(40, 104), np.arange(140, 76, -1)
    whole = random_crops(3, 5, slice(0, 64), heights, widths)
    for positions in (slice(0, 16), slice(16, 48), slice(63, 64)):
        part = random_crops(3, 5, positions, heights[positions], widths[positions])
        for edge in ("top", "left", "height", "width", "flip"):
            np.testing.assert_array_equal(getattr(part, edge), getattr(whole[positions], edge))
    for seed, step in ((4, 5), (3, 6)):
        other = random_crops(seed, step, slice(0, 64), heights, widths)
        assert np.mean(other.top == whole.top) < 0.3
        assert 0.2 < np.mean(other.flip == whole.flip) < 0.8


@pytest.mark.parametrize("case", ["32x32_48", "32x32_24", "50x37_24", "37x50_64", "8x21_24"])
@pytest.mark.parametrize("kind", ["eval", "crop"])
def test_resizing_equals_the_official_one(case: str, kind: str) -> None:
    golden = np.load(GOLDEN / "preprocess.npz")
    image, expected = golden[f"in_{case}"], golden[f"{kind}_{case}"]
    top, left, height, width = golden[f"box_{case}"] if kind == "crop" else (0, 0, *image.shape[:2])
    crops = Crops(*(np.array([edge]) for edge in (top, left, height, width)), flip=np.array([False]))
    batched = resize_crops(torch.from_numpy(image)[None], crops, len(expected))
    cut = torch.from_numpy(image[top : top + height, left : left + width].copy()).ravel()
    ragged = resize_cuts(cut, np.array([(height, width)]), torch.tensor([False]), len(expected))
    for result in (batched, ragged):
        assert np.abs(result[0].permute(1, 2, 0).numpy() - expected).max() <= 1e-5  # 5e-6 of the range [-1, 1]


def test_cuts_of_all_sizes_become_what_their_crops_become() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (16, 60, 45, 3), dtype=np.uint8)
    crops = random_crops(0, 0, slice(0, 16), np.full(16, 60), np.full(16, 45))
    boxes = np.stack([crops.top, crops.left, crops.height, crops.width], axis=1)
    cuts = [image[t : t + h, x : x + w].ravel() for image, (t, x, h, w) in zip(images, boxes, strict=True)]
    pixels, flip = torch.from_numpy(np.concatenate(cuts)), torch.from_numpy(crops.flip)
    ragged = resize_cuts(pixels, boxes[:, 2:], flip, 32)
    batched = resize_crops(torch.from_numpy(images), crops, 32)
    assert crops.flip.any()
    torch.testing.assert_close(ragged, batched, atol=1e-5, rtol=0)


@pytest.mark.parametrize("resize", [_resize_one_by_one, _resize_at_once])
def test_a_thinned_crop_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, resize: object) -> None:
    monkeypatch.setattr(crops_module, "_resize_in_one_kernel", resize)
    compiled, resolution = resize is _resize_at_once, 24
    sides = [(48, 48), (49, 48), (48, 49), (97, 200), (20, 1000), (1000, 20), (300, 301), (20, 20), (1, 5000)]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sides for _ in range(2)]
    sizes, flip = np.repeat(sides, 2, axis=0), torch.tensor([False, True] * len(sides))

    def resized(given: list[NDArray[np.uint8]]) -> Tensor:
        pixels = torch.from_numpy(np.concatenate([image.ravel() for image in given]))
        return resize_cuts(pixels, sizes, flip, resolution, compiled=compiled)

    kept = [thinned(image, resolution) for image in images]
    assert max(image.nbytes for image in kept) == most_bytes(resolution)
    assert [image.shape[:2] for image in kept[6:12:2]] == [(48, 48), (20, 48), (48, 20)]
    from_thinned = resized(kept)
    monkeypatch.setattr(crops_module, "kept_sides", lambda sizes, resolution: sizes)
    assert torch.equal(from_thinned, resized(images))


Cuts = tuple[Tensor, NDArray[np.int64], Tensor]


def cuts_of(count: int, seed: int) -> Cuts:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, (count, 2))
    pixels = rng.integers(0, 256, 3 * sizes.prod(1).sum(), dtype=np.uint8)
    return torch.from_numpy(pixels), sizes, torch.from_numpy(rng.random(count) < 0.5)


@pytest.fixture
def one_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(crops_module, "_resize_in_one_kernel", _OneKernel())
    torch._dynamo.reset()


@pytest.mark.usefixtures("one_kernel")
@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler for a CPU"),
            ],
        ),
    ],
)
def test_a_gpus_kernel_is_made_once_for_images_of_all_sizes(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    counters.clear()
    for count in (8, 8, 5, 3):
        cuts = cuts_of(count, seed=count)
        torch.testing.assert_close(resize_cuts(*cuts, 32, compiled=True), resize_cuts(*cuts, 32), atol=1e-6, rtol=0)
    assert counters["stats"]["unique_graphs"] == 1
    with torch.inference_mode():
        for count in (8, 4):
            resize_cuts(*cuts_of(count, seed=count), 32, compiled=True)
    assert counters["stats"]["unique_graphs"] == 2
    assert counters["inductor"]["fxgraph_cache_miss"] == (backend == "inductor")  # which an evaluation finds again
    assert len(list(tmp_path.glob("vit-*.made"))) == 2


@pytest.mark.usefixtures("one_kernel")
def test_images_are_resized_uncompiled_where_compiling_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def no_compiler(graph: object, inputs: object) -> None:
        raise OSError("no compiler\nis here")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=no_compiler))
    for seed in range(2):  # the way a GPU goes then; said once
        cuts = cuts_of(8, seed)
        torch.testing.assert_close(resize_cuts(*cuts, 32, compiled=True), resize_cuts(*cuts, 32), atol=1e-6, rtol=0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "images are resized uncompiled, which is slower: OSError: no compiler"
    assert not list(tmp_path.glob("vit-*.made"))


def test_a_whole_image_is_seen_to_its_borders_without_antialias() -> None:
    image = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    image[:, 1::2] = 255  # antialiasing would make it grey
    rows = resize_crops(image, whole_images(np.array([64]), np.array([64])), 64)[0, 0, :, 0]
    assert rows.tolist() == [-1.0, 1.0] * 32
    halved = resize_crops(image[:, :, :, :], whole_images(np.array([63]), np.array([64])), 21)[0, 0, :, 0]
    assert halved.tolist() == [1.0, -1.0] * 10 + [1.0]
