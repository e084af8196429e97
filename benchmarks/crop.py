"""How fast is our batched crop, against kornia and torchvision sample by sample, and how exact?

From uint8 images in memory to a batch of float32 in [-1, 1]: random crop, flip, bilinear resize without antialias.

Command: python benchmarks/crop.py
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.provenance import machine, write_json
from vit_trainer.command_line import new_app, run
from vit_trainer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

app = new_app("Measures the batched crop.", name="crop.py")

AREA, RATIO = (0.05, 1.0), (3 / 4, 4 / 3)
LEAST_OVER_KORNIA, MOST_GREY_LEVELS = 1.5, 1e-3
Crop = Callable[["Tensor", int], "Tensor"]
"""From images (batch, height, width, 3) uint8 and the number of the step to (batch, 3, R, R) float32."""


@app.default
def crop(
    *,
    batch_size: int = 64,
    side: int = 32,
    resolutions: tuple[int, ...] = (224, 384),
    repeats: int = 20,
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    json: Path | None = None,
) -> int:
    """Crop the same images with each in turn.

    Args:
        batch_size: images.
        side: of the images in pixels; CIFAR's unless given.
        resolutions: sides of the crops in pixels.
        repeats: the median counts.
        threads: of PyTorch.
        device: where the images lie and are cropped.
        json: where to write the figures.
    """
    for name, value in (("batch_size", batch_size), ("repeats", repeats), ("threads", threads), ("side", side)):
        if value < 1:
            raise InputError(f"{name} {value} is below 1: give a whole number of at least 1")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: PyTorch sees no GPU here: give --device cpu")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8).to(device)
    console = Console(highlight=False)
    console.print(machine())
    figures = {}
    for resolution in resolutions:
        crops = {"ours": ours(resolution), "kornia": kornia_(resolution), "torchvision v2": torchvision_(resolution)}
        seconds = in_turn({name: _call(crop, images) for name, crop in crops.items()}, repeats)
        error = grey_levels(images, resolution)
        figures[resolution] = {"seconds": seconds, "grey_levels": error}
        console.print(_table(resolution, batch_size, seconds))
        console.print(f"Largest error: {error:.1e} of a grey level; at most {MOST_GREY_LEVELS:.0e} is the target.")
    if json is not None:
        size = {"batch_size": batch_size, "side": side, "threads": threads, "device": device}
        write_json(json, {**size, "load": os.getloadavg()[0], "resolutions": figures})
    return 0


def _call(crop: Crop, images: "Tensor") -> Callable[[int], object]:
    import torch

    def call(step: int) -> None:
        crop(images, step)
        if images.is_cuda:
            torch.cuda.synchronize()

    return call


def in_turn(calls: dict[str, Callable[[int], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, which gets the number of the repeat; a first round isn't counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call(repeat)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ours(resolution: int) -> Crop:
    """Crops as `InMemorySplit` makes them."""
    from vit_trainer.data.crops import random_crops, resize_crops

    def crop(images: "Tensor", step: int) -> "Tensor":
        heights, widths = (np.full(len(images), side) for side in images.shape[1:3])
        return resize_crops(images, random_crops(0, step, slice(0, len(images)), heights, widths), resolution)

    return crop


def kornia_(resolution: int) -> Crop:
    """kornia's own RandomResizedCrop on the batch, other crops for each image."""
    try:
        from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip, RandomResizedCrop
    except ImportError as error:
        raise InputError("kornia isn't installed: pip install -e '.[benchmark]'") from error
    size = (resolution, resolution)
    augment = AugmentationSequential(
        RandomResizedCrop(size, scale=AREA, ratio=RATIO, align_corners=False, cropping_mode="slice"),
        RandomHorizontalFlip(),
    )

    def crop(images: "Tensor", step: int) -> "Tensor":
        cropped: Tensor = augment(images.permute(0, 3, 1, 2).float())
        return cropped.sub_(127.5).div_(127.5)

    return crop


def torchvision_(resolution: int) -> Crop:
    """torchvision's transforms on one image after the other, since they give a whole batch the same crop."""
    import torch
    from torchvision.transforms import v2

    augment = v2.Compose(
        [
            v2.RandomResizedCrop(resolution, scale=AREA, ratio=RATIO, antialias=False),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return lambda images, step: torch.stack([augment(image) for image in images.permute(0, 3, 1, 2)])


def grey_levels(images: "Tensor", resolution: int) -> float:
    """Largest difference of ours from torchvision's resized_crop on float64, in 1/255 of the range."""
    from torchvision.transforms.v2.functional import resized_crop

    from vit_trainer.data.crops import random_crops, resize_crops

    heights, widths = (np.full(len(images), side) for side in images.shape[1:3])
    crops = random_crops(0, 0, slice(0, len(images)), heights, widths)
    result = resize_crops(images, crops, resolution).double() * 127.5 + 127.5
    largest = 0.0
    for i, image in enumerate(images.permute(0, 3, 1, 2).double()):
        box = [int(edge[i]) for edge in (crops.top, crops.left, crops.height, crops.width)]
        expected = resized_crop(image, *box, [resolution, resolution], antialias=False)
        expected = expected.flip(2) if crops.flip[i] else expected
        largest = max(largest, float((result[i] - expected).abs().max()))
    return largest


def _table(resolution: int, batch_size: int, seconds: dict[str, list[float]]) -> Table:
    table = Table(title=f"Crops at {resolution} px", title_justify="left")
    for name in ("", "images/s", "ours / this", "target"):
        table.add_column(name, justify="left" if name in ("", "target") else "right")
    for name, values in seconds.items():
        ratio = median(other / own for other, own in zip(values, seconds["ours"], strict=True))
        target = f"at least {LEAST_OVER_KORNIA}" if name == "kornia" else ""
        table.add_row(name, f"{batch_size / median(values):.0f}", f"{ratio:.2f}", target)
    return table


if __name__ == "__main__":
    run(app)
