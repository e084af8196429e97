import re
import subprocess
import sys
from pathlib import Path

import pytest

from vit_trainer.architectures import MODELS
from vit_trainer.errors import CheckpointError, InputError
from vit_trainer.weights.fetch import fetch, file_address
from vit_trainer.weights.npz_files import OFFICIAL_SOURCE, RELEASED, write_npz

MODEL = "ViT-B_16-mini"

CHILD = f"""
import sys
from vit_trainer.weights.fetch import fetch

class Watcher:
    def waiting(self, path):
        print("waiting", flush=True)

    def received(self, num_bytes, total_bytes):
        print("received", num_bytes, flush=True)

path, downloaded = fetch({MODEL!r}, "imagenet21k", source=sys.argv[1], watcher=Watcher())
print("downloaded" if downloaded else "found", flush=True)
"""


class Watcher:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def waiting(self, path: Path) -> None:
        raise AssertionError("nobody else downloads")

    def received(self, num_bytes: int, total_bytes: int | None) -> None:
        self.sizes.append(num_bytes)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VIT_CHECKPOINTS", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.fixture
def official(tmp_path, make_arrays) -> bytes:
    write_npz(tmp_path / "official.npz", make_arrays(MODELS[MODEL], grid=8))
    return (tmp_path / "official.npz").read_bytes()


def start_child(source: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", CHILD, source], stdout=subprocess.PIPE, text=True)


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vit_trainer", "fetch", *arguments], capture_output=True, text=True, check=False
    )


def test_addresses_of_every_released_file_escape_the_plus():
    addresses = {
        (upstream, model): file_address(OFFICIAL_SOURCE, model, upstream)
        for upstream, models in RELEASED.items()
        for model in models
    }
    root = "https://storage.googleapis.com/vit_models"
    assert addresses["imagenet21k", "ViT-H_14"] == f"{root}/imagenet21k/ViT-H_14.npz"
    assert (
        addresses["imagenet21k+imagenet2012", "R50+ViT-B_16"] == f"{root}/imagenet21k%2Bimagenet2012/R50%2BViT-B_16.npz"
    )
    assert (
        addresses["imagenet21k+imagenet2012-224", "ViT-L_16"] == f"{root}/imagenet21k%2Bimagenet2012/ViT-L_16-224.npz"
    )
    assert len(set(addresses.values())) == len(addresses) == 13


def test_several_processes_ask_at_once_and_one_downloads(server, cache, official):
    server.content, server.hold_after = official, len(official) // 2
    children = [start_child(f"{server.address}/mirror") for _ in range(4)]
    firsts = [child.stdout.readline().split()[0] for child in children]
    assert sorted(firsts) == ["received", "waiting", "waiting", "waiting"]
    server.go_on.set()
    lasts = [child.communicate()[0].split()[-1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert sorted(lasts) == ["downloaded", "found", "found", "found"]
    assert server.requests == [(f"/mirror/imagenet21k/{MODEL}.npz", None)]
    assert (cache / "imagenet21k" / f"{MODEL}.npz").read_bytes() == official


def test_a_killed_downloader_blocks_nobody_and_its_successor_goes_on(server, cache, official):
    half = len(official) // 2
    server.content, server.hold_after = official, half
    child = start_child(server.address)
    assert child.stdout is not None
    while child.stdout.readline() != f"received {half}\n":
        assert child.poll() is None
    child.kill()
    child.communicate()
    server.go_on.set()
    watcher = Watcher()
    path, downloaded = fetch(MODEL, "imagenet21k", source=server.address, watcher=watcher)
    assert downloaded
    assert watcher.sizes[0] == half
    assert [asked for _, asked in server.requests] == [None, f"bytes={half}-"]
    assert path.read_bytes() == official


@pytest.mark.parametrize("layout", [f"imagenet21k/{MODEL}.npz", f"{MODEL}.npz"])
def test_a_folder_can_be_the_source(tmp_path, cache, official, layout):
    file = tmp_path / "mirror" / layout
    file.parent.mkdir(parents=True)
    file.write_bytes(official)
    for source in (str(tmp_path / "mirror"), str(file), file.as_uri()):
        path, downloaded = fetch(MODEL, "imagenet21k", source=source, watcher=Watcher())
        assert downloaded
        assert path.read_bytes() == official
        path.unlink()


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "another model"])
def test_a_bad_file_is_named_and_not_used(tmp_path, cache, official, make_arrays, damage):
    source = tmp_path / "source.npz"
    if damage == "truncated":
        source.write_bytes(official[:-100])
    elif damage == "corrupt":
        source.write_bytes(official[:90_000] + bytes(50) + official[90_050:])
    else:
        write_npz(source, make_arrays(MODELS["ViT-L_32-mini"], grid=4))
    with pytest.raises(CheckpointError, match=re.escape(str(source))) as caught:
        fetch(MODEL, "imagenet21k", source=str(source), watcher=Watcher())
    assert ("looks like ViT-L_32-mini" in str(caught.value)) == (damage == "another model")
    assert [file.name for file in (cache / "imagenet21k").iterdir()] == [f".{MODEL}.npz.lock"]


def test_what_was_never_released_cannot_be_fetched(cache):
    with pytest.raises(
        InputError, match="no imagenet21k\\+imagenet2012 file of ViT-H_14 was released; valid: ViT-B_16"
    ):
        fetch("ViT-H_14", "imagenet21k+imagenet2012", watcher=Watcher())
    with pytest.raises(InputError, match="unknown upstream to fetch 'imagenet-21k'; did you mean 'imagenet21k'"):
        fetch("ViT-H_14", "imagenet-21k", watcher=Watcher())


def test_the_command_without_a_network(cache):
    done = command("R50+ViT-B_16", "--source", "http://127.0.0.1:1/mirror")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: cannot read http://127.0.0.1:1/mirror/imagenet21k/R50%2BViT-B_16.npz (Connection refused): "
        f"put that file at {cache}/imagenet21k/R50+ViT-B_16.npz\n"
    )


def test_the_command_says_what_it_fetched(server, cache, official):
    server.content = official
    for ending in ("0.3 MB", "0.3 MB, was there already"):
        done = command(MODEL, "--source", server.address)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{cache}/imagenet21k/{MODEL}.npz: {MODEL}, 32 px, 10 classes, {ending}\n"


def test_data_sets_are_fetched_too(monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_DATA", str(tmp_path))
    done = command("digits-even")
    assert (done.returncode, done.stdout) == (0, f"digits-even: complete in {tmp_path}\n")
    done = command("imagenet2012", "cifar100")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert str(tmp_path / "imagenet2012") in done.stderr
    done = command("cifar1000")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown model or data set 'cifar1000'; did you mean 'cifar100'?")
