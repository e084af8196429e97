"""A trial, a cell and a sweep are ended from another process, through the storage, and the same command goes on."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.running.requests import ALL, ASKED_TO_END, Requests, ask_to_end
from sweeps.stop import app as stop
from tests.sweeps.sweep_process import Start, has_validated, has_validated_in
from vit_trainer.command_line import run
from vit_trainer.files.folder import LocalFolder
from vit_trainer.files.run_dir import STOP, RunDir
from vit_trainer.files.storage import Storage

STOP_SCRIPT = Path(__file__).parents[2] / "sweeps" / "stop.py"


def test_a_request_is_given_once_and_what_an_earlier_session_was_asked_is_forgotten(tmp_path: Path) -> None:
    folder, now = LocalFolder(tmp_path), [0.0]
    ask_to_end(folder, ALL)
    requests = Requests(folder, lambda: now[0])
    assert requests.look() == []
    ask_to_end(folder, ["a", "b"])
    assert requests.look() == []  # so soon it doesn't look
    now[0] = 10.0
    assert requests.look() == ["a", "b"]
    assert not (tmp_path / STOP).exists()
    now[0] = 20.0
    assert requests.look() == []
    for rubbish in ("[", "3", "[" * 100_000):
        (tmp_path / STOP).write_text(rubbish)
        now[0] += 10.0
        assert requests.look() == []


def test_what_cannot_be_stopped_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Storage(tmp_path).sweep("one").write("commands.jsonl", b"")
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        (["--storage", str(tmp_path / "none")], "none"),
        (["--storage", str(tmp_path / "empty")], f"no sweep has begun in {tmp_path}/empty: give the --storage of one"),
        (["--storage", str(tmp_path), "--sweep", "two"], "unknown sweep of this storage 'two'"),
        (["--storage", str(tmp_path), "ViT-B_16/cifar10/0.1"], "unknown trial or cell of one 'ViT-B_16/cifar10/0.1'"),
        (["--storage", str(tmp_path), "--wait-seconds", "nan"], "wait_seconds nan is outside [10, 3600]"),
    ):
        with pytest.raises(SystemExit) as left:
            run(stop, arguments)
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "sweeps" / "one" / STOP).exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_and_then_the_sweep_end_with_their_states_kept_and_the_same_command_goes_on(
    start: Start, tmp_path: Path, two_slots: str
) -> None:
    def ask(*arguments: str) -> str:
        command = [sys.executable, str(STOP_SCRIPT), "--storage", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout

    flags = ("--base-lrs", "0.003", "0.001", "0.0003", "--total-steps", "20000", "--warmup-steps", "8")
    flags += ("--num-evaluations", "2000")
    sweep = start(tmp_path, *flags, address=two_slots)
    trial = sweep.wait_until(has_validated)
    assert f"paper_grid-mini ends {trial.trial_id}; states are kept" in ask(trial.trial_id)
    sweep.wait_until(lambda run_dir: run_dir.trial_id == trial.trial_id and run_dir.result() is not None)
    result = trial.result() or {}
    assert (result["status"], result["cause"]) == ("failed", ASKED_TO_END)
    with trial.checkpoint() as state:
        assert state is not None
    third = sweep.wait_until(lambda run_dir: run_dir.result() is None and "lr0.0003" in run_dir.trial_id)
    assert "paper_grid-mini ends all trials" in ask()
    code, _, err = sweep.finish()
    assert code == 130, err
    assert "all states are kept. To go on: " in err
    assert third.lease() is None
    assert not list(tmp_path.rglob(STOP))

    for path in (tmp_path / "runs").iterdir():  # as of a session that was killed before they heard of it
        (path / STOP).write_text("{}")
    again = start(tmp_path, *flags, address=two_slots)
    goes_on = again.wait_until(has_validated_in(2))
    assert not (Path(goes_on.location) / STOP).exists()
    assert next(line for line in goes_on.lines() if line.get("attempt") == 2)["from_step"] > 0
    again.process.send_signal(signal.SIGTERM)  # as `ray job stop` does
    code, _, err = again.finish()
    assert code == 130, err
    assert all(RunDir(path).lease() is None for path in (tmp_path / "runs").iterdir())
    assert goes_on.result() is None
