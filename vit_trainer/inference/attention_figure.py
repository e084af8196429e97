"""A picture of a model's attention on one image. Draws, and knows nothing of files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from vit_trainer.inference.attention import Attended, attend, on_grid, rollout
from vit_trainer.inference.classifier import Classifier, top

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, BAR = "#24292f", "#57606a", "#0072b2"
COLOURS = "OrRd"
"""From light orange to dark red: more is always darker, also for the colour-blind."""
PALEST, OPACITY = 0.6, 0.92
"""Where attention is zero the image shows in grey, black as PALEST; where it is largest, the colour with OPACITY."""
DPI = 100
MIN_CELL, MAX_CELL, MIN_WIDTH = 0.8, 1.9, 7.4
"""Inches: side of a head's picture, and the least width of all."""
PANEL, HEADER, LEFT, RIGHT, BOTTOM = 1.9, 3.4, 0.75, 0.2, 0.2
"""Inches: side of the pictures at the top, their part of the page, and margins."""
GAP = 4
"""Pixels between pictures of heads."""
MAX_TITLE, MAX_NAME = 80, 30
"""Characters that are shown."""


@dataclass(frozen=True)
class Subject:
    """What the picture shows."""

    title: str
    image: Tensor
    """(3, R, R) in [-1, 1], as the model saw it."""
    covered: int
    """Side in pixels of the part that the patches cover, from the top left: 378 of 384 for ViT-H_14."""
    attended: Attended
    top: Sequence[tuple[str, float]]
    """Names and probabilities of the most probable classes; none where the weights have no head."""


def draw(classifier: Classifier, image: Image, names: tuple[str, ...], title: str) -> bytes:
    """A PNG of what a model makes of an image; names: of its classes, none where its head means nothing."""
    seen = classifier.input_of(image)
    attended = attend(classifier.model, seen)
    probabilities = attended.logits.double().softmax(0)
    best = top(probabilities, names) if names else []
    return png(Subject(title, seen[0], classifier.covered, attended, best))


def png(subject: Subject) -> bytes:
    """Image, rollout and predictions above a grid of the class token's attention: a row per layer, a column per head.

    Each picture is scaled from zero to its own largest value; the number in it is what the class token takes of the
    patches together, the rest it takes of itself.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    num_layers, num_heads = subject.attended.maps.shape[:2]
    cell = min(max(MIN_CELL, MIN_WIDTH / num_heads), MAX_CELL)
    width = LEFT + max(MIN_WIDTH, num_heads * cell) + RIGHT
    height = HEADER + num_layers * cell + BOTTOM
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    settings: dict[str, object] = {"font.size": 9, "axes.titlesize": 9, "text.parse_math": False, **colours}
    with rc_context(settings):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), dpi=DPI)
        figure.text(
            LEFT / width, 1 - 0.2 / height, _short(subject.title, MAX_TITLE), va="top", fontsize=11, weight="bold"
        )
        _draw_header(figure, subject)
        box = (LEFT / width, BOTTOM / height, num_heads * cell / width, num_layers * cell / height)
        _draw_heads(figure.add_axes(box), subject, round(cell * DPI))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def _draw_header(figure: "Figure", subject: Subject) -> None:
    from matplotlib.cm import ScalarMappable

    width, height = figure.get_size_inches()

    def panel(left: float, title: str, panel_width: float = PANEL) -> "Axes":
        bottom = height - 0.75 - PANEL
        axes = figure.add_axes((left / width, bottom / height, panel_width / width, PANEL / height))
        axes.set_title(title, loc="left")
        return axes

    whole = panel(LEFT, "what the model sees")
    whole.imshow(_rgb(subject.image))
    whole.set_axis_off()
    flow = on_grid(rollout(subject.attended.maps)[:1])
    rolled = panel(LEFT + PANEL + 0.3, "attention rollout, all layers")
    rolled.imshow(_overlays(subject, flow, round(PANEL * DPI))[0])
    rolled.set_axis_off()
    bar = figure.add_axes(
        ((LEFT + PANEL + 0.3) / width, (height - 0.75 - PANEL - 0.13) / height, PANEL / width, 0.08 / height)
    )
    figure.colorbar(ScalarMappable(cmap=COLOURS), cax=bar, orientation="horizontal", ticks=[0, 1])
    bar.set_xticklabels(["0", "the picture's maximum"], fontsize=7)
    first, last = bar.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    bar.tick_params(length=0, pad=2)
    _draw_predictions(panel(LEFT + 2 * PANEL + 0.6, "predictions", 2.8), subject.top)


def _draw_predictions(axes: "Axes", top: Sequence[tuple[str, float]]) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(5, 0)
    if not top:
        axes.text(0, 0.4, "none: these weights have no head", color=GREY)
    for place, (name, probability) in enumerate(top):
        axes.text(0, place + 0.3, _short(name, MAX_NAME), va="center")
        axes.text(1, place + 0.3, f"{100 * probability:.1f}%", va="center", ha="right")
        axes.barh(place + 0.68, 1, height=0.16, color="#eaeef2")
        axes.barh(place + 0.68, probability, height=0.16, color=BAR)


def _draw_heads(axes: "Axes", subject: Subject, side: int) -> None:
    """The grid as one image, which is a hundred times faster than axes per head; `side`: pixels of a picture."""
    maps = subject.attended.class_maps().cpu()
    num_layers, num_heads, grid, _ = maps.shape
    canvas = np.ones((num_layers, side, num_heads, side, 3), dtype=np.float32)
    inside = slice(GAP // 2, side - GAP // 2)
    pictures = _overlays(subject, maps.reshape(-1, grid, grid), inside.stop - inside.start)
    canvas[:, inside, :, inside] = pictures.reshape(num_layers, num_heads, *pictures.shape[1:]).swapaxes(1, 2)
    axes.imshow(canvas.reshape(num_layers * side, num_heads * side, 3), interpolation="nearest", aspect="auto")
    for (layer, head), share in np.ndenumerate(maps.sum((2, 3)).numpy()):
        axes.text(
            (head + 0.07) * side,
            (layer + 0.07) * side,
            f"{100 * share:.0f}%",
            color="white",
            fontsize=6 if side < 120 else 8,
            va="top",
            bbox={"facecolor": "black", "alpha": 0.45, "linewidth": 0, "pad": 1.2},
        )
    axes.set_xticks([(head + 0.5) * side for head in range(num_heads)], [f"{i + 1}" for i in range(num_heads)])
    axes.set_yticks([(layer + 0.5) * side for layer in range(num_layers)], [f"{i + 1}" for i in range(num_layers)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("layer")
    axes.set_title("head: where its class token looks, and how much of its attention goes to the patches", loc="left")


def _overlays(subject: Subject, maps: Tensor, side: int) -> NDArray[np.float32]:
    """Values of patches (count, grid, grid) as colours over the grey image: (count, side, side, 3) in [0, 1].

    What the patches don't cover stays grey.
    """
    from matplotlib import colormaps

    grey = PALEST + (1 - PALEST) * _resized((subject.image.float().mean(0, keepdim=True).cpu() + 1) / 2, side)
    pictures = np.tile(grey[..., None], (len(maps), 1, 1, 3))
    covered = round(side * subject.covered / subject.image.shape[-1])
    scaled = _resized((maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-30)).float().cpu(), covered)
    colours = colormaps[COLOURS](scaled)[..., :3].astype(np.float32)
    opacity = OPACITY * np.sqrt(scaled)[..., None]
    pictures[:, :covered, :covered] += opacity * (colours - pictures[:, :covered, :covered])
    return (np.round(64 * pictures) / 64).astype(np.float32)  # looks the same, and the file is 40% smaller


def _resized(planes: Tensor, side: int) -> NDArray[np.float32]:
    """(count, height, width) -> (count, side, side) in [0, 1]."""
    resized = F.interpolate(planes[None], size=(side, side), mode="bicubic", antialias=True)[0]
    array: NDArray[np.float32] = resized.clamp(0, 1).numpy()
    return array


def _rgb(image: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = ((image.float().cpu().permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy()
    return array


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
