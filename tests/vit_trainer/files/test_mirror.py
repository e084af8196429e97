"""One's own mirror, a folder or a bucket: filled by `fetch --to`, read by `fetch --source`."""

import dataclasses
import hashlib
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from vit_trainer.architectures import MODELS
from vit_trainer.commands.fetch import fetch
from vit_trainer.data.families.cifar import CIFAR
from vit_trainer.data.families.oxford import OXFORD
from vit_trainer.data.load import require_dataset
from vit_trainer.errors import InputError
from vit_trainer.files.folder import open_folder
from vit_trainer.files.mirror import open_mirror, send
from vit_trainer.files.published import PublishedFile
from vit_trainer.weights.npz_files import write_npz

MODEL = "ViT-B_16-mini"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_arrays: Any) -> Path:
    """A model's file, a data set's archive and those of another, with what is published under these names."""
    monkeypatch.setenv("VIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VIT_CHECKPOINTS", str(tmp_path / "weights"))
    for folder in ("data/oxford_flowers102", "weights/imagenet21k"):
        (tmp_path / folder).mkdir(parents=True)
    write_npz(tmp_path / "weights" / "imagenet21k" / f"{MODEL}.npz", make_arrays(MODELS[MODEL], grid=8))
    files, buffer = CIFAR["cifar10"], io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, _ in (*files.train, *files.test):
            tar.addfile(tarfile.TarInfo(f"{files.folder}/{name}"))

    def published(file: PublishedFile, content: bytes, folder: str) -> PublishedFile:
        (tmp_path / "data" / folder / file.name).write_bytes(content)
        return dataclasses.replace(file, url="file:///nowhere", md5=hashlib.md5(content).hexdigest())

    archive = published(files.archive, buffer.getvalue(), "")
    monkeypatch.setitem(CIFAR, "cifar10", dataclasses.replace(files, archive=archive))
    flowers = OXFORD["oxford_flowers102"]
    others = [published(file, file.name.encode(), "oxford_flowers102") for file in (flowers.images, *flowers.labels)]
    changed = dataclasses.replace(flowers, images=others[0], labels=tuple(others[1:]))
    monkeypatch.setitem(OXFORD, "oxford_flowers102", changed)
    return tmp_path


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_what_was_put_there_once_is_found_there(
    here: Path, kind: str, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = str(here / "mirror") if kind == "folder" else bucket.replace("/results", "/inputs")
    fetch("oxford_flowers102", "cifar10", MODEL, "cifar10", source=str(here / "nowhere"), to=to)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2].partition(": ")[0] for line in lines] == [
        "imagelabels.mat", "setid.mat", "102flowers.tgz", "cifar-10-python.tar.gz", f"{MODEL}.npz"
    ]  # fmt: skip
    assert not any("there already" in line for line in lines)
    stamps = open_folder(to).stamps()
    fetch("oxford_flowers102", "cifar10", MODEL, to=to, source=str(here / "nowhere"))
    assert [line.endswith(" MB, was there already") for line in capsys.readouterr().out.splitlines()] == [True] * 5
    assert open_folder(to).stamps() == stamps
    sent = contents(here / "data") | contents(here / "weights")
    assert {name: open_folder(to).read(name) for name in stamps if not Path(name).name.startswith(".")} == sent
    monkeypatch.setenv("VIT_DATA", str(here / "node" / "data"))
    monkeypatch.setenv("VIT_CHECKPOINTS", str(here / "node" / "weights"))
    command = [sys.executable, "-m", "vit_trainer", "fetch", MODEL, "--source", to]
    nodes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    require_dataset("cifar10", source=to)
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert sorted("was there already" in each for each in said) == [False, True]
    assert contents(here / "node" / "weights") == contents(here / "weights")
    assert (here / "node" / "data" / CIFAR["cifar10"].folder / "test_batch").exists()


def test_a_file_is_there_whole_or_not_at_all(here: Path, bucket: str) -> None:
    class Interrupted:
        def waiting(self, path: Path) -> None: ...

        def received(self, num_bytes: int, total_bytes: int | None) -> None:
            if num_bytes:
                raise KeyboardInterrupt

    mirror = open_mirror(bucket.replace("/results", "/broken"))
    path = here / "weights" / "imagenet21k" / f"{MODEL}.npz"
    mirror.write(f"a/{MODEL}.npz", b"another's")
    with pytest.raises(KeyboardInterrupt):
        send(path, mirror, f"a/{MODEL}.npz", check=lambda path, name: None, watcher=Interrupted())
    assert mirror.read(f"a/{MODEL}.npz") == b"another's"
    assert list(mirror.stamps()) == [f"a/{MODEL}.npz"]


def test_what_can_not_be_filled_is_refused_before_anything_is_sent(
    here: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").touch()
    away = bucket.replace("s3://sweeps", "s3://other").replace("&allow_bucket_creation=true", "")
    for to, names, said in (
        ("https://host/mirror", (MODEL,), "to https://host/mirror is a web address, which can't be written: give a f"),
        (str(here / "data") + "/", (MODEL,), "is where the files come from: give another folder or bucket"),
        (f"{bucket.partition('?')[0]}/", (MODEL,), "is where the files come from: give another folder or bucket"),
        ("s3://", (MODEL,), "to s3:// cannot be used"),
        ("", (MODEL,), "to is empty, as a variable that isn't set"),
        (str(here / "file"), (MODEL,), "is a file: give another path"),
        ("/proc/mirror", (MODEL,), "to /proc/mirror cannot be written (No such file or directory): give a writable"),
        (away, (MODEL,), r"cannot be written (When initiating multiple part upload for key"),
        (str(here / "new"), ("imagenet2012",), f"pack imagenet2012 --output {here}/new/imagenet2012"),
        (str(here / "new"), ("digits-even", MODEL), "leave it out, it comes with scikit-learn"),
        (str(here / "new"), ("cifar10", "ViT-H_14", "ViT-B"), "unknown model or data set 'ViT-B'"),
    ):
        with pytest.raises(InputError, match=re.escape(said)) as raised:
            fetch(*names, to=to, source=bucket)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="unknown upstream to fetch 'imagenet'"):
        fetch("cifar10", MODEL, upstream="imagenet", to=str(here / "new"))
    assert capsys.readouterr().out == ""
    assert not (here / "new").exists()
