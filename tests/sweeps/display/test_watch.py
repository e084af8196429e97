"""What can be told of a sweep from its run folders alone: real folders, real training, a real bucket."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeps.display.from_folders import SILENT_ROWS, SILENT_SECONDS, FolderWatch
from sweeps.display.live_table import Screen
from sweeps.display.standing import Standing, TrialProgress
from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates
from sweeps.records.commands import record_command
from sweeps.records.slots import record_slots
from sweeps.table.cells import PAPER, cell_of, cells_of
from tests.sweeps.terminal import Terminal
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.folder import RemoteFolder
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import AWAITED, NO_RUN, SLOTS, Storage

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "sweeps" / "watch.py"
CELL = cells_of(PAPER)[0]
FIRST, SECOND, THIRD, FOURTH = (trial.config for trial in candidates(SweepOptions(preset="paper"), [CELL]))
FINISHED = {"status": "finished", "step": 10_000, "test/accuracy": 0.9893, "val/accuracy": 0.98, "gpu_hours": 4.0}


def attempt(number: int = 1, from_step: int = 0, **values: Any) -> dict[str, Any]:
    line = {"attempt": number, "from_step": from_step, "host": "node7", "device": "cuda", "num_processes": 1}
    return line | values


def row(step: int, accuracy: float | None = None, **values: Any) -> dict[str, Any]:
    """A row of a trial that takes four hours for its 10,000 steps."""
    validation = {} if accuracy is None else {"val/accuracy": accuracy}
    hours = 4 * step / 10_000
    return {"step": step, "train/loss": 0.1, "runtime_hours": hours, "gpu_hours": hours} | validation | values


def write(storage: str | Path, config: FinetuneConfig, *lines: dict[str, Any], result: Any = None) -> RunDir:
    """A run folder as a trial's process leaves it; without a result the process still has it open."""
    run_dir = Storage(storage).run_dir(config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    for line in lines:
        run_dir.append(line)
    if result is not None:
        run_dir.write_result(result)
        run_dir.close()
    return run_dir


def by_id(standing: Standing) -> dict[str, TrialProgress]:
    return {each.trial_id: each for each in standing.trials}


def shown(standing: Standing, num_columns: int = 160) -> str:
    console = Console(width=num_columns, file=io.StringIO(), record=True)
    console.print(Screen(standing))
    return console.export_text()


def later(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


def test_every_state_is_told_by_the_folders(tmp_path: Path) -> None:
    write(tmp_path, FIRST, attempt(), row(10_000, 0.98), result=FINISHED)
    write(tmp_path, SECOND, attempt(), row(2500, 0.9), result={"status": "stopped", "step": 2500, "cause": "a rule"})
    write(tmp_path, THIRD, attempt(), row(5000, 0.95), row(5100))
    write(tmp_path, FOURTH, attempt(), row(1000, 0.5)).close()  # interrupted: its state is kept, nobody goes on
    standing = FolderWatch(str(tmp_path)).read()
    assert standing.cells == (CELL,)
    progress = by_id(standing)
    assert progress[FIRST.trial_id].result == FINISHED
    assert progress[SECOND.trial_id].status == "stopped"
    third = progress[THIRD.trial_id]
    assert (third.is_running, third.step, third.accuracy, third.silent_seconds) == (True, 5100, 0.95, None)
    assert [each.trial_id for each in standing.running] == [THIRD.trial_id]
    assert standing.spent_hours == pytest.approx(4 + 1 + 2.04 + 0.4, abs=0.01)
    assert standing.hours_to_come == pytest.approx(1.96 + 3.6, abs=0.01)
    text = shown(standing)
    for part in ("98.93 2/4", "1 stopped", " 0.01 2/4 5.1k/10k 95.00 1h57 1 node7", "1 waiting"):
        assert part in " ".join(text.split())
    assert "2 of 4 begun trials done (1 stopped), 1 running" in text
    assert "GPUs in use: 1; GPU-hours: 7.44 spent, about 5.56 to come" in text
    assert f"{THIRD.trial_id}: started on node7" in text
    assert f"{SECOND.trial_id}: stopped (a rule)" in text


def test_what_the_board_would_show_of_a_done_cell(tmp_path: Path) -> None:
    write(tmp_path, FOURTH, attempt(), row(10_000, 0.98), result=FINISHED)
    text = shown(FolderWatch(str(tmp_path)).read())
    assert "98.93 done +0.21!" in text  # published: 98.72, and the margin 0.20
    assert "!: further from the published than the margin" in " ".join(text.split())
    write(tmp_path, FOURTH, attempt(), row(10_000, 0.98), result={**FINISHED, "test/accuracy": 0.9891})
    assert "98.91 done +0.19 " in shown(FolderWatch(str(tmp_path)).read())


def test_a_trial_that_went_back_to_its_checkpoint(tmp_path: Path) -> None:
    lines = [attempt(), row(1000, 0.5), row(2000, 0.6), attempt(2, 1000, host="node8"), {"note": "a note"}]
    write(tmp_path, FIRST, *lines)
    standing = FolderWatch(str(tmp_path)).read()
    (progress,) = standing.trials
    assert (progress.step, progress.accuracy) == (1000, 0.5)
    assert standing.spent_hours == pytest.approx(0.4 + 0.4, abs=0.01)
    texts = [event.text for event in standing.events]
    assert texts == [
        f"{FIRST.trial_id}: started on node7",
        f"{FIRST.trial_id}: goes on after step 1000 on node8",
        f"{FIRST.trial_id}: a note",
    ]


def test_a_trial_that_gives_no_sign_of_life_is_silent(tmp_path: Path) -> None:
    write(tmp_path, FIRST, attempt(), row(1000, 0.5))
    write(tmp_path, SECOND, attempt(), row(1000, 0.5), result=FINISHED)
    write(tmp_path, THIRD, attempt(), row(1000, 0.5)).close()
    assert FolderWatch(str(tmp_path), later(SILENT_SECONDS - 60)).read().num_silent == 0
    standing = FolderWatch(str(tmp_path), later(SILENT_SECONDS + 60)).read()
    (silent,) = [each for each in standing.trials if each.silent_seconds is not None]
    assert silent.trial_id == FIRST.trial_id
    assert standing.running == []
    assert "silent 6m" in shown(standing)
    assert "0 running, 1 silent; nothing runs" in shown(standing)


def test_a_trial_whose_rows_take_long_is_given_more_time(tmp_path: Path) -> None:
    now = time.time()
    write(tmp_path, FIRST, attempt(time=now - 2000), row(50, time=now - SILENT_SECONDS), row(100, time=now))
    assert FolderWatch(str(tmp_path), later((SILENT_ROWS - 1) * SILENT_SECONDS)).read().num_silent == 0
    assert FolderWatch(str(tmp_path), later((SILENT_ROWS + 1) * SILENT_SECONDS)).read().num_silent == 1


def test_foreign_folders_are_named_unless_they_have_just_begun(tmp_path: Path) -> None:
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    (tmp_path / "runs" / "notes" / "todo.txt").write_text("mine")
    (tmp_path / "runs" / "README").write_text("a file, not a folder")
    assert FolderWatch(str(tmp_path)).read().complaints == ()
    complaints = FolderWatch(str(tmp_path), later(2 * SILENT_SECONDS)).read().complaints
    assert complaints == tuple(f"left out: runs/{name}: {NO_RUN}" for name in ("README", "notes"))


def test_nodes_that_do_not_come_are_told_while_their_sweep_says_so(tmp_path: Path) -> None:
    write(tmp_path, FIRST, attempt(), row(1000, 0.5))
    file = tmp_path / "sweeps" / "s" / AWAITED
    file.parent.mkdir(parents=True)
    file.write_text("")
    assert FolderWatch(str(tmp_path)).read().awaits == ""
    file.write_text("8 GPUs asked for 12 min ago")
    watch = FolderWatch(str(tmp_path))
    assert watch.read().awaits == "8 GPUs asked for 12 min ago"
    assert "8 GPUs asked for 12 min ago" in shown(watch.read())
    assert FolderWatch(str(tmp_path), later(SILENT_SECONDS + 60)).read().awaits == ""  # its sweep was killed
    file.unlink()
    assert watch.read().awaits == ""


def test_a_copied_folder_is_not_counted_twice(tmp_path: Path) -> None:
    path = Path(write(tmp_path, FIRST, attempt(), row(10_000, 0.98), result=FINISHED).location)
    shutil.copytree(path, path.with_name("backup"))
    standing = FolderWatch(str(tmp_path)).read()
    assert len(standing.trials) == 1
    (complaint,) = standing.complaints
    assert complaint.startswith(f"left out: runs/backup/config.json is damaged: it is that of {FIRST.trial_id}")


def test_what_changes_is_seen_and_what_is_taken_away_too(tmp_path: Path) -> None:
    watch = FolderWatch(str(tmp_path))
    assert watch.read().complaints == (f"no trial has begun in {tmp_path}",)
    run_dir = write(tmp_path, FIRST, attempt(), row(1000, 0.5))
    assert by_id(watch.read())[FIRST.trial_id].step == 1000
    run_dir.append(row(2000, 0.6))
    assert by_id(watch.read())[FIRST.trial_id].step == 2000
    run_dir.write_result({"status": "failed", "step": 2000, "cause": "a cause"})
    run_dir.close()
    assert watch.read().count("failed") == 1
    write(tmp_path, FIRST, attempt(2, 2000))  # tried again: its result is gone
    standing = watch.read()
    assert standing.count("failed") == 0
    assert len(standing.running) == 1
    shutil.rmtree(run_dir.location)
    assert watch.read().trials == ()


def test_a_trial_is_shown_in_every_cell_that_a_command_had_it_in(tmp_path: Path) -> None:
    values = {"total_steps": 100, "warmup_steps": 5}
    configs = [FinetuneConfig.official("ViT-B_32", "cifar10", dropout=0.01 * i, **values) for i in range(5)]
    for config in configs:
        write(tmp_path, config, attempt())
    cells = [cell_of(config.to_dict()) for config in configs]
    record_command(Storage(tmp_path), "grid", cells, [])
    watch = FolderWatch(str(tmp_path))
    assert set(watch.read().cells) == set(cells)
    assert "dropout searched" not in shown(watch.read())
    record_command(Storage(tmp_path), "search", [replace(cells[0], dropout=None)], ["dropout"])
    assert set(watch.read().cells) == {*cells, replace(cells[0], dropout=None)}
    assert len(watch.read().trials) == len(configs)
    text = shown(watch.read())
    assert "dropout searched" in text
    assert "d0.04" in text


def test_spent_counts_from_the_moment_slots_were_held(tmp_path: Path) -> None:
    record_slots(Storage(tmp_path), "sweep", FIRST.trial_id, 2)
    write(tmp_path, FIRST, attempt(num_processes=2))
    watch = FolderWatch(str(tmp_path), later(3600))
    silent_after = watch.read()
    assert silent_after.spent_hours == pytest.approx(0, abs=0.01)  # no sign of life for an hour
    run_dir = RunDir(tmp_path / "runs" / FIRST.trial_id)
    assert FolderWatch(str(tmp_path), later(200)).read().spent_hours == pytest.approx(2 * 200 / 3600, abs=0.01)
    run_dir.folder.remove("lease.json")
    record_slots(Storage(tmp_path), "sweep", FIRST.trial_id, 0)
    slots = Storage(tmp_path).sweep("sweep").read(SLOTS) or b""
    released = json.loads(slots.splitlines()[-1]) | {"time": time.time() + 3600}
    Storage(tmp_path).sweep("sweep").write(SLOTS, slots.splitlines(keepends=True)[0] + json.dumps(released).encode())
    assert watch.read().spent_hours == pytest.approx(2, abs=0.01)


def test_a_folder_of_classes_needs_not_be_here(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            (tmp_path / "pets" / part / name / "1.png").write_bytes(b"1")
            (tmp_path / "pets" / part / name / "2.png").write_bytes(b"2")
    config = FinetuneConfig.official("ViT-B_32", str(tmp_path / "pets"))
    trial_id = write(tmp_path, config, attempt(), row(100, 0.5)).trial_id
    shutil.rmtree(tmp_path / "pets")
    standing = FolderWatch(str(tmp_path)).read()
    assert [(each.trial_id, each.step) for each in standing.trials] == [(trial_id, 100)]


# A bucket.


def test_a_bucket_is_asked_once_for_what_has_not_changed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (FIRST, SECOND, THIRD):
        write(bucket, config, attempt(), row(10_000, 0.98), result=FINISHED)
    running = write(bucket, FOURTH, attempt(), row(1000, 0.5))
    watch = FolderWatch(bucket)
    assert watch.read().num_done == 3

    asked: list[str] = []
    read, stamps = RemoteFolder.read, RemoteFolder.stamps
    monkeypatch.setattr(RemoteFolder, "read", lambda self, name: (asked.append(name), read(self, name))[1])
    monkeypatch.setattr(RemoteFolder, "stamps", lambda self: (asked.append("stamps"), stamps(self))[1])
    assert watch.read().num_done == 3
    assert asked == ["stamps", "stamps"]  # of the run folders, and of the sweeps' folders
    running.append(row(2000, 0.6))
    asked.clear()
    assert by_id(watch.read())[FOURTH.trial_id].step == 2000
    assert sorted(asked) == ["config.json", "journal.jsonl", "stamps", "stamps"]


# The command.


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As a user starts it, from a folder of theirs."""
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", timeout=60)


def test_once_prints_the_table(tmp_path: Path) -> None:
    write(tmp_path, FOURTH, attempt(), row(10_000, 0.98), result=FINISHED)
    done = run("--storage", str(tmp_path), "--once")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^R50\+ViT-B_16 +98.93 done \+0.21", done.stdout, re.MULTILINE)
    assert "1 of 1 begun trials done, 0 running; nothing runs" in done.stdout


def test_the_log_of_one_trial(tmp_path: Path) -> None:
    failure = {"status": "failed", "step": 100, "cause": "OSError: gone", "traceback": "Traceback\n  OSError: gone"}
    write(tmp_path, FIRST, attempt(), row(100, 0.5), row(120), {"note": "its process died"}, result=failure)
    lines = run("--storage", str(tmp_path), "--log", FIRST.trial_id).stdout.splitlines()
    assert [line[20:].partition(":")[0] for line in lines[:4]] == [
        "started on node7",
        "step 100",
        "step 120",
        "its process died",
    ]
    assert "val/accuracy 50.00%" in lines[1]
    assert lines[4:7] == ["failed (OSError: gone)", "Traceback", "  OSError: gone"]
    assert lines[7].startswith("what its processes printed is on node7 in Ray's folder, /tmp/ray/session_latest/logs")
    done = run("--storage", str(tmp_path), "--log", "ViT-B_32")
    assert done.returncode == 2
    assert "unknown trial of this storage 'ViT-B_32'" in done.stderr


def test_an_empty_storage_says_so_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    empty, missing = run("--storage", str(tmp_path), "--once"), run("--storage", str(tmp_path / "typo"))
    assert (empty.returncode, empty.stdout.replace("\n", "")) == (0, f"no trial has begun in {tmp_path}")
    assert missing.returncode == 2
    assert missing.stderr == f"error: storage {tmp_path}/typo is no folder: give the --storage of a sweep\n"


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    done = run("--storage", str(tmp_path), "--every-seconds", "0")
    assert (done.returncode, done.stderr) == (
        2,
        "error: every_seconds 0 is not in (0, 86400]: give seconds such as 5\n",
    )
    with pytest.raises(InputError, match="storage ftp://somewhere cannot be used"):
        FolderWatch("ftp://somewhere")


def test_watching_needs_neither_ray_nor_torch() -> None:
    code = "import sys, sweeps.watch; assert not {'ray', 'torch', 'mlflow', 'optuna', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.fixture
def start_watch(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Watches a storage in a terminal."""
    terminals: list[Terminal] = []

    def start(num_columns: int, num_rows: int, **environment: str) -> Terminal:
        command = [sys.executable, str(SCRIPT), "--storage", str(tmp_path), "--every-seconds", "0.2"]
        terminals.append(Terminal(command, num_columns, num_rows, **environment))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


TRAIN = [sys.executable, "-m", "vit_trainer", "train", "--model", "ViT-B_32-mini", "--dataset", "digits-even"]


@pytest.mark.slow
def test_a_training_is_watched_from_another_terminal(tmp_path: Path, start_watch: Callable[..., Terminal]) -> None:
    terminal = start_watch(100, 30)
    terminal.wait_for(lambda text: "no trial has begun in" in text)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = ["--total-steps", "4000", "--warmup-steps", "10", "--storage", str(tmp_path)]
    training = subprocess.Popen([*TRAIN, *arguments], env=environment, stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        running = re.compile(r" 0\.003 +1/1 +[\d.k]+/4k +\d+\.\d\d +\d")
        text = terminal.wait_for(lambda text: running.search(text) is not None, 120)
        assert "slots in use: 1; slot-hours: " in text
        terminal.resize(40, 20)
        terminal.wait_for(
            lambda text: re.search(r"^ViT-B_32-mini \S+ \d\d\.\d \d+[sm]( \d+/s)?$", text, re.MULTILINE) is not None
        )
        terminal.resize(100, 30)
        terminal.wait_for(lambda text: text.count("0 of 1 begun trials done, 1 running") == 1)
    finally:
        training.terminate()
        training.wait(60)
    terminal.wait_for(lambda text: re.search(r"ViT-B_32-mini +waiting \d", text) is not None)  # its state is kept
    (path,) = (tmp_path / "runs").iterdir()
    run_dir = RunDir(path)
    config = run_dir.config()
    assert config is not None
    run_dir.open_for_writing(config)
    run_dir.write_result(FINISHED | {"gpu_hours": 0.0, "step": 4000})
    run_dir.close()
    terminal.wait_for(lambda text: "98.93 done" in text)
    code, text = terminal.interrupt()
    assert code == 0
    assert text.count("98.93 done") == 1
    assert "Traceback" not in text


def test_in_ci_new_events_are_lines(tmp_path: Path, start_watch: Callable[..., Terminal]) -> None:
    run_dir = write(tmp_path, FIRST, attempt(), row(1000, 0.5))
    terminal = start_watch(160, 40, CI="true")
    terminal.wait_for(lambda text: "1 running" in text)
    run_dir.append({"note": "out of memory: goes on with 32"})
    terminal.wait_for(lambda text: f"\n{FIRST.trial_id}: out of memory: goes on with 32" in text)
    run_dir.write_result(FINISHED)
    run_dir.close()
    terminal.wait_for(lambda text: text.rstrip().endswith(f"\n{FIRST.trial_id}: test 98.93%"))
    code, text = terminal.interrupt()
    assert code == 0
    assert text.count("model ") == 1


def test_an_outage_of_the_storage_is_said_and_survived(tmp_path: Path, start_watch: Callable[..., Terminal]) -> None:
    write(tmp_path, FIRST, attempt(), row(1000, 0.5))
    terminal = start_watch(200, 40)
    terminal.wait_for(lambda text: "1 running" in text)
    (tmp_path / "runs").rename(tmp_path / "away")
    (tmp_path / "runs").write_text("no folder any more")
    text = terminal.wait_for(lambda text: f"{tmp_path} cannot be read since " in text)
    assert "1 running" in text
    (tmp_path / "runs").unlink()
    (tmp_path / "away").rename(tmp_path / "runs")
    terminal.wait_for(lambda text: "1 running" in text and "cannot be read" not in text)
