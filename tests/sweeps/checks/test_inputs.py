"""Checkpoints and data sets are looked at where trials run, which a head without slots isn't."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image

from sweeps.checks.inputs import Inputs, lacking
from sweeps.planning.cores import decoding_seconds
from sweeps.planning.memory_and_disk import node_inputs
from sweeps.table.cells import Trial, official_cell
from tests.stores import free_port
from vit_trainer.commands.pack import pack
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.shards.remote import PATIENCE_VARIABLE
from vit_trainer.errors import DataError, InputError
from vit_trainer.weights.npz_files import checkpoint_path

MODEL, MINIATURE = "ViT-B_16", "ViT-B_16-mini"


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither checkpoints nor data sets."""
    for name in ("VIT_CHECKPOINTS", "VIT_DATA"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    return tmp_path


def test_a_node_says_what_a_trial_lacks_unless_it_comes_by_itself(nothing_here: Path) -> None:
    config = FinetuneConfig.official(MODEL, "imagenet2012")
    assert "fetch ViT-B_16 --upstream imagenet21k" in lacking(config)
    scratch = FinetuneConfig.official(MODEL, "imagenet2012", upstream="scratch")
    assert lacking(scratch).startswith(f"no {nothing_here}/nothing/imagenet2012: python -m vit_trainer fetch imagenet2")
    assert lacking(FinetuneConfig.official(MODEL, "cifar10", upstream="scratch")) == ""


def test_of_shards_in_a_bucket_the_metadata_is_enough(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, where in (("XDG_CACHE_HOME", "user"), ("VIT_SHARD_CACHE", "cache/shards")):
        monkeypatch.setenv(name, str(tmp_path / where))
    for place in (f"pets/{part}/{name}" for part in ("train", "val") for name in ("cat", "dog")):
        (tmp_path / place).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, len(place), 0)).save(tmp_path / place / f"{number}.png")
    pets = bucket.replace("/results", "/pets")
    pack(str(tmp_path / "pets"), output=pets)
    inputs = Inputs((), (pets, "digits-even"))
    inputs.require()
    assert not (tmp_path / "cache").exists()
    assert inputs.problems() == []
    assert inputs.cache() == [("ok", f"0.0 GB of shards fit in {tmp_path}/cache/shards")]
    monkeypatch.setattr("sweeps.checks.inputs.RESERVE", 1.0)
    ((kind, said),) = inputs.cache()
    assert (kind, said) == (
        "warn", f"{tmp_path}/cache/shards has room for 0.0 of 0.0 GB of shards: what does not fit is read by range"
    )  # fmt: skip
    assert Inputs((), ("digits-even", str(tmp_path / "pets"))).cache() == []
    there = node_inputs([Trial(official_cell("ViT-B_16", pets), 0.03, 0)])
    assert (len(there.packed), there.num_files, 0 < there.packed_bytes < 40_000) == (1, 16, True)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_head_that_trains_nothing_needs_nothing(
    nothing_here: Path, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = Inputs(((MINIATURE, "imagenet21k"),), ("digits-even", "cifar10"))
    ray.init(address=cluster.address)
    try:
        needed.require()
        assert "each is asked for checkpoints and data as it comes" in capsys.readouterr().err
        (nothing_here / "there" / "imagenet21k").mkdir(parents=True)
        shutil.copy(checkpoint_path(MINIATURE, "digits"), nothing_here / "there" / "imagenet21k")
        there = {"VIT_CHECKPOINTS": str(nothing_here / "there")}
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2", env_vars=there)
        needed.require()
        assert capsys.readouterr().err == (
            "on nodes: missing: python -m vit_trainer fetch cifar10, else with the first trial\n"
        )
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
        with pytest.raises(InputError, match=r"^node 127.0.0.3: no imagenet21k checkpoint of ViT-B_16-mini: none was"):
            needed.require()
        with pytest.raises(InputError, match=r"^node 127.0.0.[23]: missing: .*bucket/inputs; and 1 more such$"):
            Inputs((), ("imagenet2012",)).require()
        cluster.add_node(num_cpus=1)  # on this machine, which lacks it then
        with pytest.raises(InputError, match=r"^no imagenet21k checkpoint of ViT-B_16-mini"):
            needed.require()
    finally:
        ray.shutdown()


def test_a_plan_says_at_once_that_a_bucket_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv(PATIENCE_VARIABLE, "3")
    for place in (f"pets/{part}/{name}" for part in ("train", "val") for name in ("cat", "dog")):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "0.png")
    pack(str(tmp_path / "pets"), output=str(tmp_path / "packed"))
    away = f"s3://bucket/pets?endpoint_override=127.0.0.1%3A{free_port()}&scheme=http&region=us-east-1"
    (tmp_path / "packed" / "origin.json").write_text(json.dumps({"location": away}))
    with pytest.raises(DataError, match="cannot list s3://"):
        decoding_seconds(str(tmp_path / "packed"))
