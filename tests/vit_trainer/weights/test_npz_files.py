import io
import random
import zipfile

import numpy as np
import pytest

from vit_trainer.architectures import MODELS
from vit_trainer.config import UPSTREAMS
from vit_trainer.errors import CheckpointError
from vit_trainer.weights import fetch, npz_files
from vit_trainer.weights.load import read_weights
from vit_trainer.weights.npz_files import (
    RELEASED,
    check_checkpoint,
    check_whole,
    checkpoint_path,
    file_sha256,
    read_npz,
    read_shapes,
    require_checkpoint,
    write_npz,
)

MODEL = "ViT-B_16-mini"


class Watcher:
    def waiting(self, path): ...

    def received(self, num_bytes, total_bytes): ...


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_CHECKPOINTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_files_lie_as_they_do_at_the_source(cache):
    assert checkpoint_path("R50+ViT-B_16", "imagenet21k") == cache / "imagenet21k" / "R50+ViT-B_16.npz"
    path = checkpoint_path("ViT-B_16", "imagenet21k+imagenet2012-224")
    assert path == cache / "imagenet21k+imagenet2012" / "ViT-B_16-224.npz"
    assert set(RELEASED) < set(UPSTREAMS)


def test_what_was_written_is_read_back_and_its_headers_too(tmp_path, make_arrays):
    arrays = make_arrays(MODELS["R50+ViT-B_16-mini"])
    write_npz(tmp_path / "a.npz", arrays)
    back = read_npz(tmp_path / "a.npz")
    assert list(back) == list(arrays)
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    assert read_shapes(tmp_path / "a.npz") == {name: array.shape for name, array in arrays.items()}


def test_a_check_reads_no_more_than_the_headers(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3)}
    )  # 12 TB that are not there
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as archive:
        archive.writestr("head/kernel.npy", header.getvalue())
    assert read_shapes(tmp_path / "large.npz") == {"head/kernel": (1 << 40, 3)}


def test_a_missing_file_says_how_to_get_it(cache):
    with pytest.raises(CheckpointError) as caught:
        require_checkpoint("ViT-L_32", "imagenet21k")
    assert str(caught.value) == (
        "no imagenet21k checkpoint of ViT-L_32: run python -m vit_trainer fetch ViT-L_32 --upstream imagenet21k, "
        f"or put the official file at {cache}/imagenet21k/ViT-L_32.npz"
    )
    with pytest.raises(CheckpointError, match=r"none was released; put a file in the official format at .*ViT-H_14"):
        require_checkpoint("ViT-H_14", "imagenet21k+imagenet2012")
    with pytest.raises(CheckpointError, match="no digits checkpoint of ViT-H_14: python -m vit_trainer pretrain-mini"):
        require_checkpoint("ViT-H_14", "digits")
    assert require_checkpoint("ViT-H_14", "scratch") is None


def test_a_wrong_file_is_found_before_anything_starts(cache, make_arrays):
    path = checkpoint_path(MODEL, "imagenet21k")
    path.parent.mkdir(parents=True)
    write_npz(path, make_arrays(MODELS["R50+ViT-B_16-mini"]))
    with pytest.raises(CheckpointError, match=r"looks like R50\+ViT-B_16-mini; give a file of ViT-B_16-mini"):
        require_checkpoint(MODEL, "imagenet21k")


def test_augregs_file_is_never_called_imagenet21k(cache, make_arrays, monkeypatch):
    monkeypatch.setitem(RELEASED, "imagenet21k", (MODEL,))
    path = checkpoint_path(MODEL, "imagenet21k")
    path.parent.mkdir(parents=True)
    write_npz(path, make_arrays(MODELS[MODEL], num_classes=21, representation_size=48))
    assert require_checkpoint(MODEL, "imagenet21k") == path
    write_npz(path, make_arrays(MODELS[MODEL], num_classes=21))
    message = rf"{MODEL}\.npz isn't the released imagenet21k .* no pre_logits, .*of which trials are called npz-"
    with pytest.raises(CheckpointError, match=message + file_sha256(path)[:12]):
        require_checkpoint(MODEL, "imagenet21k")
    elsewhere = path.rename(cache / f"{MODEL}.npz")
    with pytest.raises(CheckpointError, match=message + file_sha256(elsewhere)[:12]):
        fetch.fetch(MODEL, "imagenet21k", watcher=Watcher(), source=str(elsewhere))
    assert not path.exists()


def test_a_file_that_may_be_augregs_is_doubted_until_it_comes_from_its_authors(cache, make_arrays, server, monkeypatch):
    name, upstream = "ViT-B_16-mini", "imagenet21k+imagenet2012"
    monkeypatch.setattr(fetch, "SHARED", (name,))
    monkeypatch.setitem(RELEASED, upstream, (name,))
    monkeypatch.setenv("no_proxy", "*")
    path = checkpoint_path(name, upstream)
    write_npz(cache.parent / "a.npz", make_arrays(MODELS[name]))
    server.content = (cache.parent / "a.npz").read_bytes()
    fetch.fetch(name, upstream, source=server.address, watcher=Watcher())
    said = fetch.doubt_of(name, upstream)
    assert said.startswith(
        f"{path} (SHA-256 {file_sha256(path)[:12]}) may be another than the released {upstream} file"
    )
    assert fetch.doubt_of("ViT-L_32-mini", upstream) is None
    path.unlink()
    monkeypatch.setattr(fetch, "OFFICIAL_SOURCE", server.address)
    fetch.fetch(name, upstream, watcher=Watcher())
    assert fetch.doubt_of(name, upstream) is None
    write_npz(path, make_arrays(MODELS[name], seed=1))
    assert fetch.doubt_of(name, upstream)


def test_pickled_objects_are_refused_unread(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(tmp_path / "a.npz", cls=np.array([Trap()], dtype=object))
    for read in (read_npz, read_shapes):
        with pytest.raises(CheckpointError, match=r"a\.npz holds pickled objects.*could run code: refused"):
            read(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, make_arrays, keep):
    path = tmp_path / "a.npz"
    write_npz(path, make_arrays(MODELS[MODEL]))
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    for read in (read_npz, read_shapes, check_whole):
        with pytest.raises(CheckpointError, match=r"a\.npz is (truncated|damaged).*: fetch it again"):
            read(path)


def test_one_wrong_byte_is_found(tmp_path, make_arrays):
    path = tmp_path / "a.npz"
    np.savez(path, **make_arrays(MODELS[MODEL]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    check_checkpoint(path, MODEL)
    for read in (read_npz, check_whole):
        with pytest.raises(CheckpointError, match=r"a\.npz is .*: fetch it again"):
            read(path)


def test_other_things_than_checkpoints_are_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3, np.float32))
    np.savez(tmp_path / "double.npz", cls=np.zeros((1, 1, 48)))
    (tmp_path / "text.npz").write_text("not a checkpoint")
    for name, problem in [("one.npy", "npz"), ("text.npz", "no .npz archive"), ("double.npz", "cls is float64, not")]:
        with pytest.raises(CheckpointError, match=f"{name}.*{problem}"):
            check_checkpoint(tmp_path / name, MODEL)
    with pytest.raises(CheckpointError, match="is a folder"):
        check_checkpoint(tmp_path, MODEL)
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nothing\.npz"):
        check_checkpoint(tmp_path / "nothing.npz", MODEL)


def test_what_nobody_asked_for_is_not_unpacked(tmp_path, make_arrays, monkeypatch):
    arrays = make_arrays(MODELS[MODEL])
    write_npz(tmp_path / "a.npz", {**arrays, "opt/target": np.zeros(10_000_000, np.float32)})
    assert (tmp_path / "a.npz").stat().st_size < 1_000_000
    assert read_weights(tmp_path / "a.npz", MODEL).keys() == arrays.keys()
    monkeypatch.setattr(npz_files, "MAX_BYTES", 20_000_000)
    with pytest.raises(CheckpointError, match=r"a\.npz unpacks to 0 GB, which no checkpoint does: give another"):
        check_checkpoint(tmp_path / "a.npz", MODEL)
    large = {**arrays, "head/kernel": np.zeros((48, 70_000), np.float32), "head/bias": np.zeros(70_000, np.float32)}
    write_npz(tmp_path / "b.npz", large)
    with pytest.raises(CheckpointError, match=r"head/kernel has shape \(48, 70000\), not \(48, any\)"):
        check_checkpoint(tmp_path / "b.npz", MODEL)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_when_they_are_loaded(tmp_path, make_arrays, value):
    arrays = make_arrays(MODELS[MODEL])
    arrays["head/bias"][0] = value
    write_npz(tmp_path / "a.npz", arrays)
    with pytest.raises(CheckpointError, match=r"a\.npz: head/bias holds numbers that are not finite: give another"):
        read_weights(tmp_path / "a.npz", MODEL)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_whatever_byte_is_wrong_it_is_one_line_or_nothing(tmp_path, make_arrays, compression):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in make_arrays(MODELS[MODEL]).items():
            file = io.BytesIO()
            np.save(file, array)
            archive.writestr(f"{name}.npy", file.getvalue())
    content, draw = path.read_bytes(), random.Random(compression)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 20))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.2:
            del damaged[draw.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        said = ""
        try:
            check_whole(path)
            read_weights(path, MODEL)
        except CheckpointError as error:
            said = str(error)
        assert "\n" not in said
