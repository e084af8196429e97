"""The benchmarks run, and what they find at a small size is within generous bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


def figures(tmp_path: Path, name: str, *arguments: str) -> dict[str, Any]:
    """What a benchmark writes, started as the README says."""
    path = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments, "--json", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1700, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(path.read_text())
    assert content["versions"].keys() >= {"python", "ray"}
    assert content["machine"]
    return content


def run_of(tmp_path: Path, rival: str) -> dict[str, Any]:
    """One run of the orchestrator's benchmark, in a process of its own as there."""
    size = ["--num-trials", "30", "--num-reports", "10"]
    command = [sys.executable, str(ROOT / "benchmarks" / "orchestrator.py"), *size, "--one", rival]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    path = tmp_path / f"{rival}.json"
    done = subprocess.run(
        [*command, "--json", str(path)], check=False, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    measured: dict[str, Any] = json.loads(path.read_text())
    return measured


def assert_costs_little(ours: dict[str, Any], raw: dict[str, Any]) -> None:
    """The processor's time, since a test can't know what else the machine does; half of it is the start."""
    for run in (ours, raw):
        assert (run["num_trials"], run["num_reports"]) == (30, 300)
    assert ours["peak_mb"] < 1000
    assert ours["cpu_seconds"] < 30 * 0.2 + 300 * 0.010
    assert ours["cpu_seconds"] < raw["cpu_seconds"] + 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_the_orchestrator_costs(tmp_path: Path) -> None:
    assert_costs_little(run_of(tmp_path, "ours"), run_of(tmp_path, "raw"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_whole_benchmark_of_the_orchestrator(tmp_path: Path) -> None:
    size = ["--num-trials", "30", "--num-reports", "10", "--num-repeats", "1"]
    runs = figures(tmp_path, "orchestrator.py", *size)["runs"]
    assert {run["rival"] for run in runs} == {"raw", "ours", "asha", "live", "shipped"}
    by_size = {(run["rival"], run["num_trials"], run["num_reports"]): run for run in runs}
    assert_costs_little(by_size["ours", 30, 300], by_size["raw", 30, 300])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_how_long_a_slot_waits(tmp_path: Path) -> None:
    found = figures(tmp_path, "slot_wait.py", "--num-trials", "4")
    assert len(found["waits"]) == 2
    assert all(0 < wait["seconds_to_begin"] < wait["seconds_to_first_step"] < 20 for wait in found["waits"])
    assert 0 < found["share"] < 0.01


def test_how_long_a_row_takes(tmp_path: Path) -> None:
    found = figures(tmp_path, "log_call.py", "--num-calls", "500")
    assert 0 < found["bare"]["median_ms"] < found["ours"]["median_ms"] < 1


def test_what_early_stopping_costs_and_keeps(tmp_path: Path) -> None:
    found = figures(tmp_path, "sweep.py", "--num-cells", "200")
    of = {(each["method"], each["world"]): each for each in found["selections"]}
    assert all(each["share_of_all"] == 1 and each["regret"] == 0 for (name, _), each in of.items() if name == "all")
    assert of["best two", "1"]["best_kept"] == of["stopping at once", "1"]["best_kept"] == 1
    for name, share in (("best two", 0.625), ("rehearsal, best one", 0.3), ("rehearsal, best two", 0.55)):
        assert of[name, "0.8"]["share_of_all"] == pytest.approx(share)
    assert 0.625 < of["best two and published", "0.8"]["share_of_all"] < 0.75
    regrets = [of[name, "0.8"]["regret"] for name in ("best two and published", "best two", "stopping at once")]
    assert 0 < regrets[0] < regrets[1] < regrets[2]
    assert of["best two, rungs at 1/4 and 1/2", "0.8"]["regret"] > regrets[0]
    ours = [span["over_least"] for span in found["makespans"] if span["order"].startswith("longest cell first")]
    assert max(ours) < 1.05


@pytest.mark.slow
def test_what_the_crop_takes_and_how_exact_it_is(tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    found = figures(tmp_path, "crop.py", "--batch-size", "16", "--resolutions", "64", "--repeats", "3")
    (measured,) = found["resolutions"].values()
    assert {name: len(seconds) for name, seconds in measured["seconds"].items()} == {
        "ours": 3,
        "kornia": 3,
        "torchvision v2": 3,
    }
    assert measured["grey_levels"] < 1e-3


@pytest.mark.slow
def test_what_files_take(tmp_path: Path) -> None:
    found = figures(tmp_path, "jpeg.py", "--num-images", "8", "--resolutions", "384", "--repeats", "3")
    assert 50 < found["kilobytes"] < 150
    (seconds,) = found["seconds"].values()
    fastest = {name: min(values) for name, values in seconds.items()}
    assert len(fastest) == 4
    assert fastest["ours, ready for a GPU that resizes"] < fastest["PIL + torchvision"]


@pytest.mark.slow
def test_what_shards_take(tmp_path: Path) -> None:
    found = figures(tmp_path, "shards.py", "--num-images", "32", "--batch-size", "16", "--repeats", "3")
    fastest = {name: min(values) for name, values in found["seconds"].items()}
    assert fastest["shards that are here"] < 2 * fastest["files"]  # the claim itself is for a machine that is quiet
    assert 0 < found["cold"]["bytes"] < found["cold"]["all_bytes"]
    assert found["cold"]["seconds"] < 60


@pytest.mark.slow
def test_what_the_loop_adds(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = figures(tmp_path, "loop.py", "--steps", "100", "--sizes", "micro")["quartiles"]["micro"]
    assert found.keys() == {"bare loop", "raw Accelerate", "HF Trainer", "ours"}
    assert all(low <= middle <= high for each in found.values() for low, middle, high in each.values())
    assert found["ours"]["ms over bare"][1] < 5  # the claim itself is for a machine that does nothing else


@pytest.mark.slow
def test_how_fast_a_step_is(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = ["--models", "ViT-B_32-mini", "--resolutions", "32", "--dataset", "digits-even", "--compile=false"]
    size = ["--global-batch-size", "16", "--micro-batch-size", "8", "--steps", "4", "--repeats", "1"]
    (measured,) = figures(tmp_path, "step.py", *model, *size)["measured"]
    assert len(measured["images_per_second"]) == 5
    assert all(rates[0] > 0 for rates in measured["images_per_second"].values())
    assert 0 < measured["evaluation_shares"]["cifar10"] < 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_check_of_a_gpu_tries_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = figures(tmp_path, "gpu_check.py", "--tiny")
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert list(stages) == ["parity", "same bits twice", "same bits after a kill", "price of --deterministic", "speed"]
    assert all(stage["has_passed"] for stage in stages.values()), stages
    assert found["ran_on_gpu"] is torch.cuda.is_available()
    killed = stages["same bits after a kill"]["details"]["killed"]["attempts"]
    assert [attempt["from_step"] > 0 for attempt in killed] == [False, True]
    with_and_without = stages["speed"]["details"]["probed"]
    assert [each["dropout"] for each in with_and_without] == [0.0, 0.1]
    assert all(each["train_images_per_second"] > 0 < each["estimated_memory_gib"] for each in with_and_without)


@pytest.mark.slow
def test_what_there_is_no_time_for_says_so(tmp_path: Path) -> None:
    path = tmp_path / "quick.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "step.py"),
        "quick",
        "--models",
        "ViT-B_16",
        "--json",
        str(path),
    ]
    done = subprocess.run([*command, "--minutes", "0.34"], check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    assert [each["problem"] for each in json.loads(path.read_text())["probed"]] == [
        "not done within 20 s",
        "no time was left",
    ]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_how_long_a_start_takes(tmp_path: Path) -> None:
    seconds = figures(tmp_path, "startup.py", "--repeats", "1")["seconds"]
    assert 0 < seconds["sweep: first trial"][0] <= seconds["sweep: second trial"][0]
    assert seconds["without Ray: the trial"][0] > 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("sweep.py", ["--num-cells", "9"], "num_cells 9 is below 10"),
        ("log_call.py", ["--num-calls", "9"], "num_calls 9 is below 100"),
        ("orchestrator.py", ["--num-trials", "9"], "num_trials 9 is below 10"),
        ("crop.py", ["--repeats", "0"], "repeats 0 is below 1"),
        pytest.param(
            "crop.py",
            ["--device", "cuda"],
            "device cuda: PyTorch sees no GPU here",
            marks=[pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")],
        ),
        ("jpeg.py", ["--num-images", "1"], "num_images 1 is below 2"),
        ("shards.py", ["--batch-size", "8"], "batch_size 8 is outside [16, num_images=512]"),
        ("loop.py", ["--steps", "9"], "steps 9 is below 100"),
        ("step.py", ["--models", "ViT-B_61"], "'ViT-B_61'"),
        ("step.py", ["quick", "--minutes", "0"], "minutes 0: give positive numbers"),
        pytest.param(
            "gpu_check.py",
            [],
            "PyTorch sees no GPU here: go to a machine that has one, or give --tiny",
            marks=[pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")],
        ),
        ("startup.py", ["--repeats", "0"], "repeats 0 is below 1"),
        ("slot_wait.py", ["--num-trials", "2"], "2 trials on 2 slots leave no slot that waits: give more trials"),
    ],
)
def test_bad_input_is_one_line(name: str, arguments: list[str], message: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
