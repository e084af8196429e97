"""A storage of an earlier version is read as that version read it, and gone on with where that version left it.

`old_storage/storage` is what version 0.1.0 left at commit 97485ca: a grid, a search by Optuna that counts the grid's
trials, the grid of a second data set interrupted by Ctrl-C, and figures of published cells that were made up. Ray's and
MLflow's own files and the reports are left out. The interrupted trial's checkpoint lies beside it, rounded so that it
packs well. `table.json` is what that version's report said of all this; so did `report.md` and `watch.txt`, whose
columns have changed since, and no number in them.
"""

import json
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.report import report
from vit_trainer.config import FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import Storage
from vit_trainer.train import train

HERE = Path(__file__).parent
OLD = HERE / "old_storage"
ROOT = HERE.parents[1]
INTERRUPTED = "ViT-B_32-mini-digits-odd-d0.1-lr0.003-s0-f96f76"
INTERRUPTED_AT = 30


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A copy to be written to."""
    storage = tmp_path / "results"
    shutil.copytree(OLD / "storage", storage)
    for path in (storage / "runs").iterdir():
        written_at = RunDir(path).lines()[-1]["time"]
        for file in path.iterdir():  # a checkout makes files anew, but that of the result is when a trial ended
            os.utime(file, (written_at, written_at))
    checkpoint = storage / "runs" / INTERRUPTED / "checkpoint" / "state.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(lzma.decompress((OLD / "checkpoint.xz").read_bytes()))
    return storage


def test_it_is_reported_in_the_same_words(storage: Path) -> None:
    report(storage=str(storage))
    text = (storage / "report" / "report.md").read_text()
    text = re.sub(r"cells in \S+:", "cells in STORAGE:", text, count=1)
    text = re.sub("Written .* UTC from", "Written WHEN from", text, count=1)
    assert text == (OLD / "report.md").read_text()
    new, old = (rows(folder / "table.json") for folder in (storage / "report", OLD))
    assert [{name: row[name] for name in before} for row, before in zip(new, old, strict=True)] == old


def rows(path: Path) -> list[dict[str, object]]:
    """A table, to twelve digits: what Python sums up has other last ones since 3.12."""
    text = re.sub(r"\d+\.\d{12,}", lambda number: f"{float(number.group()):.12g}", path.read_text())
    found: list[dict[str, object]] = json.loads(text)
    return found


def test_it_is_watched_in_the_same_words(storage: Path) -> None:
    command = [sys.executable, str(ROOT / "sweeps" / "watch.py"), "--storage", str(storage), "--once"]
    environment = os.environ | {"TZ": "UTC", "COLUMNS": "100"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == (OLD / "watch.txt").read_text()


def test_an_interrupted_trial_goes_on_from_its_checkpoint(storage: Path) -> None:
    run_dir = Storage(storage).run_dir(INTERRUPTED)
    rows = run_dir.rows()
    config = run_dir.config()
    assert config is not None
    assert FinetuneConfig(**config).trial_id == INTERRUPTED
    train(FinetuneConfig(**config), run_dir)
    assert_gone_on(run_dir, len(rows))


def assert_gone_on(run_dir: RunDir, num_rows: int) -> None:
    """From the checkpoint to the end, with no step done again."""
    assert [attempt["from_step"] for attempt in run_dir.attempts()] == [0, INTERRUPTED_AT]
    steps = [row["step"] for row in run_dir.rows()]
    assert steps[num_rows - 1] == INTERRUPTED_AT < steps[num_rows]
    assert steps == [row["step"] for row in run_dir.journal()]
    result = run_dir.result()
    assert result is not None
    assert result["status"] == "finished"
    assert result["test/accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_same_commands_go_on_with_it(storage: Path, two_slots: str) -> None:
    def again(sweep: str) -> str:
        """What the sweep's last command prints."""
        recorded = (storage / "sweeps" / sweep / "commands.jsonl").read_text().splitlines()[-1]
        _, script, *flags = shlex.split(json.loads(recorded)["line"])
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *flags],
            check=False,
            capture_output=True,
            text=True,
            cwd=storage.parent,
            env=os.environ | {"RAY_ADDRESS": two_slots},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run_dir = Storage(storage).run_dir(INTERRUPTED)
    num_rows = len(run_dir.rows())
    others = [path for path in storage.glob("runs/*/*") if path.is_file() and path.parent.name != INTERRUPTED]
    before = {path: path.read_bytes() for path in others}
    out = again("paper_grid-mini")
    assert "paper_grid-mini: 2 trials, 1 of them done" in out
    assert_gone_on(run_dir, num_rows)
    assert re.search(r"^ViT-B_32-mini +97\.22 .* 9\d\.\d\d", out, re.M)
    assert "lr_search-mini: 3 trials, 3 of them done" in again("lr_search-mini")
    assert {path: path.read_bytes() for path in others} == before
    assert len(list((storage / "runs").iterdir())) == len({path.parent for path in others}) + 1
