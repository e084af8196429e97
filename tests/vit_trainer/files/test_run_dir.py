import os
from pathlib import Path

import pytest

from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError, LeaseLostError
from vit_trainer.files.folder import write_atomically
from vit_trainer.files.run_dir import RunDir

CONFIG = FinetuneConfig.official("ViT-B_16", "cifar10").to_dict()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "runs" / "a-trial")
    run_dir.open_for_writing(CONFIG)
    return run_dir


def test_what_is_written_is_read(run_dir: RunDir) -> None:
    run_dir.append({"step": 10, "train/loss": 0.5})
    run_dir.write_result({"status": "stopped", "step": 10})
    reader = RunDir(run_dir.location)
    assert reader.config() == CONFIG
    assert [row["step"] for row in reader.journal()] == [10]
    assert reader.result() == {"status": "stopped", "step": 10}


def test_a_torn_line_is_passed_over_and_the_next_row_is_whole(run_dir: RunDir) -> None:
    run_dir.append({"step": 10})
    with (Path(run_dir.location) / "journal.jsonl").open("ab") as file:
        file.write(b'{"step": 20, "val/acc')
    run_dir.append({"step": 30})
    assert [row["step"] for row in run_dir.journal()] == [10, 30]


def test_a_step_that_was_written_again_counts_once(run_dir: RunDir) -> None:
    for step, loss in ((10, 1.0), (20, 0.9), (10, 0.8), (20, 0.7)):
        run_dir.append({"step": step, "train/loss": loss})
    assert [(row["step"], row["train/loss"]) for row in run_dir.journal()] == [(10, 0.8), (20, 0.7)]
    assert len(run_dir.rows()) == 4


def test_a_successor_takes_over_and_the_predecessor_gives_up(run_dir: RunDir) -> None:
    successor = RunDir(run_dir.location)
    successor.open_for_writing(CONFIG)
    for write in (lambda: run_dir.append({"step": 1}), lambda: run_dir.write_result({}), run_dir.check_lease):
        with pytest.raises(LeaseLostError, match=f"now written by process {os.getpid()}"):
            write()
    successor.append({"step": 1})
    assert len(successor.journal()) == 1


def test_a_folder_of_another_trial_is_refused(run_dir: RunDir) -> None:
    with pytest.raises(InputError, match=r"holds another trial \(seed differ\)"):
        RunDir(run_dir.location).open_for_writing({**CONFIG, "seed": 1})


def test_a_damaged_result_is_named(run_dir: RunDir) -> None:
    (Path(run_dir.location) / "result.json").write_text('{"status": "fini')
    with pytest.raises(InputError, match=r"runs/a-trial/result\.json is damaged: no JSON: "):
        run_dir.result()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "file" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to run folder"):
        run_dir.open_for_writing(CONFIG)


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("name", ["a#b", "a b", "ü", "a:b"])
def test_a_trial_in_any_folder_is_named_by_its_own(tmp_path: Path, name: str) -> None:
    config = FinetuneConfig.official("ViT-B_32-mini", "digits-even")
    run_dir = RunDir(tmp_path / name / "runs" / config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    run_dir.close()
    assert run_dir.trial_id == config.trial_id
    run = RunDir(tmp_path / name / "runs" / config.trial_id).read()
    assert run is not None
    assert run.config == config.to_dict()
