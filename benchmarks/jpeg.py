"""How fast do JPEG files become a training batch on one CPU core, against PIL and torchvision's transforms?

Ours twice: as on a GPU, where workers only decode and cut and the GPU resizes what they give; and as on a CPU, where
the batch is resized there too.

Command: python benchmarks/jpeg.py
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.crop import AREA, RATIO, in_turn
from benchmarks.provenance import machine, write_json
from vit_trainer.command_line import new_app, run
from vit_trainer.errors import InputError

app = new_app("Measures the way from JPEG files to a batch.", name="jpeg.py")

LEAST_OVER_PIL = 2.2
WIDTH, HEIGHT, QUALITY = 500, 375, 95
"""ImageNet's usual size; with this quality the files are about as large as its own."""


@app.default
def jpeg(
    *,
    num_images: int = 64,
    resolutions: tuple[int, ...] = (224, 384),
    repeats: int = 9,
    folder: Path | None = None,
    json: Path | None = None,
) -> int:
    """Read the same files with each in turn, in one process with one thread.

    Args:
        num_images: in a batch, at least 2.
        resolutions: sides of the crops in pixels.
        repeats: the median counts.
        folder: of JPEG files of one's own, such as a class of ImageNet; made-up ones unless given.
        json: where to write the figures.
    """
    if num_images < 2:
        raise InputError(f"num_images {num_images} is below 2: give a whole number of at least 2")
    if repeats < 1:
        raise InputError(f"repeats {repeats} is below 1: give a whole number of at least 1")
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(highlight=False)
    console.print(machine())
    figures = {}
    with tempfile.TemporaryDirectory() as made_up:
        paths = sorted(folder.iterdir())[:num_images] if folder else write_images(Path(made_up), num_images)
        if not paths:
            raise InputError(f"there are no files in {folder}: give a folder of JPEG files")
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        console.print(f"{len(paths)} files of {kilobytes:.0f} kB on average")
        for resolution in resolutions:
            seconds = in_turn(readers(paths, resolution), repeats)
            figures[resolution] = seconds
            title, target = f"A batch at {resolution} px", ("ours", f"at least {LEAST_OVER_PIL}")
            console.print(speeds(title, "PIL + torchvision", seconds, len(paths), target))
    if json is not None:
        write_json(json, {"kilobytes": kilobytes, "load": os.getloadavg()[0], "seconds": figures})
    return 0


def write_images(folder: Path, num_images: int) -> list[Path]:
    """JPEG files of noise that is the stronger the coarser it is, as in photographs."""
    paths = []
    for i in range(num_images):
        draw = np.random.default_rng(i)
        pixels = np.zeros((HEIGHT, WIDTH, 3))
        for side, weight in ((4, 0.5), (16, 0.25), (64, 0.15), (HEIGHT, 0.1)):
            noise = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
            pixels += weight * np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float64)
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1], quality=QUALITY)
    return paths


def readers(paths: list[Path], resolution: int) -> dict[str, Callable[[int], object]]:
    """Each reads all files once, with crops of its own for each step."""
    import torch
    from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor, v2

    from vit_trainer.data.image_files import CutReader, ImageFileSplit
    from vit_trainer.data.shards.reading import Files
    from vit_trainer.data.splits import MicroBatch

    root, count = paths[0].parent, len(paths)
    names, labels = np.array([os.fsencode(path.name) for path in paths]), np.zeros(count, dtype=np.int64)
    reader = CutReader(Files(root, names), count, seed=0, resolution=resolution, replaces=False)
    split = ImageFileSplit(root, names, labels, num_workers=0)
    cpu = torch.device("cpu")

    def request(step: int) -> MicroBatch:
        return MicroBatch(step, slice(0, count), np.arange(count))

    crop = {"scale": AREA, "ratio": RATIO}
    on_images = Compose(
        [RandomResizedCrop(resolution, **crop), RandomHorizontalFlip(), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)]
    )
    on_tensors = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(resolution, antialias=False, **crop),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )

    def read(transform: Callable[[Image.Image], torch.Tensor]) -> torch.Tensor:
        return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])

    return {
        "PIL + torchvision": lambda step: read(on_images),
        "PIL + torchvision v2, uint8 tensors": lambda step: read(on_tensors),
        "ours, resized here": lambda step: next(
            split.train_batches([request(step)], seed=0, resolution=resolution, device=cpu)
        ),
        "ours, ready for a GPU that resizes": lambda step: reader[request(step)],
    }


def speeds(
    title: str, baseline: str, seconds: dict[str, list[float]], num_images: int, target: tuple[str, str]
) -> Table:
    """A table of images per second.

    Args:
        baseline: a key of `seconds`, whose speed the others' are divided by.
        seconds: of each, as `in_turn` gives them.
        num_images: that each call is about.
        target: for those whose names begin with the first, the second.
    """
    table = Table(title=title, title_justify="left")
    for name in ("", "images/s", f"speed / {baseline}", "target"):
        table.add_column(name, justify="left" if name in ("", "target") else "right")
    for name, values in seconds.items():
        ratio = median(other / own for own, other in zip(values, seconds[baseline], strict=True))
        text = target[1] if name.startswith(target[0]) else ""
        table.add_row(name, f"{num_images / median(values):.0f}", f"{ratio:.2f}", text)
    return table


if __name__ == "__main__":
    run(app)
