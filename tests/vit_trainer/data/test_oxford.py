"""Oxford's pets and flowers from small files in exactly the published formats, with the odd ones among them."""

import dataclasses
import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from tests.vit_trainer.finished_trial import outcome_of, output_of
from vit_trainer.data.class_names import class_names
from vit_trainer.data.datasets import DATASETS
from vit_trainer.data.families.oxford import OXFORD
from vit_trainer.data.image_files import ImageFileSplit
from vit_trainer.data.load import load_dataset, require_dataset
from vit_trainer.errors import DataError
from vit_trainer.files.folder import open_folder
from vit_trainer.files.published import PublishedFile

BREEDS = ("Abyssinian", "american_bulldog", "american_pit_bull_terrier")
NUM_TRAIN, NUM_TEST = 20, 4
"""Images of each of the three classes."""


def picture(label: int, number: int, mode: str = "RGB") -> Image.Image:
    """A bright channel tells the class."""
    pixels = np.random.default_rng(100 * label + number).integers(
        0, 80, (24 + number % 3, 30, len(mode)), dtype=np.uint8
    )
    pixels[..., label] += 160
    return Image.fromarray(pixels, mode=None)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def odd(number: int, label: int) -> bytes:
    """What some of the pets' .jpg are, and how most of them are."""
    image, jpeg = picture(label, number), encoded(picture(label, number), quality=95)
    match number:
        case 1:
            return encoded(picture(label, number, "RGBA"), "PNG")
        case 2:
            return encoded(image.quantize(8), "PNG", transparency=bytes(range(8)))
        case 3:
            return encoded(image.quantize(8), "GIF", transparency=1)
        case 4:
            return encoded(image, "BMP")
        case 5:
            return jpeg[:-2] + bytes(240) + jpeg[-2:]
        case 6:
            return jpeg + b"stray bytes"
        case 7:
            return encoded(
                image, quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\6\0\0\0\0\0\0"
            )
        case _:
            return jpeg


def archive(contents: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def pets(mode: str = "w:gz") -> dict[str, bytes]:
    """Both archives, with what else lies in them."""
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    images = {"images/Abyssinian_100.mat": b"MATLAB 5.0", "images/Abyssinian_999.jpg": b"in no list"}
    for label, breed in enumerate(BREEDS):
        for number in range(1, NUM_TRAIN + NUM_TEST + 1):
            lines["trainval" if number <= NUM_TRAIN else "test"].append(
                f"{breed}_{number} {label + 1} {1 + (label > 0)} 1"
            )
            images[f"images/{breed}_{number}.jpg"] = odd(number, label)
    heading = [f"#{i}" for i in range(6)]
    lists = {"list": heading + lines["test"] + lines["trainval"], **lines}
    annotations = {
        f"annotations/{name}.txt": "".join(f"{line}\n" for line in given).encode() for name, given in lists.items()
    }
    others = {"annotations/trimaps/._Abyssinian_1.png": b"\0\5\x16\7", "annotations/README": b"", "._annotations": b""}
    return {"images.tar.gz": archive(images, mode), "annotations.tar.gz": archive({**others, **annotations}, mode)}


def flowers() -> dict[str, bytes]:
    """The archive and both MATLAB files: compressed rows of numbers from 1, the parts in no order."""
    counts = {"tstid": NUM_TEST, "trnid": NUM_TRAIN, "valid": 5}
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.repeat(np.arange(3), sum(counts.values())))
    places = [list(np.flatnonzero(labels == label) + 1) for label in range(3)]
    parts = {
        part: draw.permutation([own.pop() for own in places for _ in range(count)]) for part, count in counts.items()
    }
    images = {f"jpg/image_{i + 1:05}.jpg": encoded(picture(label, i)) for i, label in enumerate(labels.tolist())}

    def matlab(**arrays: NDArray[np.generic]) -> bytes:
        buffer = io.BytesIO()
        savemat(buffer, {name: array[None] for name, array in arrays.items()}, do_compression=True)
        return buffer.getvalue()

    return {
        "102flowers.tgz": archive(images),
        "imagelabels.mat": matlab(labels=(labels + 1).astype(np.uint8)),
        "setid.mat": matlab(**{part: ids.astype(np.uint16) for part, ids in parts.items()}),
    }


Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """A function that publishes files as those of a data set of three classes, and gives its folder of VIT_DATA."""
    monkeypatch.setenv("VIT_DATA", str(tmp_path / "data"))

    def of(name: str, contents: dict[str, bytes]) -> Path:
        mirror = tmp_path / "mirror" / name
        mirror.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            (mirror / file).write_bytes(content)

        def published(file: PublishedFile) -> PublishedFile:
            md5 = hashlib.md5(contents[file.name]).hexdigest()
            return PublishedFile(file.name, (mirror / file.name).as_uri(), md5)

        files = OXFORD[name]
        small = dataclasses.replace(
            files, images=published(files.images), labels=tuple(published(file) for file in files.labels)
        )
        monkeypatch.setitem(OXFORD, name, small)
        train = 3 * NUM_TRAIN
        sizes = {"num_train": train * 9 // 10, "num_validation": train // 10, "num_test": 3 * NUM_TEST}
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], num_classes=3, **sizes))
        return tmp_path / "data" / name

    return of


def seen(split: object) -> dict[str, tuple[Image.Image, int]]:
    """Names, pixels at 24 px and labels, through a split's own batches."""
    assert isinstance(split, ImageFileSplit)
    batches = split.evaluation_batches(np.arange(len(split)), 7, resolution=24, device=torch.device("cpu"))
    return {
        split.names[index].decode(): (image, int(label))
        for images, labels, indices in batches
        for image, label, index in zip(images, labels, indices, strict=True)
    }


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_pets_become_splits(publish: Publish, mode: str) -> None:
    root = publish("oxford_pets", pets(mode))
    splits = load_dataset("oxford_pets", num_workers=0)
    train, validation, test = (seen(split) for split in (splits.train, splits.validation, splits.test))
    assert (len(train), len(validation), len(test)) == (54, 6, 12)
    assert sorted(label for _, label in validation.values()) == [0, 0, 1, 1, 2, 2]
    numbers = range(1, NUM_TRAIN + 1)
    assert {*train, *validation} == {f"images/{breed}_{number}.jpg" for breed in BREEDS for number in numbers}
    for name, (image, label) in {**train, **validation, **test}.items():
        assert name.startswith(f"images/{BREEDS[label]}_")
        assert image.mean(dim=(1, 2)).argmax() == label
    (root / "7.jpg").write_bytes(encoded(picture(0, 7), quality=95))
    upright = seen(ImageFileSplit(root, np.array([b"7.jpg"]), np.array([0]), num_workers=0))["7.jpg"]
    assert torch.equal({**train, **validation}[f"images/{BREEDS[0]}_7.jpg"][0], upright[0]), "TFDS doesn't turn it"
    unpacked = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.parent != root}
    assert unpacked == {*train, *validation, *test, "annotations/trainval.txt", "annotations/test.txt"}


def test_flowers_become_splits(publish: Publish) -> None:
    root = publish("oxford_flowers102", flowers())
    splits = load_dataset("oxford_flowers102", num_workers=0)
    train, validation, test = (seen(split) for split in (splits.train, splits.validation, splits.test))
    assert (len(train), len(validation), len(test)) == (54, 6, 12)
    for image, label in {**train, **validation, **test}.values():
        assert image.mean(dim=(1, 2)).argmax() == label
    assert len(list((root / "jpg").iterdir())) == 72, "those of valid stay in the archive"


def test_the_official_files_are_those_of_torchvision() -> None:
    from torchvision.datasets import Flowers102, OxfordIIITPet

    files = OXFORD["oxford_pets"]
    assert tuple((file.url, file.md5) for file in (files.images, *files.labels)) == OxfordIIITPet._RESOURCES
    files = OXFORD["oxford_flowers102"]
    known = {name: (Flowers102._download_url_prefix + name, md5) for name, md5 in Flowers102._file_dict.values()}
    assert {file.name: (file.url, file.md5) for file in (files.images, *files.labels)} == known
    assert class_names("oxford_flowers102") == tuple(Flowers102.classes)
    assert [*class_names("oxford_pets")] == sorted(class_names("oxford_pets"), key=str.lower)


NAMES = ("oxford_pets", "oxford_flowers102")
MAKE = {"oxford_pets": pets, "oxford_flowers102": flowers}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_said_and_made_again(publish: Publish, name: str) -> None:
    contents = MAKE[name]()
    root = publish(name, contents)
    with pytest.raises(
        DataError, match=r"no (annotations/trainval.txt and 1 more|imagelabels.mat) in .*: it comes with"
    ):
        require_dataset(name, may_download=False)
    require_dataset(name)
    images = sorted(root.glob("*/*.jpg"))
    before = {path: path.read_bytes() for path in images}
    for path in images[3:5]:
        path.unlink()
    mirror = root.parents[1] / "mirror"
    mirror.rename(mirror.with_name("away"))
    require_dataset(name)  # from the archive that is kept
    for path in (root / file for file in contents):
        path.write_bytes(b"damaged")
    images[3].unlink()
    with pytest.raises(DataError) as raised:
        require_dataset(name)
    missing = images[3].relative_to(root) if name == "oxford_pets" else "imagelabels.mat"
    assert str(raised.value).startswith(f"no {missing} in {root}, and it can't be made (cannot read file://")
    assert "\n" not in str(raised.value)
    mirror.with_name("away").rename(mirror)
    require_dataset(name)
    assert {path: path.read_bytes() for path in images} == before


def test_files_that_are_not_the_published_ones_are_refused(publish: Publish) -> None:
    root = publish("oxford_pets", pets())
    require_dataset("oxford_pets")
    lists = root / "annotations"
    good = (lists / "test.txt").read_text()
    for bad, message in (
        (
            good.replace(" 3 2 1", " 2 2 1"),
            r"test.txt has a line that lists no pet \('american_pit_bull_terrier_21 2 2 1'\): remove",
        ),
        (good.replace("american_bulldog_21", "american_bulldog_../21"), "has a line that lists no pet"),
        (good.partition("\n")[2], "lists 11 images of 3 classes for test, not 12 of 3: remove"),
        ((lists / "trainval.txt").read_text(), "lists 60 images of 3 classes for test, not 12 of 3"),
    ):
        (lists / "test.txt").write_text(bad)
        with pytest.raises(DataError, match=message):
            require_dataset("oxford_pets")
    (lists / "test.txt").unlink()
    (lists / "test.txt").mkdir()
    with pytest.raises(DataError, match=f"cannot read {lists}/test.txt: .*; make it readable"):
        require_dataset("oxford_pets")
    (lists / "test.txt").rmdir()
    require_dataset("oxford_pets")
    assert (lists / "test.txt").read_text() == good


def test_an_archive_without_a_listed_image_says_so(publish: Publish) -> None:
    root = publish("oxford_pets", {**pets(), "images.tar.gz": archive({"images/Abyssinian_1.jpg": b""})})
    with pytest.raises(DataError, match=f"{root}/images.tar.gz lacks images/Abyssinian_10.jpg: put the official"):
        require_dataset("oxford_pets")


def test_a_damaged_image_is_named_or_left_out(publish: Publish) -> None:
    root = publish("oxford_pets", pets())
    require_dataset("oxford_pets")
    path = root / "images" / "american_bulldog_23.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"cannot read image {path} .*truncated.*, or give --skip-unreadable"):
        seen(load_dataset("oxford_pets", num_workers=0).test)
    test = load_dataset("oxford_pets", num_workers=0, skip_unreadable=True).test
    assert len(seen(test)) == 11


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("kind", ["folder", "files", "web", "bucket"])
def test_files_come_from_a_mirror_of_ones_own(
    publish: Publish, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    contents = pets()
    root = publish("oxford_pets", contents)
    mirror = tmp_path / "mirror"
    mirror.rename(tmp_path / "own")  # the official servers are out of reach
    with ExitStack() as stack:
        source = str(tmp_path / "own")
        if kind == "files":
            source += "/oxford_pets"
        if kind == "web":
            handler = partial(Quiet, directory=source)
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            stack.callback(server.shutdown)
            source = f"http://127.0.0.1:{server.server_port}"
        if kind == "bucket":
            folder = open_folder(bucket).child("mirror")
            for name, content in contents.items():
                folder.child("oxford_pets").write(name, content)
            source = folder.location
        fetch = ["fetch", "digits-even", "oxford_pets", "--source", source]
        assert output_of(fetch, capsys).splitlines()[1] == f"oxford_pets: complete in {root.parent}"
        assert len(seen(load_dataset("oxford_pets", num_workers=0).test)) == 12
    if kind == "folder":
        shutil.rmtree(root)
        (tmp_path / "own" / "oxford_pets" / "annotations.tar.gz").write_bytes(b"another")
        code, _, error = outcome_of(fetch, capsys)
        assert (code, error.count("\n")) == (2, 1)
        assert f"{source}/oxford_pets/annotations.tar.gz is damaged or not the official file" in error
        assert not (root / "annotations.tar.gz").exists()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_fetched_trained_on_and_evaluated_by_name(
    publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    storage, weights = str(tmp_path / "results"), str(tmp_path / "tuned.npz")
    train = ["train", "--model", "ViT-B_32-mini", "--dataset", name, "--upstream", "digits", "--storage", storage]
    train += ["--total-steps", "12", "--warmup-steps", "2", "--global-batch-size", "18", "--base-lr", "0.1"]
    train += ["--num-workers", "0", "--save-weights"]
    root = publish(name, MAKE[name]())
    (tmp_path / "mirror").rename(tmp_path / "away")
    code, _, error = outcome_of(train, capsys)
    assert (code, error.count("\n")) == (2, 1)
    assert not Path(storage).exists()
    (tmp_path / "away").rename(tmp_path / "mirror")
    assert output_of(["fetch", name], capsys) == f"{name}: complete in {root.parent}\n"
    output = output_of(train, capsys)
    (folder,) = (Path(storage) / "runs").iterdir()
    assert "test/accuracy 100.00% after 12 steps" in output
    tuned, model = str(folder / "model.safetensors"), ["--model", "ViT-B_32-mini"]
    output_of(["export", *model, "--checkpoint", tuned, "--output", weights], capsys)
    evaluate = ["evaluate", *model, "--dataset", name, "--checkpoint", weights, "--num-workers", "0"]
    assert "100.00%" in output_of(evaluate, capsys)
