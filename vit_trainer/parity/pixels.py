"""Rungs of the input: pixels of whole images and crops, and how crops and flips are distributed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vit_trainer.data.crops import Crops, random_crops, resize_crops, whole_images
from vit_trainer.parity.golden import GoldenFolder
from vit_trainer.parity.rung import CPU, Rung, Setting, error_of, largest, matching, missing
from vit_trainer.weights.layouts import Arrays

NUM_CROPS = 100_000


def pixels(golden: GoldenFolder, setting: Setting = CPU) -> Iterator[Rung]:
    """Whole images and crops, resized and scaled to [-1, 1]."""
    arrays = golden.arrays("preprocess")
    if arrays is None:
        yield missing("pixels", "preprocess.npz")
        return
    whole, cropped = [], []
    for name, (height, width, resolution) in matching(arrays, r"in_(\d+)x(\d+)_(\d+)"):
        image, suffix = torch.from_numpy(arrays[name])[None].to(setting.device), name.removeprefix("in")
        everything = whole_images(np.array([int(height)]), np.array([int(width)]))
        resized = resize_crops(image, everything, int(resolution))[0].permute(1, 2, 0)
        whole.append(error_of(resized, arrays, f"eval{suffix}"))
        if f"box{suffix}" in arrays:
            top, left, box_height, box_width = arrays[f"box{suffix}"].astype(np.int64).reshape(4, 1)
            box = Crops(top, left, box_height, box_width, np.array([False]))
            resized = resize_crops(image, box, int(resolution))[0].permute(1, 2, 0)
            cropped.append(error_of(resized, arrays, f"crop{suffix}"))
    yield Rung("pixels: whole image", largest(whole), 1e-5)
    yield Rung("pixels: crop", largest(cropped), 1e-5)


def crops(golden: GoldenFolder) -> Iterator[Rung]:
    """The distribution of crops: Kolmogorov-Smirnov distances to the official quantiles, means, and flips."""
    arrays = golden.arrays("crop_stats")
    if arrays is None:
        yield missing("crops", "crop_stats.npz")
        return
    flips = []
    for _, (size, height, width) in matching(arrays, r"area_q_((\d+)x(\d+))"):
        sides = np.full(NUM_CROPS, int(height)), np.full(NUM_CROPS, int(width))
        drawn = random_crops(0, 0, slice(0, NUM_CROPS), *sides)
        values = {
            "area": drawn.height * drawn.width / (int(height) * int(width)),
            "aspect": drawn.width / drawn.height,
            "height": drawn.height,
        }
        distances = [
            _distance(values[kind], arrays, f"{kind}_q_{size}") for kind in values if f"{kind}_q_{size}" in arrays
        ]
        yield Rung(f"crops of {size} pixels: distance", largest(distances), 0.01)
        if f"mean_{size}" in arrays:
            means = [edge.mean() for edge in (drawn.top, drawn.left, drawn.height, drawn.width)]
            error = error_of(means, arrays, f"mean_{size}") / max(int(height), int(width))
            yield Rung(f"crops of {size} pixels: means", error, 0.005)
        flips.append(abs(float(drawn.flip.mean()) - 0.5))
    yield Rung("flips", largest(flips), 0.01)


def _distance(values: NDArray[Any], arrays: Arrays, name: str) -> float:
    """Largest gap between the cumulative distribution of `values` and evenly spaced quantiles of the official one.

    Where a quantile falls on a value that occurs often, the distribution jumps: no gap if it jumps across.
    """
    quantiles, values = arrays[name], np.sort(values)
    shares = np.linspace(0, 1, len(quantiles))[1:-1]
    slack = 1e-9 * np.abs(quantiles[1:-1])  # the two divide in different orders
    below = np.searchsorted(values, quantiles[1:-1] - slack, side="left") / len(values)
    up_to = np.searchsorted(values, quantiles[1:-1] + slack, side="right") / len(values)
    return float(np.maximum(below - shares, shares - up_to).clip(min=0).max())
