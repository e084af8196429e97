"""CIFAR from files in exactly the published format: Python 2 pickles of NumPy arrays, and their tar.gz."""

import dataclasses
import gzip
import hashlib
import io
import multiprocessing
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vit_trainer.data.datasets import DATASETS
from vit_trainer.data.families.cifar import CIFAR, CifarFormat
from vit_trainer.data.load import load_dataset, require_dataset
from vit_trainer.data.splits import Splits
from vit_trainer.errors import DataError
from vit_trainer.files.published import PublishedFile


def load_cifar(files: CifarFormat, folder: Path) -> Splits:
    """These files as the trainer reads CIFAR's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIT_DATA", str(folder))
        patch.setitem(CIFAR, "cifar10", files)
        return load_dataset("cifar10")


def python2_pickle(images: NDArray[np.uint8], labels: list[int], labels_key: str) -> bytes:
    """What Python 2 wrote: byte strings, numpy.core, and dtype('u1', 0, 1). images: (count, 3072)."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    shape = b"".join(b"J" + struct.pack("<i", size) for size in images.shape) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R(K\1" + shape
    array += dtype + b"K\0tb\x89T" + struct.pack("<i", images.nbytes) + images.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(labels_key.encode()) + numbers + b"u."


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Bomb:
    """Unpickling it touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@dataclasses.dataclass
class Small:
    """A small data set: 5 x 40 training images, 30 test images, of 10 or 100 classes."""

    files: CifarFormat
    contents: dict[str, bytes]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    def published_at(self, url: str) -> CifarFormat:
        archive = PublishedFile(self.files.archive.name, url, md5(self.archive()))
        return dataclasses.replace(self.files, archive=archive)

    def write(self, folder: Path) -> Path:
        (folder / self.files.folder).mkdir(parents=True)
        for name, content in self.contents.items():
            (folder / self.files.folder / name).write_bytes(content)
        return folder

    def archive(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in {**self.contents, "readme.html": b"not needed"}.items():
                member = tarfile.TarInfo(f"{self.files.folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return gzip.compress(buffer.getvalue(), mtime=0)  # the same bytes whenever it is asked for


@pytest.fixture(params=["cifar10", "cifar100"])
def small(request: pytest.FixtureRequest) -> Small:
    official, rng = CIFAR[request.param], np.random.default_rng(0)
    num_files = len(official.train)
    images = rng.integers(0, 256, (200, 3072), dtype=np.uint8)
    labels = np.repeat(np.arange(10), 20)[rng.permutation(200)]
    parts = [(images[i::num_files], labels[i::num_files]) for i in range(num_files)]
    contents = {
        name: python2_pickle(part, part_labels.tolist(), official.labels)
        for (name, _), (part, part_labels) in zip(official.train, parts, strict=True)
    }
    contents[official.test[0][0]] = python2_pickle(images[:30], labels[:30].tolist(), official.labels)
    files = dataclasses.replace(
        official,
        train=tuple((name, md5(contents[name])) for name, _ in official.train),
        test=tuple((name, md5(contents[name])) for name, _ in official.test),
    )
    order = np.concatenate([np.arange(200)[i::num_files] for i in range(num_files)])
    made = Small(files, contents, images[order], labels[order], images[:30], labels[:30])
    made.files = made.published_at("file:///nowhere/" + official.archive.name)
    return made


def seen(split: object) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What a split of 32-pixel images holds, through its own batches."""
    batches = list(
        split.evaluation_batches(  # type: ignore[attr-defined]
            np.arange(len(split)),
            64,
            resolution=32,
            device=torch.device("cpu"),  # type: ignore[arg-type]
        )
    )
    pixels = torch.cat([images for images, _, _ in batches]) * 127.5 + 127.5
    return pixels.round().to(torch.uint8).numpy(), torch.cat([labels for _, labels, _ in batches]).numpy()


def test_files_become_splits(small: Small, tmp_path: Path) -> None:
    splits = load_cifar(small.files, small.write(tmp_path))
    test_images, test_labels = seen(splits.test)
    np.testing.assert_array_equal(test_images.reshape(30, 3072), small.test_images)
    np.testing.assert_array_equal(test_labels, small.test_labels)
    train_images, train_labels = seen(splits.train)
    validation_images, validation_labels = seen(splits.validation)
    assert (len(train_labels), len(validation_labels)) == (190, 10)
    assert sorted(validation_labels) == list(range(10))
    together = {image.tobytes(): label for image, label in zip(train_images, train_labels, strict=True)}
    together |= {image.tobytes(): label for image, label in zip(validation_images, validation_labels, strict=True)}
    original = {
        image.tobytes(): label
        for image, label in zip(small.train_images.reshape(-1, 3, 32, 32), small.train_labels, strict=True)
    }
    assert together == original


def test_the_archive_alone_is_enough(small: Small, tmp_path: Path) -> None:
    (tmp_path / small.files.archive.name).write_bytes(small.archive())
    assert len(load_cifar(small.files, tmp_path).test) == 30
    assert not (tmp_path / small.files.folder / "readme.html").exists()


@pytest.mark.parametrize("where", ["train", "test"])
def test_nothing_is_unpickled_before_its_checksum_is_right(small: Small, tmp_path: Path, where: str) -> None:
    marker, name = tmp_path / "executed", getattr(small.files, where)[0][0]
    small.contents[name] = pickle.dumps(Bomb(marker))
    pickle.loads(small.contents[name])
    assert marker.exists(), "the bomb works"
    marker.unlink()
    with pytest.raises(DataError, match=f"{name} is damaged or not the official file .MD5 {md5(small.contents[name])}"):
        load_cifar(small.files, small.write(tmp_path / "data"))
    assert not marker.exists()


def test_not_even_a_right_checksum_lets_code_run(small: Small, tmp_path: Path) -> None:
    marker, name = tmp_path / "executed", small.files.test[0][0]
    small.contents[name] = pickle.dumps(Bomb(marker))
    files = dataclasses.replace(small.files, test=((name, md5(small.contents[name])),))
    with pytest.raises(DataError, match="which no CIFAR file does"):
        load_cifar(files, small.write(tmp_path / "data"))
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["truncated", "other"])
def test_a_wrong_archive_is_not_opened(small: Small, tmp_path: Path, damage: str) -> None:
    content = small.archive()[:-100] if damage == "truncated" else b"<html>not found</html>"
    (tmp_path / small.files.archive.name).write_bytes(content)
    with pytest.raises(DataError, match=r"can't be made \(cannot read file:///nowhere/cifar.*: put that file at"):
        load_cifar(small.files, tmp_path)
    assert not (tmp_path / small.files.folder).exists()


def test_an_archive_that_is_not_the_official_one_never_gets_its_name(small: Small, tmp_path: Path) -> None:
    source = tmp_path / "mirror" / small.files.archive.name
    source.parent.mkdir()
    source.write_bytes(b"<html>not found</html>")
    files = small.published_at(source.as_uri())
    with pytest.raises(
        DataError, match=r"tar\.gz is damaged or not the official file \(MD5 .*\): put the official one"
    ):
        load_cifar(files, tmp_path / "data")
    assert not (tmp_path / "data" / small.files.archive.name).exists()
    source.write_bytes(small.archive())
    assert len(load_cifar(files, tmp_path / "data").test) == 30


def test_missing_files_say_what_to_put_where(small: Small, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        load_cifar(small.files, tmp_path / "data")
    message = str(raised.value)
    assert "\n" not in message
    for part in (str(tmp_path / "data"), small.files.folder, small.files.archive.name):
        assert part in message


@pytest.fixture
def server(small: Small) -> Iterator[tuple[ThreadingHTTPServer, list[str]]]:
    """A listening server and the paths asked for; it answers only once its thread is started."""
    requests: list[str] = []
    content = small.archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        yield listening, requests


def test_two_processes_that_ask_at_once_download_once(
    small: Small, server: tuple[ThreadingHTTPServer, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    listening, requests = server
    files = small.published_at(f"http://127.0.0.1:{listening.server_port}/{small.files.archive.name}")
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=load_cifar, args=(files, tmp_path)) for _ in range(2)]
    for child in children:
        child.start()  # the first in waits for an answer, so the other finds the lock taken
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    for child in children:
        child.join()
    listening.shutdown()
    thread.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert requests == [f"/{small.files.archive.name}"]
    assert len(load_cifar(files, tmp_path).train) == 190
    assert {path.name for path in tmp_path.iterdir()} == {
        small.files.folder,
        small.files.archive.name,
        f".{small.files.archive.name}.lock",
    }


def test_the_official_table_agrees_with_torchvision() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    for files, known in ((CIFAR["cifar10"], CIFAR10), (CIFAR["cifar100"], CIFAR100)):
        assert files.folder == known.base_folder
        assert files.archive == PublishedFile(known.filename, known.url, known.tgz_md5)
        assert [list(entry) for entry in files.train] == known.train_list
        assert [list(entry) for entry in files.test] == known.test_list


def test_names_lead_to_the_data_folder(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "cifar100" if "100" in small.files.folder else "cifar10"
    monkeypatch.setenv("VIT_DATA", str(small.write(tmp_path)))
    require_dataset(name)
    with pytest.raises(DataError, match="not the official file"):  # the official checksums
        load_dataset(name)
    monkeypatch.setitem(CIFAR, name, small.files)
    assert len(load_dataset(name).train) == 190
    info = DATASETS[name]
    assert (info.num_train, info.num_validation, info.num_test) == (49_000, 1_000, 10_000)
