"""Local folders and buckets behave alike; the bucket is a real S3 server's."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import InputError, LeaseLostError
from vit_trainer.files.folder import Folder, RemoteFolder, open_folder
from vit_trainer.files.run_dir import RunDir
from vit_trainer.train import train

CONFIG = FinetuneConfig.official(
    "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=8, warmup_steps=2, global_batch_size=16
)


@pytest.fixture(params=["local", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return open_folder(tmp_path)
    uri: str = request.getfixturevalue("bucket")
    return open_folder(uri).child(tmp_path.name)


def test_stamps_tell_what_has_changed(folder: Folder) -> None:
    assert folder.child("a").stamps() == {}
    folder.child("a").write("b.json", b"one")
    folder.child("a").write("deep/c.gz", b"\x00" * 100_000)
    before = folder.child("a").stamps()
    assert {name: stamp.num_bytes for name, stamp in before.items()} == {"b.json": 3, "deep/c.gz": 100_000}
    assert abs(before["b.json"].modified_at - time.time()) < 60
    folder.child("a").append("b.json", b"two\n")
    after = folder.child("a").stamps()
    assert {name for name in after if after[name] != before[name]} == {"b.json"}


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "file")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        folder.stamps()


def test_what_is_written_is_read(folder: Folder) -> None:
    assert folder.child("a").names() == []
    assert folder.child("a").read("b.json") is None
    folder.child("a").write("b.json", b"one")
    folder.child("a").write("b.json", b"two")
    folder.child("a").write("deep/c.bin", b"\x00" * 100_000)
    assert folder.child("a").read("b.json") == b"two"
    assert folder.child("a").names() == ["b.json", "deep"]
    assert open_folder(folder.child("a").location).read("b.json") == b"two"
    with folder.child("a").as_file("deep/c.bin") as path:
        assert path is not None
        assert path.read_bytes() == b"\x00" * 100_000
    with folder.child("a").as_file("nothing") as path:
        assert path is None
    folder.child("a").remove("b.json")
    folder.child("a").remove("b.json")
    assert folder.child("a").read("b.json") is None


def test_lines_are_added(folder: Folder) -> None:
    folder.write("journal", b"one\n")
    folder.append("journal", b"two\n")
    folder.append("journal", b"three\n")
    assert folder.read("journal") == b"one\ntwo\nthree\n"


def test_a_lease_is_lost_to_a_successor_and_given_back(folder: Folder) -> None:
    first, second = RunDir(folder.child("run")), RunDir(folder.child("run").location)
    first.open_for_writing(CONFIG.to_dict())
    second.open_for_writing(CONFIG.to_dict())
    with pytest.raises(LeaseLostError, match="is now written by process"):
        first.append({"step": 1})
    first.close()
    second.append({"step": 1})
    second.close()
    assert second.lease() is None
    with pytest.raises(LeaseLostError, match="has lost its lease: deleted, moved or damaged"):
        second.append({"step": 2})
    assert [row["step"] for row in first.rows()] == [1]
    assert first.trial_id == "run"


def test_what_is_damaged_is_set_aside_and_nothing_is_lost(folder: Folder) -> None:
    run_dir = RunDir(folder.child("damaged"))
    content = {"result.json": b"[1]", "journal.jsonl": b'{"step": 1}\n', "checkpoint/state.safetensors": b"state"}
    for number in (1, 2):
        for name, written in content.items():
            run_dir.folder.write(name, written)
        run_dir.open_for_writing(CONFIG.to_dict())
        run_dir.append({"step": 1})
        note, row = run_dir.lines()
        reason = "runs/damaged/result.json is damaged: no object"
        assert note["note"] == f"started anew, since {reason}; what was there is kept in damaged-{number}"
        assert row["step"] == 1
        assert run_dir.result() is None
        with run_dir.checkpoint() as state:
            assert state is None
        for name, written in content.items():
            assert run_dir.folder.read(f"damaged-{number}/{name}") == written
    assert run_dir.read_intact() is not None


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("saves_at_validations")
def test_a_trial_goes_on_from_a_bucket(bucket: str, tmp_path: Path) -> None:
    def kill(row: dict[str, Any]) -> None:
        remote.finish_checkpoint()
        if row["step"] == 4:
            raise Killed

    execution = Execution(num_evaluations=4, save_weights=True)
    remote = RunDir(open_folder(bucket).child("trial"))
    assert isinstance(remote.folder, RemoteFolder)
    with pytest.raises(Killed):
        train(CONFIG, remote, execution, kill)
    train(CONFIG, RunDir(remote.location), execution)
    train(CONFIG, RunDir(tmp_path / "local"), execution)
    assert remote.attempts()[1]["from_step"] == 4
    with remote.weights() as path, RunDir(tmp_path / "local").weights() as other:
        assert path is not None
        assert other is not None
        assert path.read_bytes() == other.read_bytes()
    with remote.checkpoint() as path:
        assert path is None


@pytest.mark.parametrize("uri", ["s4://bucket/folder", "s3://", "http://example.org/folder"])
def test_a_uri_of_no_known_kind_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match=r"storage .* cannot be used \(.*\): give a folder, or a URI such as s3://"):
        open_folder(uri)


@pytest.mark.slow
@pytest.mark.timeout(250)
def test_a_sweep_lies_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "sweeps" / "paper_grid.py"
    grid = ["--preset", "mini", "--models", "ViT-B_32-mini", "--datasets", "digits-even", "--dropouts", "0.0"]
    command = [sys.executable, str(script), *grid, "--base-lrs", "0.003", "--storage", bucket]
    for num_done in (0, 1):
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert done.returncode == 0, done.stderr
        assert f"1 trial, {num_done} of them done" in done.stdout
    (trial_id,) = open_folder(bucket).child("runs").names()
    result = RunDir(open_folder(bucket).child("runs").child(trial_id)).result()
    assert result is not None
    assert result["status"] == "finished"
    assert (tmp_path / "mlflow" / "mlflow.db").exists()
