"""TensorBoard event files, read back as TensorBoard reads them."""

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from sweeps.options import SweepOptions
from sweeps.tracking.to_tensorboard import EventFiles
from tests.sweeps.storages import ATTEMPT
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import RunDir


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """By tag and step; each is there once."""
    found: dict[tuple[str, int], float] = {}
    for path in folder.iterdir():
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += 12 + size + 4
            for value in event.summary.value:
                if value.tag.startswith("_hparams_/"):
                    plugin = value.metadata.plugin_data
                    assert plugin.plugin_name == "hparams"
                    found[value.tag, event.step] = float(b"base_lr" in plugin.content)
                    continue
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value.simple_value
    return found


def test_a_journal_becomes_curves_while_it_grows_and_again_in_a_later_session(tmp_path: Path) -> None:
    config = FinetuneConfig.official("ViT-B_16", "cifar10")
    run_dir = RunDir(tmp_path / "runs" / config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    folder, files = tmp_path / "tensorboard", EventFiles(tmp_path / "tensorboard")
    of_trial = folder / "ViT-B_16" / "cifar10" / "0.0" / config.trial_id
    files.update(run_dir)
    assert not folder.exists()
    run_dir.append(ATTEMPT)
    run_dir.append({"step": 10, "train/loss": 2.5, "gpu_hours": 0.0})
    files.update(run_dir)
    files.update(run_dir)
    hparams = {
        ("_hparams_/experiment", 0): 1.0,
        ("_hparams_/session_start_info", 0): 1.0,
        ("_hparams_/session_end_info", 0): 0.0,
    }
    assert scalars(of_trial) == hparams | {("train/loss", 10): 2.5}
    run_dir.append({"step": 20, "train/loss": 1.5, "val/accuracy": 0.5, "note": "no number"})
    run_dir.write_result({"status": "finished", "step": 20, "test/accuracy": 0.75, "val/accuracy": 0.5})
    files.update(run_dir)
    expected = hparams | {
        ("train/loss", 10): 2.5,
        ("train/loss", 20): 1.5,
        ("val/accuracy", 20): 0.5,
        ("test/accuracy", 20): 0.75,
    }
    assert scalars(of_trial) == expected
    files.close()

    later = EventFiles(folder)
    later.update(run_dir)
    later.close()
    assert scalars(of_trial) == expected


def test_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match="can't hold event files: leave --tensorboard out"):
        SweepOptions(storage="s3://bucket/folder", tensorboard=True)
