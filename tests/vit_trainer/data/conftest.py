"""Small folders of classes with every kind of image file that ImageNet has."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("n01440764", "n02105855", "n03000247")


def picture(seed: int, height: int, width: int) -> Image.Image:
    """A smooth random image: JPEG keeps what it looks like."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_image(path: Path, seed: int) -> None:
    """A JPEG of an odd size. Of every twelve, one each is grey, CMYK, progressive, and a PNG in spite of its name."""
    image = picture(seed, 17 + 13 * (seed % 5), 23 + 11 * (seed % 7))
    match seed % 12:
        case 1:
            image.convert("L").save(path, "JPEG")
        case 3:
            image.convert("CMYK").save(path, "JPEG")
        case 5:
            image.save(path, "JPEG", progressive=True, quality=60)
        case 7:
            image.save(path, "PNG")
        case _:
            image.save(path, "JPEG", quality=90, subsampling=2 * (seed % 2))


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a folder of classes: 12 images per class in train, 5 in each other part."""

    def write(
        name: str = "pets", parts: tuple[str, ...] = ("train", "val"), classes: tuple[str, ...] = CLASSES
    ) -> Path:
        seed = 0
        for part in parts:
            for label in classes:
                folder = tmp_path / name / part / label
                folder.mkdir(parents=True)
                for i in range(12 if part == "train" else 5):
                    write_image(folder / f"{label}_{i}.JPEG", seed)
                    seed += 1
        return tmp_path / name

    return write
