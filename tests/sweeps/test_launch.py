"""launch.py refuses in one line what can't work, before anything is looked at; tests/clusters have what it starts."""

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from sweeps import paper_grid
from sweeps.cluster.launched import Launched, Tunnel
from sweeps.launch import _Way, app
from vit_trainer.command_line import run

ROOT = Path(__file__).parents[2]
FILE = str(ROOT / "clusters" / "a100.yaml")
GRID = (FILE, "--yes", "--", "paper_grid.py")


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line."""
    with pytest.raises(SystemExit) as ended:
        run(app, list(words))
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1), out + err
    return err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "CLUSTER requires an argument"),
        ((FILE,), "SWEEP requires an argument"),
        (("gone.yaml", "--", "paper_grid.py"), "gone.yaml is no file for `ray up` (No such file or directory): give"),
        ((str(ROOT / "clusters" / "kuberay.yaml"), "--", "paper_grid.py"), "Kubernetes, Slurm and SkyPilot open with"),
        ((str(ROOT / "pyproject.toml"), "--", "paper_grid.py"), "is no file for `ray up`"),
        ((FILE, "--", "papergrid.py"), "unknown sweep 'papergrid.py'; did you mean 'paper_grid.py'?"),
        ((FILE, "--", "stop.py"), "unknown sweep 'stop.py'. Valid: "),
        ((*GRID, "--preset", "large"), 'Invalid value "large" for --preset'),
        ((*GRID, "--dropout", "0"), "Unknown option: --dropout. Did you mean --dropouts?"),
        ((*GRID, "--max-dollars", "-3"), "max_dollars -3 is not a positive number"),
        ((*GRID, "--storage", "/shared", "--plan"), "--plan is shown before anything starts: leave it out"),
        ((*GRID, "--storage", "/shared", "--models", "ViT-B16"), "unknown model 'ViT-B16'; did you mean 'ViT-B_16'?"),
        ((*GRID, "--storage", "/shared", "--datasets", "cifar"), "unknown dataset 'cifar'; did you mean 'cifar10'?"),
        ((*GRID, "--preset", "paper"), "storage sweep-results would be a folder of one machine, gone with the job"),
        ((*GRID, "--storage", "results"), "storage results would be a folder of one machine"),
        ((*GRID, "--storage", "s3://BUCKET/vit-sweeps"), "names no bucket yet: write yours in place of BUCKET"),
        ((FILE, "--", "seeds.py", "--storage", "s3://mine/x"), "no terminal to answer at: give --yes before the --"),
    ],
)
def test_what_cannot_work_is_one_line(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # this machine's, of which a cluster knows nothing
    assert message in refusal(capsys, *words)


def test_the_file_is_looked_at_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in os.environ.keys() & {"AWS_PROFILE", "AWS_ACCESS_KEY_ID"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SystemExit) as ended:
        run(app, [*GRID, "--storage", "/shared"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (1, "nothing was started: mend what has failed\n")
    assert "storage /shared: all nodes must share that folder" in out
    assert "credentials: none for AWS" in out
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_a_plan_for_a_file_takes_its_gpus_for_those_of_the_sweep(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = ["--plan", "--cluster", FILE, "--storage", str(tmp_path), "--models", "ViT-B_16", "--datasets", "cifar10"]
    assert paper_grid.app(plan) == 0
    assert "32 GPUs in the Ray cluster: running the paper's grid." in capsys.readouterr().out


def test_how_long_nodes_are_waited_for_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_SWEEPS_MINUTES_FOR_NODES", "30")
    way = _Way(
        Launched.of(Path(FILE)), "seeds.py", ("--storage", "/shared", "--tracking-uri", "/shared/m.db"), yes=True
    )
    command = "python sweeps/seeds.py --storage /shared --tracking-uri /shared/m.db"
    assert way.entry == f"env VIT_SWEEPS_MINUTES_FOR_NODES=30 {command}"


def test_a_line_that_breaks_once_the_sweep_is_sent_is_not_waited_for() -> None:
    way = _Way(Launched.of(Path(FILE)), "paper_grid.py", ("--storage", "/shared"), yes=True)
    with subprocess.Popen(["true"]) as process:
        pass
    start = time.monotonic()
    assert way._wait_for(Tunnel("http://127.0.0.1:9", process), "paper_grid-1") == ", and has said nothing yet"
    assert time.monotonic() - start < 10
