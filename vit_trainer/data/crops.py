"""Pixels, in batches, on the device: inception crop, flip, resize without antialias, to [-1, 1].

The resize is two small matrix products per image, rows then columns. A bilinear weight is a hat function of the
distance between where an output pixel falls and an input pixel, so crop, flip and borders cost nothing extra, and
nothing outside the crop can leak in. Equal to the official resize to 5e-6 of the range.

Without antialias no more than two rows and columns count per output pixel: of larger crops the others are left behind.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_trainer.data.randomness import Stream, uniform
from vit_trainer.errors import cause_of
from vit_trainer.kernels import made_once
from vit_trainer.machine import is_out_of_memory, to_device

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


class _Neighbours(NamedTuple):
    """Between which two pixels of a crop output pixels fall, along one axis: all (batch, resolution)."""

    lower: Tensor
    upper: Tensor
    share: Tensor
    """How much the upper one counts, float32 in [0, 1)."""

    def of(self, image: int) -> "_Neighbours":
        return _Neighbours(self.lower[image], self.upper[image], self.share[image])


def most_bytes(resolution: int) -> int:
    """What a crop takes at most once it is `thinned`."""
    return 3 * (2 * resolution) ** 2


def kept_sides(sides: NDArray[np.int64], resolution: int) -> NDArray[np.int64]:
    """What `thinned` leaves of crops: of sides (..., 2), their heights and widths.

    >>> kept_sides(np.array([(3000, 4000), (375, 500), (100, 10_000)]), 224).tolist()
    [[448, 448], [375, 500], [100, 448]]
    """
    most = 2 * resolution
    return np.where(sides.prod(-1, keepdims=True) > most**2, np.minimum(sides, most), sides)


def thinned(pixels: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Of a large crop's pixels (height, width, 3) those that `resize_cuts` looks at; a smaller one as it is."""
    sides = np.array(pixels.shape[:2])
    for axis, (side, kept) in enumerate(zip(sides, kept_sides(sides, resolution), strict=True)):
        if kept < side:
            near = _neighbours(torch.tensor([side]), None, resolution)
            pixels = pixels.take(torch.stack([near.lower[0], near.upper[0]], dim=1).flatten().numpy(), axis)
    return pixels


def _neighbours(length: Tensor, flip: Tensor | None, resolution: int, kept: Tensor | None = None) -> _Neighbours:
    """kept: (batch,) how many pixels of each crop `thinned` has left on this axis; all of them unless given."""
    # In float64: of a place some hundred pixels away, float32 has too few digits left for the fraction.
    out = torch.arange(resolution, dtype=torch.float64, device=length.device)
    place = ((out + 0.5) * (length[:, None].double() / resolution) - 0.5).clamp(min=0.0)
    place = torch.minimum(place, length[:, None] - 1.0)
    if flip is not None:
        place = torch.where(flip[:, None], place.flip(1), place)
    lower = place.floor()
    share = (place - lower).float()
    if kept is None:
        kept = length
    else:  # where a crop is thinned, both neighbours of output pixel i are its pixels 2i and 2i + 1
        pairs = 2 * out if flip is None else torch.where(flip[:, None], 2 * out.flip(0), 2 * out)
        lower = torch.where((kept < length)[:, None], pairs, lower)
    return _Neighbours(lower.long(), torch.minimum(lower.long() + 1, kept[:, None] - 1), share)


def _weights(start: Tensor, near: _Neighbours, size: int) -> Tensor:
    """(batch, resolution, size): the share of each input pixel in each output pixel, along one axis."""
    lower = (start[:, None] + near.lower).float()
    inside = torch.arange(size, dtype=torch.float32, device=start.device)
    return (1 - (lower[:, :, None] - inside + near.share[:, :, None]).abs()).clamp(min=0.0)


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
    top, left, height, width, flip = (
        to_device(values, device) for values in (crops.top, crops.left, crops.height, crops.width, crops.flip)
    )
    rows = _weights(top, _neighbours(height, None, resolution), images.shape[1])
    columns = _weights(left, _neighbours(width, flip, resolution), images.shape[2])
    pixels = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.autocast(device.type, enabled=False):
        return rows[:, None] @ pixels @ columns.transpose(1, 2)[:, None]


def resize_cuts(
    pixels: Tensor, sizes: NDArray[np.int64], flip: Tensor, resolution: int, *, compiled: bool = False
) -> Tensor:
    """What `resize_crops` does, for crops of different sizes that have been cut out before.

    Args:
        pixels: uint8, every crop's (height, width, 3), `thinned`, one after the other, on the device where the work is
            to be done.
        sizes: (batch, 2) height and width of each crop in pixels, before it was thinned.
        flip: (batch,) bool, on the same device.
        resolution: R, in pixels.
        compiled: in one kernel, which is made at the first call; equal but for rounding.

    Returns:
        (batch, 3, R, R) float32.
    """
    kept = kept_sides(sizes, resolution)
    counts = kept.prod(1)
    assert len(pixels) == 3 * counts.sum()
    numbers = to_device(np.stack([counts.cumsum() - counts, *sizes.T, *kept.T]), pixels.device)
    first, heights, widths, kept_heights, kept_widths = numbers
    rows = _neighbours(heights, None, resolution, kept_heights)
    columns = _neighbours(widths, flip, resolution, kept_widths)
    if pixels.device.type == "cpu" and not compiled:
        return _resize_one_by_one(pixels, kept.tolist(), rows, columns)
    resize = _resize_in_one_kernel if compiled else _resize_at_once
    return resize(pixels.view(-1, 3), first, kept_widths, rows, columns)


def _resize_one_by_one(pixels: Tensor, sizes: list[tuple[int, int]], rows: _Neighbours, columns: _Neighbours) -> Tensor:
    """`resize_cuts` on a CPU, where crops padded to the largest, or all at once, took several times as long."""
    resolution = rows.lower.shape[1]
    images = torch.empty(len(sizes), 3, resolution, resolution)
    cuts = pixels.split([3 * height * width for height, width in sizes])
    for out, i, cut, (height, width) in zip(images, range(len(sizes)), cuts, sizes, strict=True):
        y, x = rows.of(i), columns.of(i)
        planes = cut.view(height, width, 3).permute(2, 0, 1).reshape(3 * height, width).float().sub_(127.5).div_(127.5)
        wide = planes.index_select(1, x.lower).lerp_(planes.index_select(1, x.upper), x.share)
        wide = wide.view(3, height, resolution)
        torch.index_select(wide, 1, y.lower, out=out)
        out.lerp_(wide.index_select(1, y.upper), y.share[:, None])
    return images


def _resize_at_once(pixels: Tensor, first: Tensor, widths: Tensor, rows: _Neighbours, columns: _Neighbours) -> Tensor:
    """`resize_cuts` on a GPU, which many small kernels would leave idle: four gathers from all crops' pixels.

    pixels: (number of pixels, 3); first: (batch,) the place of each crop's first one.
    """
    index = torch.int32 if pixels.numel() < 2**31 else torch.int64

    def pixels_at(y: Tensor, x: Tensor) -> Tensor:
        rows = first.to(index)[:, None] + y.to(index) * widths.to(index)[:, None]
        return pixels[rows[:, :, None] + x.to(index)[:, None, :]].float()

    x_share, y_share = columns.share[:, None, :, None], rows.share[:, :, None, None]
    above = torch.lerp(pixels_at(rows.lower, columns.lower), pixels_at(rows.lower, columns.upper), x_share)
    below = torch.lerp(pixels_at(rows.upper, columns.lower), pixels_at(rows.upper, columns.upper), x_share)
    images = torch.lerp(above, below, y_share).sub_(127.5).div_(127.5)
    return images.permute(0, 3, 1, 2).contiguous()


class _OneKernel:
    """`_resize_at_once`, compiled for any number of pixels and images; as it is, after a line, where that fails."""

    def __init__(self) -> None:
        self._compiled: Callable[..., Tensor] | None = None
        self._known: set[object] = set()
        self._failed = False

    def __call__(
        self, pixels: Tensor, first: Tensor, widths: Tensor, rows: _Neighbours, columns: _Neighbours
    ) -> Tensor:
        if self._failed:
            return _resize_at_once(pixels, first, widths, rows, columns)
        self._compiled = self._compiled or torch.compile(_resize_at_once)
        for tensor in (pixels, first, widths, *rows, *columns):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        kind = (rows.share.shape[1], len(first) == 1, torch.is_inference_mode_enabled(), pixels.device.type)
        try:
            with nullcontext() if kind in self._known else made_once(f"resize {kind}"):
                images = self._compiled(pixels, first, widths, rows, columns)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            cause = cause_of(getattr(error, "inner_exception", error))  # of what Dynamo wraps, the wrapping says little
            print(f"images are resized uncompiled, which is slower: {cause}", file=sys.stderr)
            self._failed = True
            return _resize_at_once(pixels, first, widths, rows, columns)
        self._known.add(kind)
        return images


_resize_in_one_kernel = _OneKernel()
