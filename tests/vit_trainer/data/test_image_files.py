"""Images in files: the same batches however the work is divided, and what happens to those that can't be read."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vit_trainer.data import image_files
from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.crops import most_bytes, random_crops, resize_crops, whole_images
from vit_trainer.data.decoding import read_image
from vit_trainer.data.families import folder
from vit_trainer.data.image_files import CutReader, Cuts, ImageFileSplit
from vit_trainer.data.randomness import image_order
from vit_trainer.data.splits import InMemorySplit, MicroBatch
from vit_trainer.errors import DataError
from vit_trainer.evaluate import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # with more workers than cores
Write = Callable[..., Path]
CPU = torch.device("cpu")
STEP_SIZE = 24


def steps(num_steps: int, micro_batch_size: int, num_images: int, first: int = 0) -> Iterator[MicroBatch]:
    for step in range(first, num_steps):
        order = image_order(7, step * STEP_SIZE, STEP_SIZE, num_images)
        for start in range(0, STEP_SIZE, micro_batch_size):
            yield MicroBatch(step, slice(start, start + micro_batch_size), order[start : start + micro_batch_size])


def trained_on(split: ImageFileSplit, micro_batch_size: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Everything that two steps see, in order."""
    batches = list(
        split.train_batches(steps(2, micro_batch_size, len(split), first), seed=7, resolution=16, device=CPU)
    )
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def evaluated(split: ImageFileSplit, batch_size: int = 4) -> tuple[Tensor, Tensor]:
    indices = np.arange(len(split))
    batches = list(split.evaluation_batches(indices, batch_size, resolution=16, device=CPU))
    return torch.cat([images for images, _, _ in batches]), torch.cat([labels for _, labels, _ in batches])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


FEW = 7 * 2 * most_bytes(16)
"""Bytes with which requests are read in parts of up to seven images."""


def test_batches_do_not_depend_on_workers_or_micro_batches(
    image_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder()
    random_state = torch.get_rng_state()
    expected = trained_on(folder.load(str(root), num_workers=0).train, STEP_SIZE)
    monkeypatch.setattr(image_files, "WORKER_BYTES", FEW)
    for num_workers, micro_batch_size in ((0, 6), (1, STEP_SIZE), (2, 8)):
        images, labels = trained_on(folder.load(str(root), num_workers=num_workers).train, micro_batch_size)
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])
    resumed, _ = trained_on(folder.load(str(root), num_workers=1).train, 8, first=1)
    assert torch.equal(resumed, expected[0][STEP_SIZE:])
    assert torch.equal(torch.get_rng_state(), random_state)


def test_evaluation_does_not_depend_on_workers_or_batch_size(
    image_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder()
    images, labels = evaluated(folder.load(str(root), num_workers=0).test, 15)
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    monkeypatch.setattr(image_files, "WORKER_BYTES", FEW)
    for num_workers, batch_size in ((0, 4), (2, 8)):
        again, again_labels = evaluated(folder.load(str(root), num_workers=num_workers).test, batch_size)
        assert torch.equal(images, again)
        assert torch.equal(labels, again_labels)


def test_what_workers_hand_over_has_a_bound_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images of 60 times as many bytes as their results."""
    given: list[int] = []

    class Recorded(CutReader):
        def __getitem__(self, request: MicroBatch) -> Cuts:
            cuts = super().__getitem__(request)
            given.append(cuts.pixels.nbytes)
            return cuts

    monkeypatch.setattr(image_files, "CutReader", Recorded)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 240, 250, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png", compress_level=1)
    split = ImageFileSplit(tmp_path, np.array([b"%d.png" % i for i in range(10)]), np.arange(10), num_workers=0)
    expected = resize_crops(torch.from_numpy(pixels), whole_images(np.full(10, 240), np.full(10, 250)), 16)
    monkeypatch.setattr(image_files, "WORKER_BYTES", 4 * 2 * most_bytes(16))
    torch.testing.assert_close(evaluated(split, 10)[0], expected, atol=1e-5, rtol=0)
    assert given == [4 * most_bytes(16), 3 * most_bytes(16), 3 * most_bytes(16)]
    given.clear()
    trained_on(split, STEP_SIZE)
    assert len(given) == 2 * 6
    assert max(given) <= 4 * most_bytes(16)


def test_training_sees_the_crop_of_its_seed_step_and_position(image_folder: Write) -> None:
    root = image_folder()
    split = folder.load(str(root), num_workers=0, skip_unreadable=False).train
    paths = split.names
    images, _ = trained_on(split, 8)
    for step, position in ((0, 0), (0, 17), (1, 5)):
        index = image_order(7, step * STEP_SIZE, STEP_SIZE, len(split))[position]
        pixels = np.asarray(Image.open(root / paths[index].decode()).convert("RGB"))
        size = np.array([pixels.shape[0]]), np.array([pixels.shape[1]])
        crops = random_crops(7, step, slice(position, position + 1), *size)
        expected = resize_crops(torch.from_numpy(pixels.copy())[None], crops, 16)[0]
        torch.testing.assert_close(images[step * STEP_SIZE + position], expected, atol=1e-5, rtol=0)


def test_files_and_memory_give_the_same_batches(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 20, 30, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    labels: NDArray[np.int64] = np.arange(48)
    paths = np.array([f"{i:02}.png".encode() for i in range(48)])
    batches = [
        list(split.train_batches(steps(2, 8, 48), seed=3, resolution=16, device=CPU))
        for split in (ImageFileSplit(tmp_path, paths, labels, num_workers=0), InMemorySplit(pixels, labels))
    ]
    for (from_files, file_labels), (from_memory, memory_labels) in zip(*batches, strict=True):
        torch.testing.assert_close(from_files, from_memory, atol=1e-5, rtol=0)
        assert torch.equal(file_labels, memory_labels)


@pytest.mark.parametrize("seed", range(12))
def test_every_kind_of_file_is_decoded_as_pillow_does(image_folder: Write, seed: int) -> None:
    root = image_folder()
    path = root / find_class_folders(root).paths("train")[:1][0]
    path = path.with_name(f"n01440764_{seed}.JPEG")
    with Image.open(path) as image:
        kinds = {1: ("JPEG", "L"), 3: ("JPEG", "CMYK"), 7: ("PNG", "RGB")}
        assert (image.format, image.mode) == kinds.get(seed, ("JPEG", "RGB"))
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(read_image(path)), expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_is_named_and_ends_the_run(image_folder: Write, num_workers: int) -> None:
    root = image_folder()
    bad = root / "val" / "n02105855" / "n02105855_2.JPEG"
    truncate(bad)
    (root / "val" / "n03000247" / "n03000247_1.JPEG").write_bytes(b"")
    split = folder.load(str(root), num_workers=num_workers).test
    with pytest.raises(DataError) as raised:
        evaluated(split, 15)
    message = str(raised.value)
    assert message.startswith(f"cannot read image {bad} (")
    assert "and 1 others of its batch: replace it, or give --skip-unreadable" in message
    assert "\n" not in message


def test_a_skipped_image_is_left_out_of_evaluation(image_folder: Write, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder()
    whole, _ = evaluated(folder.load(str(root), num_workers=0).test)
    bad = [root / "val" / "n02105855" / f"n02105855_{i}.JPEG" for i in range(4)]
    for path in bad:
        truncate(path)
    split = folder.load(str(root), num_workers=1, skip_unreadable=True).test
    for _ in range(2):
        images, labels = evaluated(split, 2)  # one batch is empty
    assert labels.tolist() == [0] * 5 + [1] + [2] * 5
    batches = split.evaluation_batches(np.arange(len(split)), 2, resolution=16, device=CPU)
    assert [place for *_, places in batches for place in places] == [*range(5), *range(9, 15)]
    assert torch.equal(images, torch.cat([whole[:5], whole[9:]]))
    assert list(split.unreadable) == [str(path) for path in bad]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert len(lines) == 4
    assert lines[3].startswith(f"skipped unreadable image {bad[3]} (")
    assert lines[3].endswith("): 4 so far")


def test_a_skipped_training_image_is_replaced_by_the_next(image_folder: Write) -> None:
    root = image_folder()
    before = folder.load(str(root), num_workers=0).train
    paths = [path.decode() for path in before.names]
    for place in (4, 5, len(paths) - 1):
        truncate(root / paths[place])
    results = [
        trained_on(folder.load(str(root), num_workers=workers, skip_unreadable=True).train, size)
        for workers, size in ((0, STEP_SIZE), (2, 6))
    ]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    expected = []
    for step in range(2):
        for position, index in enumerate(image_order(7, step * STEP_SIZE, STEP_SIZE, len(paths))):
            used = {4: 6, 5: 6, len(paths) - 1: 0}.get(int(index), int(index))
            pixels = np.asarray(Image.open(root / paths[used]).convert("RGB")).copy()
            crops = random_crops(
                7, step, slice(position, position + 1), np.array([pixels.shape[0]]), np.array([pixels.shape[1]])
            )
            expected.append(resize_crops(torch.from_numpy(pixels)[None], crops, 16)[0])
    torch.testing.assert_close(results[0][0], torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_a_header_that_lies_about_the_size_is_not_believed(image_folder: Write) -> None:
    root = image_folder()
    split = folder.load(str(root), num_workers=0).train
    path = root / split.names[0].decode()
    Image.fromarray(np.arange(48 * 40 * 3, dtype=np.uint8).reshape(48, 40, 3)).save(path, "ICO", sizes=[(40, 48)])
    content = bytearray(path.read_bytes())
    content[6:8] = 16, 16  # the directory's width and height
    path.write_bytes(content)
    expected = np.asarray(read_image(path))
    assert expected.shape == (48, 40, 3)
    request = MicroBatch(0, slice(0, 1), np.array([0]))
    (images, _), *_ = split.train_batches([request], seed=7, resolution=16, device=CPU)
    crops = random_crops(7, 0, slice(0, 1), np.array([48]), np.array([40]))
    torch.testing.assert_close(images, resize_crops(torch.from_numpy(expected.copy())[None], crops, 16))


def test_nothing_but_damage_ends_the_run_even_when_skipping(image_folder: Write) -> None:
    root = image_folder()
    for path in (root / "train").rglob("*.JPEG"):
        path.write_bytes(b"damaged")
    split = folder.load(str(root), num_workers=0, skip_unreadable=True).train
    with pytest.raises(DataError, match=r"cannot read any of 28 images, such as .*not an image that Pillow knows"):
        trained_on(split, STEP_SIZE)
    some = folder.load(str(root), num_workers=0, skip_unreadable=True).validation
    with pytest.raises(
        DataError, match=r"none of the 8 images to evaluate, such as train/n.*JPEG, can be read: replace"
    ):
        evaluate(torch.nn.Flatten(), some, Accelerator(cpu=True), resolution=16, batch_size=4)


def test_evaluation_squashes_the_whole_image(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 40, 3), dtype=np.uint8)).save(buffer, "PNG")
    (tmp_path / "wide.png").write_bytes(buffer.getvalue())
    split = ImageFileSplit(tmp_path, np.array([b"wide.png"]), np.array([2]), num_workers=0)
    images, labels = evaluated(split)
    pixels = torch.from_numpy(np.asarray(Image.open(buffer)).copy())[None]
    torch.testing.assert_close(images, resize_crops(pixels, whole_images(np.array([9]), np.array([40])), 16))
    assert labels.tolist() == [2]
