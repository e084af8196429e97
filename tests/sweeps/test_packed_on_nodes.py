"""Two nodes train from shards in a bucket, each with its own cache; one is lost, and an empty one takes its place."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.sweep_process import Start, has_validated, numbers
from tests.vit_trainer.data.conftest import image_folder  # noqa: F401
from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.datasets import dataset_id
from vit_trainer.data.shards import cache, packing
from vit_trainer.files.progress_bar import ProgressBar

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_a_node_that_is_lost_and_replaced_by_an_empty_one_changes_no_bit(
    start: Start,
    cluster: Any,
    bucket: str,
    image_folder: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    root, packed = image_folder(), bucket.replace("/results", "/pets")
    with ProgressBar("") as bar:
        header = packing.pack(find_class_folders(root), dataset_id(str(root)), packed, 16_000, bar)

    def node(name: str) -> Any:
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED")
        there = {cache.VARIABLE: str(tmp_path / name), "XDG_CACHE_HOME": str(tmp_path / f"{name}-user")}
        return cluster.add_node(num_cpus=1, env_vars=there | {key: os.environ[key] for key in keys})

    nodes = [node("a"), node("b")]
    flags = ["--total-steps", "60", "--warmup-steps", "5", "--global-batch-size", "16", "--num-workers", "1"]
    files = start(tmp_path / "files", "--datasets", str(root), *flags, address=cluster.address)
    code, _, err = files.finish(400)
    assert code == 0, err
    shards = start(tmp_path / "shards", "--datasets", packed, *flags, address=cluster.address)
    shards.wait_until(has_validated)
    cluster.remove_node(nodes[0], allow_graceful=False)
    node("c")
    code, _, err = shards.finish(400)
    assert code == 0, err
    assert numbers(tmp_path / "shards") == numbers(tmp_path / "files")
    for name in "bc":
        names = {path.name for path in (tmp_path / name).glob("*.tar")}
        assert names == {cache.cached_path(Path(), shard).name for shard in header.shards}
