"""Nodes train from shards in a bucket: one is lost and an empty one takes its place, and the bucket goes away."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stores import FaultyBucket
from tests.sweeps.sweep_process import Start, numbers
from tests.vit_trainer.data.conftest import image_folder  # noqa: F401
from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.datasets import dataset_id
from vit_trainer.data.shards import cache, packing, remote
from vit_trainer.data.shards.packed import Header
from vit_trainer.files.progress_bar import ProgressBar

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
FLAGS = ["--total-steps", "60", "--warmup-steps", "5", "--global-batch-size", "16", "--num-workers", "1"]


def packed_into(output: str, root: Path) -> Header:
    with ProgressBar("packing") as bar:
        return packing.pack(find_class_folders(root), dataset_id(str(root)), output, 16_000, bar)


def add_node(cluster: Any, cache_folder: Path, **environment: str) -> Any:
    """A node with a cache of its own, and the credentials that a machine's role gives."""
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED")
    there = {cache.VARIABLE: str(cache_folder), "XDG_CACHE_HOME": f"{cache_folder}-user"}
    return cluster.add_node(num_cpus=1, env_vars=there | environment | {key: os.environ[key] for key in keys})


def test_a_node_that_is_lost_and_replaced_by_an_empty_one_changes_no_bit(
    start: Start,
    cluster: Any,
    bucket: str,
    image_folder: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    root, packed = image_folder(), bucket.replace("/results", "/pets")
    header = packed_into(packed, root)
    nodes = [add_node(cluster, tmp_path / name) for name in "ab"]
    flags = [*FLAGS, "--base-lrs", "0.003", "0.002", "0.001"]
    files = start(tmp_path / "files", "--datasets", str(root), *flags, address=cluster.address)
    code, _, err = files.finish(400)
    assert code == 0, err
    shards = start(tmp_path / "shards", "--datasets", packed, *flags, address=cluster.address)
    shards.wait_until(lambda run_dir: bool(run_dir.journal()), 300)
    add_node(cluster, tmp_path / "c")
    cluster.remove_node(nodes[0], allow_graceful=False)
    code, _, err = shards.finish(400)
    assert code == 0, err
    assert numbers(tmp_path / "shards") == numbers(tmp_path / "files")
    names = {path.name for path in (tmp_path / "c").glob("*.tar")}
    assert names == {cache.cached_path(Path(), shard).name for shard in header.shards}


def test_a_bucket_that_goes_away_is_no_failure_of_the_trials(
    start: Start,
    cluster: Any,
    bucket: str,
    image_folder: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    place, _, options = bucket.replace("/results", "/cats").partition("?")
    packed_into(f"{place}?{options}", image_folder())
    faulty = FaultyBucket(options.partition("endpoint_override=")[2].partition("&")[0].replace("%3A", ":"))
    uri = f"{place}?endpoint_override={faulty.address.replace(':', '%3A')}&scheme=http&region=us-east-1"
    nowhere = Path("/proc/none")  # nothing can be kept there: every image is read by range
    add_node(cluster, tmp_path / "a", **{cache.VARIABLE: str(nowhere), remote.PATIENCE_VARIABLE: "2"})
    rates = ["--base-lrs", "0.003", "--max-failures", "0"]
    sweep = start(tmp_path / "cats", "--datasets", uri, *FLAGS, *rates, address=cluster.address)
    sweep.wait_until(lambda run_dir: bool(run_dir.journal()), 300)
    faulty.fault = lambda method, path: "expired"
    sweep.wait_until(lambda run_dir: len(run_dir.attempts()) > 1, 300)
    faulty.fault = lambda method, path: ""
    code, out, err = sweep.finish(400)
    faulty.close()
    assert code == 0, err
    assert "images can't be read from s3://sweeps/cats" in out
    assert "more than max_failures" not in out
