"""How fast do images come from shards, beside files? And how soon does a node with an empty cache have its first batch?

The same JPEG files, as files and packed, are decoded and cut in one process with one thread, all in turn: from files,
from shards in the node's cache, and one by one from a bucket, which is moto's server on this machine; by processor
time, since a worker waits for a bucket beside others. Before that a cold start by the clock: from nothing to the first
batch, with the bytes that this needs; `--num-listed 1331167` makes the index as long as ImageNet's, over few images.

Command: python benchmarks/shards.py
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.jpeg import speeds, write_images
from benchmarks.provenance import machine, write_json
from vit_trainer.command_line import new_app, run
from vit_trainer.errors import InputError

if TYPE_CHECKING:
    from vit_trainer.data.shards.packed import Header

app = new_app("Measures the way from shards to a batch.", name="shards.py")

LEAST_OF_FILES = 0.95
NUM_CLASSES = 8
PORT = 5599


@app.default
def shards(
    *,
    num_images: int = 512,
    num_listed: int = 0,
    batch_size: int = 64,
    resolution: int = 384,
    repeats: int = 9,
    shard_megabytes: int = 8,
    json: Path | None = None,
) -> int:
    """Read the same images each way in turn.

    Args:
        num_images: made up; at least 16.
        num_listed: images in the index; more than there are come from the same places in shards.
        batch_size: images of a batch.
        resolution: side of the crops in pixels.
        repeats: the median counts.
        shard_megabytes: size of a shard.
        json: where to write the figures.
    """
    if not 16 <= batch_size <= num_images:
        raise InputError(f"batch_size {batch_size} is outside [16, num_images={num_images}]: give such as 64")
    import torch

    torch.set_num_threads(1)
    console = Console(highlight=False)
    console.print(machine())
    with tempfile.TemporaryDirectory() as made_up:
        top = Path(made_up)
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
        os.environ |= keys | {"XDG_CACHE_HOME": str(top / "user"), "VIT_SHARD_CACHE": str(top / "cache")}
        _write(top / "files", num_images)
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(PORT)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            figures = _figures(top, num_listed, batch_size, resolution, repeats, shard_megabytes)
        finally:
            server.kill()
            server.wait()
    title = f"Batches of {batch_size}, ready for a GPU that resizes, per core"
    target = ("shards", f"at least {LEAST_OF_FILES}")
    console.print(speeds(title, "files", figures["seconds"], batch_size, target))
    cold = figures["cold"]
    console.print(
        f"with an empty cache: a first batch of {batch_size} after {cold['seconds']:.1f} s, which needs "
        f"{cold['bytes'] / 1e6:.1f} MB of {cold['all_bytes'] / 1e6:.1f}, and the cache whole after "
        f"{cold['seconds_to_fill']:.1f} s"
    )
    if json is not None:
        write_json(json, figures | {"load": os.getloadavg()[0]})
    return 0


def _write(root: Path, num_images: int) -> None:
    (root / "all").mkdir(parents=True)
    for i, path in enumerate(write_images(root / "all", num_images)):
        for part in ("train", "val") if i < 2 * NUM_CLASSES else ("train",):
            folder = root / part / str(i % NUM_CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / path.name)
    shutil.rmtree(root / "all")


def _figures(
    top: Path, num_listed: int, batch_size: int, resolution: int, repeats: int, shard_megabytes: int
) -> dict[str, Any]:
    from pyarrow.fs import FileSystem

    from vit_trainer.data.class_folders import find_class_folders
    from vit_trainer.data.datasets import dataset_id
    from vit_trainer.data.image_files import CutReader
    from vit_trainer.data.load import load_dataset
    from vit_trainer.data.shards import cache
    from vit_trainer.data.shards.packed import open_packed
    from vit_trainer.data.shards.packing import pack
    from vit_trainer.data.shards.reading import contents_of, rows_of
    from vit_trainer.data.splits import MicroBatch
    from vit_trainer.files.progress_bar import ProgressBar

    uri = f"s3://bucket/packed?endpoint_override=127.0.0.1%3A{PORT}&scheme=http&region=us-east-1"
    _wait(lambda: FileSystem.from_uri(f"{uri}&allow_bucket_creation=true")[0].create_dir("bucket"))
    files = find_class_folders(top / "files")
    with ProgressBar("packing") as bar:
        header = pack(files, dataset_id(str(top / "files")), uri, 10**6 * shard_megabytes, bar)
    if num_listed:
        header = _lengthened(uri, num_listed)

    # A cold start, with workers as training has them.
    import torch

    shutil.rmtree(top / "user", ignore_errors=True)
    begun = time.perf_counter()
    train = load_dataset(uri, num_workers=2).train
    first = MicroBatch(0, slice(0, batch_size), np.random.default_rng(0).permutation(len(train))[:batch_size])
    next(iter(train.train_batches([first], seed=0, resolution=resolution, device=torch.device("cpu"))))
    seconds = time.perf_counter() - begun
    packed = open_packed(uri)
    assert packed is not None
    _wait(lambda: [cache.cached_path(top / "cache", shard).stat() for shard in header.shards])
    cold = {
        "seconds": seconds,
        "seconds_to_fill": time.perf_counter() - begun,
        "bytes": int(rows_of(packed, train.names[first.indices]).sizes.sum()) + header.index.num_bytes,
        "all_bytes": header.num_bytes + header.index.num_bytes,
    }

    paths = np.array([os.fsencode(path) for path in files.paths("train")])
    contents = {"files": contents_of(files, paths), "shards that are here": contents_of(find_class_folders(uri), paths)}
    os.environ["VIT_SHARD_CACHE"] = str(top / "none")
    contents["one by one from the bucket"] = contents_of(find_class_folders(uri), paths)
    readers = {
        name: CutReader(each, len(paths), seed=0, resolution=resolution, replaces=False)
        for name, each in contents.items()
    }

    def batch(step: int) -> MicroBatch:
        chosen = np.random.default_rng(step).permutation(len(paths))[:batch_size]
        return MicroBatch(step, slice(0, batch_size), chosen)

    def call(reader: CutReader) -> Callable[[int], object]:
        return lambda step: reader[batch(step)]

    calls = {name: call(reader) for name, reader in readers.items()}
    return {"seconds": _processor_seconds(calls, repeats), "cold": cold}


def _processor_seconds(calls: dict[str, Callable[[int], object]], repeats: int) -> dict[str, list[float]]:
    """Of each call, all in turn; a first round isn't counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            begun = time.process_time()
            call(repeat)
            seconds[name] += [time.process_time() - begun] if repeat else []
    return seconds


def _lengthened(uri: str, num_listed: int) -> "Header":
    """Have a packed folder's index list its images of train again and again, under other names."""
    from vit_trainer.data.shards.packed import HEADER, INDEX, Index, PackedFile, open_packed
    from vit_trainer.files.folder import open_folder

    packed = open_packed(uri)
    assert packed is not None
    index, num_train = packed.index, packed.header.num_images["train"]
    again = np.arange(num_listed - len(index)) % num_train
    names = enumerate(map(os.path.split, index.paths[again].tolist()))
    paths = [b"%s/n01440764_%d-%s" % (folder, i, name) for i, (folder, name) in names]
    rows = {name: np.concatenate([values, values[again]]) for name, values in vars(index).items() if name != "paths"}
    content = Index(np.concatenate([index.paths, np.array(paths)]), **rows).to_parquet()
    header = replace(
        packed.header,
        num_images=packed.header.num_images | {"train": num_train + len(again)},
        index=PackedFile(INDEX, len(content), hashlib.sha256(content).hexdigest()),
    )
    folder = open_folder(uri)
    folder.write(INDEX, content)
    folder.write(HEADER, header.to_json())
    return header


def _wait(look: Any) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            look()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    run(app)
