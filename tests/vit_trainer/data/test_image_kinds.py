"""What becomes of each kind of image file that lies in a folder of one's own: pixels, or one line that says why not."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.decoding import LIMIT, decode_image, read_image
from vit_trainer.data.load import load_dataset
from vit_trainer.errors import DataError

COLOUR = Image.new("RGB", (48, 32), (200, 100, 50))
GREY = (124, 124, 124)
BLUE = Image.new("RGB", (48, 32), (0, 0, 255))
LEVEL = np.full((32, 48), 50_000)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


READ = {
    "cat.jpg": (encoded(COLOUR, "JPEG"), (200, 100, 50)),
    "cat.JPEG": (encoded(COLOUR, "JPEG", progressive=True), (200, 100, 50)),
    "cat.jfif": (encoded(COLOUR, "JPEG"), (200, 100, 50)),
    "cat.png": (encoded(COLOUR, "PNG"), (200, 100, 50)),
    "cat.bmp": (encoded(COLOUR, "BMP"), (200, 100, 50)),
    "cat.webp": (encoded(COLOUR, "WEBP", lossless=True), (200, 100, 50)),
    "cat.TIF": (encoded(COLOUR, "TIFF"), (200, 100, 50)),
    "packed.tiff": (encoded(COLOUR, "TIFF", compression="tiff_lzw"), (200, 100, 50)),
    "cat.avif": (encoded(COLOUR, "AVIF"), (200, 100, 50)),
    "cat.PPM": (encoded(COLOUR, "PPM"), (200, 100, 50)),
    "first of two.gif": (encoded(COLOUR, "GIF", save_all=True, append_images=[BLUE]), (200, 100, 50)),
    "first of two.webp": (encoded(COLOUR, "WEBP", save_all=True, append_images=[BLUE], lossless=True), (200, 100, 50)),
    "first of two.tif": (encoded(COLOUR, "TIFF", save_all=True, append_images=[BLUE]), (200, 100, 50)),
    "another kind inside.jpg": (encoded(COLOUR, "PNG"), (200, 100, 50)),
    "grey.jpg": (encoded(COLOUR.convert("L"), "JPEG"), GREY),
    "grey.pgm": (encoded(COLOUR.convert("L"), "PPM"), GREY),
    "two levels.png": (encoded(Image.new("1", (48, 32), 1), "PNG"), (255, 255, 255)),
    "two levels.pbm": (encoded(Image.new("1", (48, 32), 1), "PPM"), (255, 255, 255)),
    "grey, 16 bits.png": (encoded(Image.fromarray(LEVEL.astype(np.uint16)), "PNG"), (195, 195, 195)),
    "grey, 16 bits.tif": (encoded(Image.fromarray(LEVEL.astype(np.uint16)), "TIFF"), (195, 195, 195)),
    "grey, 16 bits.pgm": (encoded(Image.fromarray(LEVEL.astype(np.uint16)), "PPM"), (195, 195, 195)),
    "CMYK.jpg": (encoded(COLOUR.convert("CMYK"), "JPEG"), (200, 100, 50)),
    "CMYK.tif": (encoded(COLOUR.convert("CMYK"), "TIFF"), (200, 100, 50)),
    "palette.png": (encoded(COLOUR.quantize(), "PNG"), (200, 100, 50)),
    "palette, see-through.png": (encoded(COLOUR.quantize(), "PNG", transparency=b"\x00\x80"), (200, 100, 50)),
    "palette, see-through.gif": (encoded(COLOUR.quantize(), "GIF", transparency=0), (200, 100, 50)),
    "see-through.png": (encoded(Image.new("RGBA", (48, 32), (200, 100, 50, 0)), "PNG"), (200, 100, 50)),
    "see-through grey.png": (encoded(Image.new("LA", (48, 32), (124, 9)), "PNG"), GREY),
}
REFUSED = {
    "floats.tif": (encoded(Image.fromarray(LEVEL.astype(np.float32)), "TIFF"), "its pixels are floating-point numbers"),
    "32 bits.tif": (
        encoded(Image.fromarray(LEVEL.astype(np.int32)), "TIFF"),
        "its pixels are whole numbers of 32 bits",
    ),
    "signed.tif": (encoded(Image.fromarray(LEVEL.astype(np.int32)), "TIFF"), "its pixels are whole numbers of 32 bits"),
    "cut off.jpg": (encoded(COLOUR, "JPEG")[:-200], "Truncated File Read"),
    "empty.png": (b"", "not an image that Pillow knows"),
    "text.png": (b"<html>404 Not Found</html>", "not an image that Pillow knows"),
}


@pytest.mark.parametrize("name", READ)
def test_is_read(tmp_path: Path, name: str) -> None:
    content, colour = READ[name]
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / part).mkdir(parents=True)
        for i in range(2):
            (tmp_path / part / f"{i} {name}").write_bytes(content)
    assert find_class_folders(tmp_path).counts("train") == [2, 2]
    pixels = np.asarray(read_image(tmp_path / "train" / "a" / f"0 {name}")).astype(int)
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels - colour).max() <= 2


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line_with_its_path(tmp_path: Path, name: str) -> None:
    content, reason = REFUSED[name]
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / part).mkdir(parents=True)
        for i in range(2):
            (tmp_path / part / f"{i}.png").write_bytes(encoded(COLOUR, "PNG"))
    (tmp_path / "test" / "a" / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        list(batches(tmp_path))
    assert str(raised.value).startswith(f"cannot read image {tmp_path}/test/a/{name} ({reason}")
    assert "\n" not in str(raised.value)


def batches(dataset: str | Path) -> list[torch.Tensor]:
    test = load_dataset(str(dataset), num_workers=0, skip_unreadable=str(dataset) == "imagenet2012").test
    indices = np.arange(min(len(test), 8))
    found = test.evaluation_batches(indices, 8, resolution=32, device=torch.device("cpu"))
    return [images for images, _, _ in found]


def test_16_bits_are_scaled_not_clipped() -> None:
    levels = {}
    for level in (0, 3_000, 50_000, 65_535):
        image = Image.fromarray(np.full((4, 4), level, np.uint16))
        levels[level] = decode_image(encoded(image, "PNG")).getpixel((0, 0))
    assert levels == {0: (0,) * 3, 3_000: (12,) * 3, 50_000: (195,) * 3, 65_535: (255,) * 3}


def upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """By the EXIF standard: on which side of the picture the first row lies, and on which the first column."""
    turned = stored.swapaxes(0, 1) if orientation >= 5 else stored
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    stored = np.asarray(decode_image(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))))
    content = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(np.asarray(decode_image(content)), upright(stored, orientation))


def folder_of_photographs(root: Path, *, are_turned: bool) -> Path:
    """Photographs held sideways, with the words that say so in several places, or the same upright."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels if are_turned else upright(pixels, 6))
    exif, words = Image.Exif(), PngInfo()
    exif[ExifTags.Base.Orientation] = 6
    words.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    contents = [encoded(image, "PNG"), encoded(image, "PNG", exif=exif), encoded(image, "PNG", pnginfo=words)]
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (root / part).mkdir(parents=True)
        for i, content in enumerate(contents):
            (root / part / f"{i}.png").write_bytes(content if are_turned else contents[0])
        if not are_turned:
            Image.fromarray(pixels).save(root / part / "0.png")
    return root


def test_loading_turns_them_too(tmp_path: Path) -> None:
    turned, same = (folder_of_photographs(tmp_path / str(each), are_turned=each) for each in (True, False))
    for images, expected in zip(batches(turned), batches(same), strict=True):
        assert torch.equal(images, expected)


def test_imagenet_is_read_as_the_official_code_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes a turned photograph as it is stored; a few of ImageNet's say that they are."""
    monkeypatch.setenv("VIT_DATA", str(tmp_path))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    content, sideways = encoded(image, "JPEG"), encoded(image, "JPEG", exif=exif)
    for part in ("train", "val"):
        for i in range(1000):
            folder = tmp_path / "imagenet2012" / part / f"n{i:08}"
            folder.mkdir(parents=True)
            (folder / "0.JPEG").write_bytes(sideways if i % 2 else content)
    (images,) = batches("imagenet2012")
    assert torch.equal(images[0], images[1])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_says_nothing() -> None:
    content = encoded(COLOUR, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12broken")
    assert decode_image(content).size == COLOUR.size


def test_the_limit_on_pixels_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(DataError, match=f"20000 x 10000 are more than 178,956,970 pixels: .* by {LIMIT}=200000000 in"):
        decode_image(content)
    monkeypatch.setenv(LIMIT, "500")
    with pytest.raises(DataError, match="48 x 32 are more than 500 pixels"):
        decode_image(encoded(COLOUR, "PNG"))
    monkeypatch.setenv(LIMIT, "1e9")
    with pytest.raises(DataError, match=f"{LIMIT} is '1e9': give a number of pixels such as 178956970"):
        decode_image(encoded(COLOUR, "PNG"))
    monkeypatch.setenv(LIMIT, "1536")
    assert decode_image(encoded(COLOUR, "PNG")).size == COLOUR.size
