"""Packed folders: the same bits as from files, whatever happens to the bucket, the cache and the processes."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from tests.stores import FaultyBucket
from tests.vit_trainer.data.test_image_files import STEP_SIZE, evaluated, trained_on
from tests.vit_trainer.finished_trial import outcome_of, output_of, weights_of
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.datasets import DATASETS, dataset_id, id_and_path, listed_folder, with_id
from vit_trainer.data.families import folder
from vit_trainer.data.image_files import ImageFileSplit
from vit_trainer.data.load import load_dataset, require_dataset
from vit_trainer.data.shards import cache, packing, remote
from vit_trainer.data.shards.packed import HEADER, INDEX, Header, adopt, open_packed
from vit_trainer.errors import DataError, DataOutageError, InputError
from vit_trainer.files.folder import LocalFolder, open_folder
from vit_trainer.files.run_dir import RunDir
from vit_trainer.train import train

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
Write = Callable[..., Path]
SHARD_BYTES = 16_000


class Silent:
    def waiting(self, path: Path) -> None: ...

    def received(self, num_bytes: int, total_bytes: int | None) -> None: ...


def packed_into(output: str, root: Path) -> Header:
    return packing.pack(find_class_folders(root), dataset_id(str(root)), output, SHARD_BYTES, Silent())


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_filled", set())
    listed_folder.cache_clear()
    yield
    remote.forget()


@pytest.fixture
def pets(image_folder: Write, tmp_path: Path) -> Path:
    """A folder of classes; beside it, packed."""
    root = image_folder()
    packed_into(str(tmp_path / "packed"), root)
    return root


@pytest.fixture
def in_bucket(pets: Path, tmp_path: Path, bucket: str) -> Iterator[tuple[str, FaultyBucket]]:
    """The URI of the same in a bucket, whose faults can be chosen."""
    place, _, options = bucket.partition("?")
    name = f"{place}/{tmp_path.name}"
    target = open_folder(f"{name}?{options}")
    for path in (tmp_path / "packed").iterdir():
        target.write(path.name, path.read_bytes())
    server = options.partition("endpoint_override=")[2].partition("&")[0].replace("%3A", ":")
    faulty = FaultyBucket(server)
    yield f"{name}?endpoint_override={faulty.address.replace(':', '%3A')}&scheme=http&region=us-east-1", faulty
    faulty.close()


def fills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "fill", lambda packed: [])


def shard_reads(faulty: FaultyBucket) -> list[str]:
    return [path for method, path in faulty.requests if method == "GET" and ".tar" in path]


def splits(name: str, num_workers: int = 0) -> tuple[ImageFileSplit, ImageFileSplit]:
    loaded = folder.load(name, num_workers=num_workers)
    assert isinstance(loaded.train, ImageFileSplit)
    assert isinstance(loaded.test, ImageFileSplit)
    return loaded.train, loaded.test


def require_same(name: str, files: Path, num_workers: int = 0) -> None:
    for own, other in zip(splits(name, num_workers), splits(str(files)), strict=True):
        assert own.names.tolist() == other.names.tolist()
        for read in (lambda split: trained_on(split, STEP_SIZE), evaluated):
            for one, another in zip(read(own), read(other), strict=True):
                assert torch.equal(one, another)


# Packing.


def test_any_tar_lists_the_shards_and_the_index_says_where_each_image_lies(pets: Path, tmp_path: Path) -> None:
    packed = open_packed(str(tmp_path / "packed"))
    assert packed is not None
    assert len(packed.header.shards) > 3
    assert max(shard.num_bytes for shard in packed.header.shards) <= SHARD_BYTES
    content = {}
    for shard in packed.header.shards:
        with tarfile.open(tmp_path / "packed" / shard.name) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                content[member.name] = file.read(), shard.name, member.offset_data
    assert content.keys() == {str(path.relative_to(pets)) for path in pets.rglob("*.JPEG")}
    for i, name in enumerate(os.fsdecode(path) for path in packed.index.paths):
        shard = packed.header.shards[packed.index.shards[i]].name
        assert content[name] == ((pets / name).read_bytes(), shard, packed.index.offsets[i])


def test_what_was_killed_goes_on_and_comes_to_the_same_bytes(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, written = str(tmp_path / "again"), list[str]()
    write = LocalFolder.write

    def written_until_killed(self: LocalFolder, name: str, *parts: bytes) -> None:
        if name == "train-00002.tar":
            raise OSError(None, "killed")
        written.append(name)
        write(self, name, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", written_until_killed)
        with pytest.raises(InputError, match="the same command goes on"):
            packed_into(output, pets)
    assert written[:3] == ["packing/begun", "train-00000.tar", "packing/train-00000.tar.json"]
    assert open_packed(output) is None
    Path(output, ".train-00002.tar.0123abcd.tmp").write_bytes(b"what a killed process leaves")
    os.utime(Path(output, "train-00000.tar"), (1, 1))
    packed_into(output, pets)
    assert Path(output, "train-00000.tar").stat().st_mtime == 1
    contents = [
        {path.name: path.read_bytes() for path in Path(each).iterdir()} for each in (output, tmp_path / "packed")
    ]
    assert contents[0] == contents[1]


def test_what_may_not_be_packed_there_is_refused_in_one_line(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], image_folder: Write
) -> None:
    packed = str(tmp_path / "packed")
    assert "51 images in" in output_of(["pack", str(pets), "--output", packed], capsys)  # it is there already
    other = image_folder("others", classes=("a", "b"))
    foreign, hidden = tmp_path / "foreign", tmp_path / "hidden"
    for file in (foreign / "train-00000.tar", hidden / ".git" / "HEAD"):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"another's")
    output_of(["pack", str(other), "--output", str(hidden)], capsys)
    assert (hidden / ".git" / "HEAD").read_bytes() == b"another's"
    wrong = {
        ("./nowhere", str(tmp_path / "new")): "no folder of classes",
        ("cifar10", str(tmp_path / "new")): "cifar10 cannot be packed",
        (packed, str(tmp_path / "new")): "is packed already",
        (str(pets), str(pets / "packed")): "lies in",
        (str(pets), str(tmp_path)): "holds something else, such as",
        (str(other), packed): "holds pets-v2-",
        (str(other), str(foreign)): "holds something else, such as train-00000.tar",
    }
    for (dataset, output), reason in wrong.items():
        code, _, err = outcome_of(["pack", dataset, "--output", output], capsys)
        assert (code, err.count("\n")) == (2, 1), err
        assert reason in err
    assert not (tmp_path / "new").exists()


# Names.


def test_a_packed_folder_is_the_same_data_set(pets: Path, tmp_path: Path, in_bucket: tuple[str, FaultyBucket]) -> None:
    uri, own = in_bucket[0], dataset_id(str(pets))
    for name in (str(tmp_path / "packed"), uri):
        assert dataset_id(name) == own
        assert id_and_path(with_id(name)) == (own, name)
        config, other = (FinetuneConfig.official("ViT-B_16-mini", each) for each in (with_id(name), str(pets)))
        assert config.trial_id == other.trial_id
        first = [find_class_folders(each, version=1).contents_id({}) for each in (name, pets)]
        assert first[0] == first[1]
    with pytest.raises(DataError, match="isn't pets-v2-0123456789ab any more"):
        dataset_id(f"pets-v2-0123456789ab:{uri}")


def test_an_adopted_folder_reads_from_where_it_came(
    pets: Path, tmp_path: Path, in_bucket: tuple[str, FaultyBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    fills_nothing(monkeypatch)
    for number, source in enumerate((in_bucket[0], str(tmp_path / "packed"))):
        copy = tmp_path / f"copy-{number}"
        assert adopt(source, copy) is not None
        assert sorted(path.name for path in copy.iterdir()) == ["index.parquet", "origin.json", "shards.json"]
        require_dataset(str(copy))
        require_same(str(copy), pets)
    assert adopt(str(pets), tmp_path / "copy-2") is None
    write = LocalFolder.write

    def killed_after_the_header(self: LocalFolder, name: str, *parts: bytes) -> None:
        write(self, name, *parts)
        if name == HEADER:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", killed_after_the_header)
        with pytest.raises(KeyboardInterrupt):
            adopt(str(tmp_path / "packed"), tmp_path / "copy-3")
    require_same(str(tmp_path / "copy-3"), pets)
    with pytest.raises(InputError, match="holds images in files"):
        adopt(in_bucket[0], pets)


def test_imagenet_is_packed_and_each_node_fetches_its_index_alone(
    image_folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = image_folder("imagenet2012")
    monkeypatch.setenv("VIT_DATA", str(tmp_path))
    small = replace(DATASETS["imagenet2012"], num_classes=3, num_train=33, num_validation=3, num_test=15)
    command = ["pack", "imagenet2012", "--output", str(tmp_path / "mirror" / "imagenet2012")]
    code, _, err = outcome_of(command, capsys)
    assert code == 2
    assert "has 3 classes, not 1000" in err
    monkeypatch.setitem(DATASETS, "imagenet2012", small)
    assert "imagenet2012: 51 images" in output_of(command, capsys)
    expected = load_dataset("imagenet2012", num_workers=0)
    shutil.move(files, tmp_path / "away")
    output_of(["fetch", "imagenet2012", "--source", str(tmp_path / "mirror")], capsys)
    assert sorted(path.name for path in files.iterdir()) == ["index.parquet", "origin.json", "shards.json"]
    shutil.copytree(tmp_path / "away", files, dirs_exist_ok=True)  # which `expected` reads
    own = load_dataset("imagenet2012", num_workers=0)
    for one, other in ((own.train, expected.train), (own.validation, expected.validation), (own.test, expected.test)):
        assert isinstance(one, ImageFileSplit)
        assert isinstance(other, ImageFileSplit)
        assert one.names.tolist() == other.names.tolist()
        assert torch.equal(evaluated(one)[0], evaluated(other)[0])


# The same bits.


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_from_files(pets: Path, tmp_path: Path, num_workers: int) -> None:
    require_same(str(tmp_path / "packed"), pets, num_workers)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_from_a_bucket_are_those_from_files(
    pets: Path, tmp_path: Path, in_bucket: tuple[str, FaultyBucket], num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fills_nothing(patch)
        require_same(in_bucket[0], pets, num_workers)
    assert not list((tmp_path / "cache").glob("*.tar"))
    packed = open_packed(in_bucket[0])
    assert packed is not None
    for thread in cache.fill(packed):
        thread.join()
    assert len(list((tmp_path / "cache").glob("*.tar"))) == len(packed.header.shards)
    in_bucket[1].requests.clear()
    require_same(in_bucket[0], pets, num_workers)
    assert not shard_reads(in_bucket[1])


# Faults.


@pytest.mark.parametrize(
    "fault", ["503", *(pytest.param(it, marks=pytest.mark.slow) for it in ("expired", "reset", "stall"))]
)
def test_a_bucket_with_faults_gives_the_same(
    pets: Path, in_bucket: tuple[str, FaultyBucket], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fills_nothing(monkeypatch)
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 1.0)
    numbers = iter(range(1000))
    in_bucket[1].fault = lambda method, path: fault if ".tar" in path and next(numbers) in (3, 4, 20) else ""
    require_same(in_bucket[0], pets)
    assert next(numbers) > 21


def test_an_outage_keeps_the_state_and_the_run_goes_on_with_the_same_bits(
    pets: Path, tmp_path: Path, in_bucket: tuple[str, FaultyBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    fills_nothing(monkeypatch)
    monkeypatch.setenv(remote.PATIENCE_VARIABLE, "0.5")
    values: dict[str, Any] = {"upstream": "digits", "resolution": 32, "total_steps": 4, "warmup_steps": 1}
    execution = Execution(num_evaluations=2, save_weights=True, num_workers=0)
    expected, run_dir = RunDir(tmp_path / "files"), RunDir(tmp_path / "shards")
    config = FinetuneConfig.official("ViT-B_16-mini", str(pets), global_batch_size=8, **values)
    train(config, expected, execution)

    config = FinetuneConfig.official("ViT-B_16-mini", in_bucket[0], global_batch_size=8, **values)

    def gone_at_step_2(row: dict[str, Any]) -> None:
        in_bucket[1].fault = lambda method, path: "expired"

    with pytest.raises(DataOutageError, match=r"can't be read from .*ExpiredToken|400") as outage:
        train(config, run_dir, execution, gone_at_step_2)
    assert "\n" not in str(outage.value)
    assert run_dir.result() is None
    in_bucket[1].fault = lambda method, path: ""
    train(config, RunDir(run_dir.location), execution)
    attempts = run_dir.attempts()
    assert [attempt["from_step"] for attempt in attempts] == [0, 2]
    for name, tensor in weights_of(expected).items():
        assert torch.equal(tensor, weights_of(run_dir)[name])


def test_an_outage_before_anything_is_known_is_an_error_of_who_asks_and_no_failure_of_a_trial(
    in_bucket: tuple[str, FaultyBucket], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(remote.PATIENCE_VARIABLE, "0.5")
    in_bucket[1].fault = lambda method, path: "expired"
    code, _, err = outcome_of(["train", "--model", "ViT-B_16-mini", "--dataset", in_bucket[0]], capsys)
    assert (code, err.count("\n")) == (2, 1), err
    assert "error: cannot read s3://" in err
    with pytest.raises(DataOutageError, match="cannot read s3://"):
        listed_folder(f"pets-v2-0123456789ab:{in_bucket[0]}")


def test_what_is_damaged_missing_or_foreign_is_said_in_one_line_before_anything_starts(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(copy: Path) -> None:
        (copy / "train-00001.tar").unlink()

    def short(copy: Path) -> None:
        os.truncate(copy / "val-00000.tar", 100)

    def other_index(copy: Path) -> None:
        (copy / INDEX).write_bytes((copy / INDEX).read_bytes()[:-9])

    def no_index(copy: Path) -> None:
        (copy / INDEX).unlink()

    def other_format(copy: Path) -> None:
        (copy / HEADER).write_text(json.dumps({"format": "mds", "shards": []}))

    reasons = {
        missing: "train-00001.tar is missing",
        short: "val-00000.tar is of 100 bytes, not",
        other_index: "does not fit shards.json",
        no_index: "does not fit shards.json",
        other_format: "no header of",
    }
    for i, (damage, reason) in enumerate(reasons.items()):
        copy = tmp_path / f"copy-{i}"
        shutil.copytree(tmp_path / "packed", copy)
        damage(copy)
        storage = tmp_path / "storage"
        command = ["train", "--model", "ViT-B_16-mini", "--dataset", str(copy), "--storage", str(storage)]
        code, _, err = outcome_of(command, capsys)
        assert (code, err.count("\n")) == (2, 1), err
        assert reason in err
        assert not storage.exists()


def test_images_that_nobody_reads_any_more_keep_no_files_open(pets: Path, tmp_path: Path) -> None:
    def opened() -> list[str]:
        links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return [link.name for link in links if link.suffix == ".tar"]

    train, _ = splits(str(tmp_path / "packed"))
    trained_on(train, STEP_SIZE)
    assert opened()
    del train
    gc.collect()
    assert opened() == []


def test_a_damaged_image_is_known_by_its_crc(
    pets: Path, tmp_path: Path, in_bucket: tuple[str, FaultyBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    fills_nothing(monkeypatch)
    path = tmp_path / "packed" / "train-00000.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"its bytes in train-00000.tar aren't those that were packed.*skip-unreadable"):
        trained_on(splits(str(tmp_path / "packed"))[0], STEP_SIZE)
    packed = open_packed(in_bucket[0])
    assert packed is not None
    cached = cache.cached_path(tmp_path / "cache", packed.header.shards[0])
    cached.parent.mkdir()
    cached.write_bytes(content)
    require_same(in_bucket[0], pets)
    assert not cached.exists()


# The cache.

FILL = """
import sys
from vit_trainer.data.shards import cache, packed
for thread in cache.fill(packed.open_packed(sys.argv[1])):
    thread.join()
"""


def filling(uri: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FILL, uri], env=os.environ | environment)


@pytest.mark.slow
def test_two_processes_fetch_each_shard_once_and_go_on_where_one_is_killed(
    tmp_path: Path, in_bucket: tuple[str, FaultyBucket]
) -> None:
    uri, faulty = in_bucket
    faulty.fault = lambda method, path: "stall" if method == "GET" and ".tar" in path else ""
    killed = filling(uri)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob(".*.part")) or not shard_reads(faulty):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    faulty.fault = lambda method, path: ""
    faulty.requests.clear()
    for process in [filling(uri), filling(uri)]:
        assert process.wait(60) == 0
    packed = open_packed(uri)
    assert packed is not None
    assert len(shard_reads(faulty)) == len(packed.header.shards)
    names = sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock")
    assert names == sorted(cache.cached_path(Path(), shard).name for shard in packed.header.shards)


def test_a_cache_that_is_full_leaves_the_rest_in_the_bucket(
    pets: Path, tmp_path: Path, in_bucket: tuple[str, FaultyBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = open_packed(in_bucket[0])
    assert packed is not None
    usage, room = shutil.disk_usage(tmp_path), 2 * SHARD_BYTES

    def free(path: Path) -> Any:
        used = sum(file.stat().st_size for file in (tmp_path / "cache").iterdir())
        return usage._replace(free=int(cache.RESERVE * usage.total) + room - used)

    monkeypatch.setattr(shutil, "disk_usage", free)
    monkeypatch.setattr(cache, "NUM_THREADS", 1)
    for thread in cache.fill(packed):
        thread.join()
    assert 0 < len(list((tmp_path / "cache").glob("*.tar"))) <= 3
    require_same(in_bucket[0], pets)
    assert shard_reads(in_bucket[1])


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a disk of its own")
def test_a_disk_that_is_really_full_leaves_the_rest_in_the_bucket(
    pets: Path, tmp_path: Path, in_bucket: tuple[str, FaultyBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, disk = open_packed(in_bucket[0]), tmp_path / "cache"
    assert packed is not None
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("no right to mount")
    try:
        usage = shutil.disk_usage(disk)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**12))  # others fill it meanwhile
        for thread in cache.fill(packed):
            thread.join()
        assert 1 <= len(list(disk.glob("*.tar"))) < len(packed.header.shards)
        assert not list(disk.glob(".*.part"))
        require_same(in_bucket[0], pets)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize(
    ("model", "is_local"),
    [
        ("Amazon EC2 NVMe Instance Storage", True),
        ("Amazon Elastic Block Store", False),
        ("nvme_card", True),
        ("nvme_card-pd", False),
    ],
)
def test_the_disks_of_a_machine_are_told_from_those_of_its_network(tmp_path: Path, model: str, is_local: bool) -> None:
    disk, blocks = tmp_path / "devices/nvme1n1", tmp_path / "block"
    for folder_made in (disk / "device", disk / "nvme1n1p1", tmp_path / "devices/md0/slaves", blocks):
        folder_made.mkdir(parents=True)
    (disk / "device/model").write_text(f"{model:<40}\n")
    for name, target in (("nvme1n1", disk), ("nvme1n1p1", disk / "nvme1n1p1"), ("md0", tmp_path / "devices/md0")):
        (blocks / name).symlink_to(target)
    (tmp_path / "devices/md0/slaves/nvme1n1").symlink_to(disk)
    for device in ("/dev/nvme1n1", "/dev/nvme1n1p1", "/dev/md0"):
        assert cache.is_local_disk(device, blocks) == is_local
    assert not cache.is_local_disk("/dev/vda", blocks)


def test_a_home_on_the_network_is_no_place_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    assert cache.cache_folder() == tmp_path / "user-cache" / "vit_trainer" / "shards"
    mounts = [SimpleNamespace(device="head:/home", mountpoint=str(tmp_path), fstype="nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all=False: mounts if all else [])
    assert cache.cache_folder() == Path(f"/var/tmp/vit_trainer-shards-{os.getuid()}")
