"""Pixels, in batches, on the device: inception crop, flip, resize without antialias, to [-1, 1].

The resize is two small matrix products per image, rows then columns. A bilinear weight is a hat function of the
distance between where an output pixel falls and an input pixel, so crop, flip and borders cost nothing extra, and
nothing outside the crop can leak in. Equal to the official resize to 5e-6 of the range.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vit_trainer.randomness import Stream, uniform

ASPECT_RATIOS = (3 / 4, 4 / 3)
AREAS = (0.05, 1.0)
MAX_ATTEMPTS = 100


@dataclass(frozen=True)
class Crops:
    """Which part of each image a batch sees, in pixels, and whether mirrored."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    flip: NDArray[np.bool_]

    def __getitem__(self, chosen: slice) -> "Crops":
        return Crops(self.top[chosen], self.left[chosen], self.height[chosen], self.width[chosen], self.flip[chosen])


def whole_images(heights: NDArray[np.int64], widths: NDArray[np.int64]) -> Crops:
    """What evaluation sees: everything, unmirrored. heights, widths: (batch,)."""
    zeros = np.zeros(len(heights), dtype=np.int64)
    return Crops(zeros, zeros, heights, widths, zeros.astype(bool))


def random_crops(
    seed: int, step: int, positions: slice, heights: NDArray[np.int64], widths: NDArray[np.int64]
) -> Crops:
    """The crops and flips at `positions` of a step: a function of (seed, step, position) and the image's size.

    Follows TensorFlow's sample_distorted_bounding_box (area in [5%, 100%], aspect ratio in [3/4, 4/3], up to 100
    attempts, else the whole image): the ratio is uniform, then the height among those whose area fits, so small
    crops are likelier than with torchvision's RandomResizedCrop. Like there, the last offset is never drawn.

    Args:
        positions: start and stop within the step's global batch.
        heights, widths: (batch,) sizes of the images at these positions.
    """
    count = positions.stop
    crops = whole_images(heights, widths)
    top, left, crop_height, crop_width = crops.top.copy(), crops.left.copy(), heights.copy(), widths.copy()
    still_open = np.arange(len(heights))
    for attempt in range(MAX_ATTEMPTS):
        draws = uniform(Stream.CROP, seed, step, attempt, 4 * count).reshape(count, 4)[positions][still_open]
        h, w, fits = _attempt(draws, heights[still_open], widths[still_open])
        done = still_open[fits]
        crop_height[done], crop_width[done] = h[fits], w[fits]
        top[done] = np.floor(draws[fits, 2] * np.maximum(heights[done] - h[fits], 1))
        left[done] = np.floor(draws[fits, 3] * np.maximum(widths[done] - w[fits], 1))
        still_open = still_open[~fits]
        if not len(still_open):
            break
    flip = (uniform(Stream.FLIP, seed, step, 0, count) < 0.5)[positions]
    return Crops(top, left, crop_height, crop_width, flip)


def _attempt(
    draws: NDArray[np.float64], heights: NDArray[np.int64], widths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """One attempt per image: (heights, widths, whether they satisfy the limits)."""
    ratio = ASPECT_RATIOS[0] + draws[:, 0] * (ASPECT_RATIOS[1] - ASPECT_RATIOS[0])
    smallest, largest = AREAS[0] * heights * widths, AREAS[1] * heights * widths
    low = np.rint(np.sqrt(smallest / ratio)).astype(np.int64)
    high = np.rint(np.sqrt(largest / ratio)).astype(np.int64)
    too_wide = np.rint(high * ratio) > widths
    high = np.where(too_wide, ((widths + 0.5 - 1e-7) / ratio).astype(np.int64), high)
    high -= too_wide & (np.rint(high * ratio) > widths)
    high = np.minimum(high, heights)
    low = np.minimum(low, high)
    h = low + np.floor(draws[:, 1] * (high - low + 1)).astype(np.int64)
    w = np.rint(h * ratio).astype(np.int64)
    h = h + (h * w < smallest)
    w = np.rint(h * ratio).astype(np.int64)
    h = h - (h * w > largest)
    w = np.rint(h * ratio).astype(np.int64)
    area = h * w
    return h, w, (area >= smallest) & (area <= largest) & (w <= widths) & (h <= heights) & (w > 0) & (h > 0)


def _weights(start: Tensor, length: Tensor, flip: Tensor | None, size: int, resolution: int) -> Tensor:
    """(batch, resolution, size): the share of each input pixel in each output pixel, along one axis."""
    out = torch.arange(resolution, dtype=torch.float32, device=start.device)
    length = length[:, None].float()
    place = ((out + 0.5) * (length / resolution) - 0.5).clamp(min=0.0)  # where it falls within the crop
    place = torch.minimum(place, length - 1)
    if flip is not None:
        place = torch.where(flip[:, None], place.flip(1), place)
    inside = torch.arange(size, dtype=torch.float32, device=start.device) - start[:, None].float()
    return (1 - (place[:, :, None] - inside[:, None, :]).abs()).clamp(min=0.0)


def resize_crops(images: Tensor, crops: Crops, resolution: int) -> Tensor:
    """Cut the crops out, mirror, resize bilinearly without antialias, and scale to [-1, 1].

    Args:
        images: (batch, height, width, 3) uint8, on the device where the work is to be done.
        crops: of the same images.
        resolution: R, in pixels.

    Returns:
        (batch, 3, R, R) float32.
    """
    device = images.device
    top, left, height, width = (
        torch.from_numpy(edge).to(device, non_blocking=True)
        for edge in (crops.top, crops.left, crops.height, crops.width)
    )
    flip = torch.from_numpy(crops.flip).to(device, non_blocking=True)
    rows = _weights(top, height, None, images.shape[1], resolution)
    columns = _weights(left, width, flip, images.shape[2], resolution)
    pixels = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.autocast(device.type, enabled=False):
        return rows[:, None] @ pixels @ columns.transpose(1, 2)[:, None]


def resize_cuts(pixels: Tensor, sizes: list[tuple[int, int]], flip: Tensor, resolution: int) -> Tensor:
    """What `resize_crops` does, for crops of different sizes that have been cut out before.

    One image at a time: on a CPU core, padding 64 of them to the largest took 5 to 9 times as long, gathering the
    pixels of all at once 2 to 4 times. Not measured on a GPU.

    Args:
        pixels: uint8, every crop's (height, width, 3) one after the other, on the device where the work is to be done.
        sizes: (height, width) of each crop in pixels.
        flip: (batch,) bool, on the same device.
        resolution: R, in pixels.

    Returns:
        (batch, 3, R, R) float32.
    """
    images = torch.empty(len(sizes), 3, resolution, resolution, device=pixels.device)
    cuts = pixels.split([3 * height * width for height, width in sizes])
    for image, cut, (height, width) in zip(images, cuts, sizes, strict=True):
        planes = cut.view(1, height, width, 3).permute(0, 3, 1, 2).float()
        image.copy_(F.interpolate(planes, size=(resolution, resolution), mode="bilinear", align_corners=False)[0])
    return torch.where(flip[:, None, None, None], images.flip(3), images).sub_(127.5).div_(127.5)
