"""Folders of classes as data sets: what is listed, what they are called, and what is wrong with a bad one."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates, grid_of
from sweeps.table.cells import Grid, cells_of
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.datasets import DATASETS, dataset_id, dataset_info, listed_folder
from vit_trainer.data.load import load_dataset, require_dataset
from vit_trainer.data.samples import sample_files
from vit_trainer.errors import DataError, InputError
from vit_trainer.files.folder import open_folder

Write = Callable[..., Path]


def test_classes_are_numbered_by_name(image_folder: Write) -> None:
    root = image_folder(classes=("n02", "n01", "n10"))
    folders = find_class_folders(root)
    assert folders.classes == ("n01", "n02", "n10")
    assert folders.counts("train") == [12, 12, 12]
    assert folders.paths("val")[:2] == ["val/n01/n01_0.JPEG", "val/n01/n01_1.JPEG"]


def test_numbers_count_as_numbers_but_by_the_old_rules(image_folder: Write) -> None:
    numbers = tuple(str(number) for number in range(12))
    root = image_folder(classes=numbers)
    assert find_class_folders(root).classes == numbers
    assert find_class_folders(root, version=1).classes == ("0", "1", "10", "11", *numbers[2:10])


@pytest.mark.parametrize(
    ("parts", "counts", "places"),
    [
        (("train", "val"), (28, 8, 15), ("train", "val")),
        (("train", "test"), (28, 8, 15), ("train", "test")),
        (("train", "val", "test"), (36, 15, 15), ("val", "test")),
    ],
)
def test_parts_become_splits(
    image_folder: Write, parts: tuple[str, ...], counts: tuple[int, int, int], places: tuple[str, str]
) -> None:
    root = image_folder(parts=parts)
    folders, info = find_class_folders(root), dataset_info(str(root))
    assert (folders.validation, folders.test) == places
    assert (info.num_train, info.num_validation, info.num_test) == counts
    assert info.num_classes == 3
    splits = load_dataset(str(root), num_workers=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == counts


def test_an_old_id_keeps_the_old_recipe_and_the_old_images_to_validate_with(image_folder: Write) -> None:
    root = image_folder(parts=("train", "val"))
    new, old = FinetuneConfig.official("ViT-B_16", str(root)), old_config(root)
    assert (new.total_steps, new.warmup_steps, new.global_batch_size) == (500, 100, 16)
    assert (old.total_steps, old.warmup_steps, old.global_batch_size) == (10_000, 500, 512)
    assert new.num_evaluations == 20
    splits = load_dataset(old.dataset, num_workers=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (33, 3, 15)


def old_config(root: Path) -> FinetuneConfig:
    return FinetuneConfig.official("ViT-B_16", f"{find_class_folders(root, version=1).contents_id({})}:{root}")


def write_classes(root: Path, **counts: int) -> Path:
    """A folder of empty images: so many per class in train, two each in test."""
    for name, count in counts.items():
        for part, number in (("train", count), ("test", 2)):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                (root / part / name / f"{i}.jpg").touch()
    return root


def test_a_class_of_one_image_trains_and_is_named_and_nothing_but_such_is_refused(tmp_path: Path) -> None:
    single = write_classes(tmp_path / "single", ant=1, bee=300, cow=1)
    info = dataset_info(str(single))
    assert (info.num_train, info.num_validation) == (242, 60)
    few, alone = info.cautions
    assert few.startswith(f"{single} has 60 images for validation, of which one is 1.7 points: chance may choose")
    assert alone.startswith(f"{single}/train has one image of ant, cow: it trains")
    assert dataset_info(str(write_classes(tmp_path / "enough", ant=300, bee=300))).cautions == ()
    assert dataset_info("digits-even").cautions == ()
    pair = write_classes(tmp_path / "pair", ant=1, bee=1)
    with pytest.raises(DataError, match=f"dataset {pair} can't be validated: each class in train/ has a single image"):
        FinetuneConfig.official("ViT-B_16", str(pair))
    three = write_classes(tmp_path / "three", ant=1, bee=1)
    shutil.copytree(three / "test", three / "val")
    assert FinetuneConfig.official("ViT-B_16", str(three)).global_batch_size == 2


def test_a_part_of_which_nothing_can_be_read_is_refused(image_folder: Write) -> None:
    root = image_folder()
    require_dataset(str(root))
    for path in (root / "val").rglob("*.JPEG"):
        path.write_bytes(b"damaged")
    with pytest.raises(
        DataError, match=f"no image in {root}/val can be read, such as .*not an image that Pillow knows"
    ):
        require_dataset(str(root))


def test_a_trial_keeps_its_name_when_the_folder_moves(image_folder: Write, tmp_path: Path) -> None:
    root = image_folder("my pets")
    copy = tmp_path / "elsewhere" / "my pets"
    shutil.copytree(root, copy)
    ours, theirs = (FinetuneConfig.official("ViT-B_16", str(path)) for path in (root, copy))
    assert ours.trial_id == theirs.trial_id
    assert ours.to_dict() == theirs.to_dict()
    assert ours.trial_id.startswith("ViT-B_16-my_pets-")
    assert "/" not in ours.trial_id
    assert str(tmp_path) not in str(ours.to_dict())


@pytest.mark.parametrize("change", ["pixels", "added", "removed", "renamed", "swapped"])
def test_other_contents_under_the_same_name_are_another_data_set(
    image_folder: Write, tmp_path: Path, change: str
) -> None:
    root = image_folder()
    copy = tmp_path / "elsewhere" / "pets"
    shutil.copytree(root, copy)
    image = copy / "val" / "n01440764" / "n01440764_0.JPEG"
    if change == "pixels":
        content = image.read_bytes()
        image.write_bytes(content[:-3] + b"X" + content[-2:])
    elif change == "added":
        shutil.copy(image, image.with_name("more.JPEG"))
    elif change == "removed":
        image.unlink()
    elif change == "renamed":
        image.rename(image.with_name("renamed.JPEG"))
    else:  # two images of one size change places, and so their labels
        paths = [copy / "train" / label / f"{label}_0.JPEG" for label in ("n01440764", "n02105855")]
        contents = [path.read_bytes() for path in paths]
        longest = max(map(len, contents))
        padded = [content.ljust(longest, b"\0") for content in contents]
        for label in ("n01440764", "n02105855"):
            (root / "train" / label / f"{label}_0.JPEG").write_bytes(padded[label == "n02105855"])
            (copy / "train" / label / f"{label}_0.JPEG").write_bytes(padded[label != "n02105855"])
    assert dataset_id(str(root)) != dataset_id(str(copy))
    assert dataset_id(str(root)).startswith("pets-v2-")


def test_a_look_at_the_contents_is_kept_but_nothing_depends_on_it(
    image_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder))
    monkeypatch.setattr("vit_trainer.data.samples.SECONDS_TO_SETTLE", -1)
    root = image_folder(parts=("train", "val", "test"))
    paths = find_class_folders(root).paths("train")
    found = sample_files(root, paths)
    assert found.hashes.keys() == set(paths)
    assert not found.unreadable
    (cache,) = cache_folder.rglob("*.json")

    content = cache.read_bytes()[64:].replace(found.hashes[paths[0]].encode(), b"0123456789abcdef")
    cache.write_bytes(hashlib.sha256(content).hexdigest().encode() + content)
    assert sample_files(root, paths).hashes == found.hashes | {paths[0]: "0123456789abcdef"}  # it is what is looked at
    os.utime(root / paths[0])
    assert sample_files(root, paths) == found

    whole = cache.read_bytes()
    for damaged in (b"", whole[:-9], whole.replace(found.hashes[paths[1]].encode(), b"f" * 16), b"[" * 90_000):
        cache.write_bytes(damaged)
        assert sample_files(root, paths) == found
        assert cache.read_bytes() == whole
    shutil.rmtree(cache_folder)
    cache_folder.write_text("a file where the folder should be")
    assert sample_files(root, paths) == found


def test_what_is_no_image_is_passed_over_and_counted(image_folder: Write) -> None:
    root = image_folder()
    label = root / "train" / "n01440764"
    for name in (".hidden.JPEG", "._n01440764_0.JPEG", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (label / name).touch()
    (label / ".cache").mkdir()
    (root / "train" / "__MACOSX").mkdir()
    before = dataset_id(str(root))
    assert find_class_folders(root).passed_over == ""
    for name in ("a.PSD", "b.psd", "notes.txt", "README"):
        (label / name).touch()
    (root / "val" / "labels.csv").touch()
    listed_folder.cache_clear()
    assert dataset_id(str(root)) == before
    caution = f"{root}: passed over 5 files in 2 folders: .csv, .psd, .txt, no suffix"
    assert caution in dataset_info(str(root)).cautions


def test_images_of_a_class_may_lie_in_folders_of_it(image_folder: Write) -> None:
    root = image_folder()
    deep = root / "train" / "n01440764" / "2019" / "spring.jpg"
    deep.mkdir(parents=True)
    (deep / "A.JPG").write_bytes(b"")
    (root / "train" / "n01440764" / "linked").symlink_to(root / "val" / "n01440764")
    folders = find_class_folders(root)
    assert folders.counts("train") == [18, 12, 12]
    assert "train/n01440764/2019/spring.jpg/A.JPG" in folders.paths("train")
    assert "train/n01440764/linked/n01440764_3.JPEG" in folders.paths("train")
    assert "A.JPG" not in str(find_class_folders(root, version=1).files)


def link_to_nowhere(label: Path) -> None:
    (label / "gone.jpg").symlink_to("/nowhere/gone.jpg")


def link_to_itself(label: Path) -> None:
    (label / "gone.jpg").symlink_to("gone.jpg")


def link_upwards(label: Path) -> None:
    (label / "gone.jpg").symlink_to(label.parents[1])


def link_in_a_circle(label: Path) -> None:
    (label / "deeper").mkdir()
    (label / "gone.jpg").symlink_to("deeper")
    (label / "deeper" / "gone.jpg").symlink_to("..")


def pipe(label: Path) -> None:
    os.mkfifo(label / "gone.jpg")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (link_to_nowhere, "gone.jpg (a link to /nowhere/gone.jpg: No such file or directory): put it right"),
        (link_to_itself, "gone.jpg (a link to gone.jpg: Too many levels of symbolic links): put it right"),
        (link_upwards, "gone.jpg (a link to ROOT: it lies in that folder): put it right or take it away"),
        (link_in_a_circle, "deeper/gone.jpg (a link to ..: it lies in that folder)"),
        (pipe, "gone.jpg (a device or pipe, whose end may never come): put it right or take it away, or give --skip-"),
    ],
)
def test_what_leads_nowhere_is_named_and_can_be_skipped(
    image_folder: Write, damage: Callable[[Path], None], reason: str
) -> None:
    root = image_folder(parts=("train", "test"))
    damage(root / "train" / "n01440764")
    for attempt in (require_dataset, load_dataset):
        with pytest.raises(DataError) as raised:
            attempt(str(root))
        assert f"cannot read {root}/train/n01440764/{reason.replace('ROOT', str(root))}" in str(raised.value)
        assert "\n" not in str(raised.value)
    require_dataset(str(root), skip_unreadable=True)
    splits = load_dataset(str(root), skip_unreadable=True, num_workers=0)
    assert len(splits.train) + len(splits.validation) >= 36
    whole = np.arange(len(splits.validation))
    assert len(list(splits.validation.evaluation_batches(whole, 2, resolution=32, device=torch.device("cpu")))) >= 1


def test_a_relative_path_becomes_absolute(image_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder()
    monkeypatch.chdir(root.parent)
    assert FinetuneConfig.official("ViT-B_16", "./pets").dataset == str(root)
    (cell,) = cells_of(Grid(("ViT-B_16",), ("./pets",), (0.0,)))
    assert cell.dataset == str(root)
    grid = grid_of(SweepOptions(preset="paper", datasets=("./pets", "cifar10")), "paper")
    assert grid.datasets == (str(root), "cifar10")
    assert candidates(SweepOptions(), [cell])[0].trial_id.startswith("ViT-B_16-pets-")


def test_named_data_sets_are_what_they_were() -> None:
    assert dataset_id("cifar10") == "cifar10"
    assert dataset_info("cifar10") is DATASETS["cifar10"]
    assert FinetuneConfig("ViT-B_16", "cifar10", dropout=0.1).trial_id == "ViT-B_16-cifar10-d0.1-lr0.03-s0-4916bc"


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(
        InputError, match=r"unknown dataset 'cifar'; did you mean 'cifar10'\?.*folder of classes, as ./c"
    ):
        FinetuneConfig.official("ViT-B_16", "cifar")


def remove(*parts: str) -> Callable[[Path], None]:
    return lambda root: [shutil.rmtree(root / part) for part in parts] and None


def empty_class(root: Path) -> None:
    for image in (root / "train" / "n02105855").iterdir():
        image.unlink()


def no_classes(root: Path) -> None:
    for folder in (root / "train").iterdir():
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("train", "val"), "no train/ in ROOT: put train/ and val/"),
        (remove("train"), "no train/ in ROOT: put train/ and val/"),
        (remove("val"), "no val/ or test/ in ROOT: put train/ and val/"),
        (remove("."), "no folder of classes at ROOT: put train/ and val/"),
        (no_classes, "no class folders in ROOT/train: put train/ and val/"),
        (empty_class, "no images in ROOT/train/n02105855: put files there that end with .avif, .bmp"),
        (remove("train/n01440764", "train/n02105855"), "only one class in ROOT/train (n03000247): give at least two"),
        (remove("val/n02105855"), "such as n02105855 in train/ but not in val/"),
        (remove("train/n02105855"), "such as n02105855 in val/ but not in train/"),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(image_folder: Write, damage: Callable[[Path], None], message: str) -> None:
    root = image_folder()
    damage(root)
    with pytest.raises(DataError) as raised:
        FinetuneConfig.official("ViT-B_16", str(root))
    assert message.replace("ROOT", str(root)) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_imagenet_is_found_in_the_data_folder(
    image_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"no folder of classes at {tmp_path / 'imagenet2012'}: put train/ and val/"):
        require_dataset("imagenet2012")
    root = image_folder("imagenet2012", parts=("train", "val"))
    (root / "test").mkdir()  # ILSVRC's unlabelled test images
    require_dataset("imagenet2012")
    with pytest.raises(DataError, match="has 3 classes, not 1000: unpack"):
        load_dataset("imagenet2012")


def test_imagenet_is_copied_from_ones_own_folder_or_bucket(
    image_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    monkeypatch.setenv("VIT_DATA", str(tmp_path / "data"))
    root, mine = tmp_path / "data" / "imagenet2012", image_folder("mine")
    in_bucket, classes = open_folder(bucket).child("mirror"), find_class_folders(mine).classes
    for path in mine.rglob("*.*"):
        in_bucket.child("imagenet2012").write(str(path.relative_to(mine)), path.read_bytes())
    info = replace(DATASETS["imagenet2012"], num_classes=3, num_train=33, num_validation=3, num_test=15)
    monkeypatch.setitem(DATASETS, "imagenet2012", info)
    for source in (str(mine), in_bucket.location):
        require_dataset("imagenet2012", source=source)
        assert tree(root) == tree(mine)
        shutil.rmtree(root / "train" / classes[0])
        next((root / "val").rglob("*.JPEG")).write_bytes(b"torn")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.JPEG")}
    require_dataset("imagenet2012", source=str(mine))
    assert tree(root) == tree(mine)
    assert sum(path.stat().st_mtime_ns == modified for path, modified in before.items()) == len(before) - 1
    shutil.rmtree(mine / "val" / classes[1])
    shutil.rmtree(root)
    with pytest.raises(DataError, match=r"the classes of .* differ"):
        require_dataset("imagenet2012", source=str(mine))


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_imagenet_has_to_be_complete(image_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_DATA", str(tmp_path))
    classes = tuple(f"n{i:08}" for i in range(1000))
    root = tmp_path / "imagenet2012"
    for part, count in (("train", 2), ("val", 1)):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                (root / part / name / f"{i}.JPEG").touch()
    with pytest.raises(
        DataError, match="train has 2,000 images, not 1,281,167: unpack imagenet2012 anew, or give --skip"
    ):
        load_dataset("imagenet2012")
    splits = load_dataset("imagenet2012", skip_unreadable=True)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1000, 1000, 1000)
