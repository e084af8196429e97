"""A table of bad command lines: each ends with 2, one line that names what was given, and nothing written."""

import importlib
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cyclopts import App
from PIL import Image

from vit_trainer.command_line import run
from vit_trainer.weights.npz_files import MINIATURES

ROOT = Path(__file__).parents[2]
TRAIN = "train --model ViT-B_32-mini --dataset digits-even "
PLAN = "paper_grid --preset mini --plan "
STORAGES = {
    "''": "--storage is empty, as a variable that isn't set",
    "' '": "--storage is empty",
    "s3:/bucket/x": "storage s3:/bucket/x is no path: write s3://… where a URI may stand, or ./s3:/bucket/x",
    "gs:bucket": "storage gs:bucket is no path: write gs://…",
    "S3:bucket/x": "storage S3:bucket/x is no path",
    "file:/x": "storage file:/x is no path: write file://…",
    "file://rel/x": "storage file://rel/x is no folder of this machine: give such as file:///folder",
    "file:///x%2Fy": "is no folder of this machine",
    "file:///x?y": "is no folder of this machine: give such as file:///folder, with %3F for ? and %23 for #",
    "file:///x#y": "is no folder of this machine",
    "file://[x": "storage 'file://[x' is no valid address (Invalid IPv6 URL)",
    "file:///a%0ab": "cannot be used (it holds control characters)",
    "s3://bucket/x#y": "has a #, after which nothing is looked at: write it as %23",
    "s3://[bucket/x": "cannot be used (Cannot parse URI",
    "s3:///x": "cannot be used (Missing bucket name",
    "foo://x": "storage foo://x cannot be used (Unrecognized filesystem type",
    "file": "storage file cannot be a folder, since {cwd}/file is a file: give another path",
    "file/x/y": "storage file/x/y cannot be a folder, since {cwd}/file is a file",
    "file:///{cwd}/file": "is a file: give another path",
    "loop": "storage loop cannot be used (",
    "loop/x": "storage loop/x cannot be used (",
    "/dev/zero": "storage /dev/zero cannot be used (a device or pipe)",
    "~nobody-9/x": "storage ~nobody-9/x cannot be used (Could not determine home directory",
    "x" * 300: "(File name too long)",
    "/".join(["x" * 200] * 20): "(File name too long)",
    "a\nb": "--storage 'a\\nb' holds what can't be printed",
}
MISREAD = {
    "file:///a%3Fb": "/a?b/mlflow.db has a % or ? in its path, which MLflow misreads: give another --storage",
    "a%2Fb": "{cwd}/a%2Fb/mlflow.db has a % or ? in its path",
}
"""Only where MLflow's file is to lie there."""
READERS = [
    "watch",
    "report",
    "clean",
    "explain",
    "doctor",
    "sync",
    "predict img.png --trial a",
    "attention img.png --trial a",
]
VALUES = {
    # Whole numbers, whichever command's.
    f"{PLAN} --seeds 1.5": "--seeds 1.5 is no whole number: give one such as 2",
    f"{PLAN} --seeds 0 1.0": "--seeds 1.0 is no whole number",
    f"{PLAN} --seeds 1e3": "--seeds 1e3 is no whole number",
    f"{PLAN} --seeds 0x10": "--seeds 0x10 is no whole number",
    f"{PLAN} --max-failures 2.5": "--max-failures 2.5 is no whole number",
    f"{PLAN} --keep 99999999999999999999": "--keep 99999999999999999999 is too large: give a whole number up to",
    f"{PLAN} --micro-batch-size 1.4": "--micro-batch-size 1.4 is no whole number",
    f"{TRAIN} --total-steps 80.4": "--total-steps 80.4 is no whole number",
    f"{TRAIN} --seed nan": "--seed nan is no whole number",
    "score file --worst 0.5": "--worst 0.5 is no whole number",
    "seeds --preset mini --plan --seeds 0.5": "--seeds 0.5 is no whole number",
    "lr_search --preset mini --plan --num-trials 7.9": "--num-trials 7.9 is no whole number",
    "evaluate --model ViT-B_32-mini --dataset digits-even --batch-size 1.5": "--batch-size 1.5 is no whole number",
    # Bounds.
    "pretrain-mini ViT-B_32-mini --total-steps 0": "total-steps 0 is below 10, too few to warm up in",
    "pretrain-mini ViT-B_32-mini --total-steps 1": "total-steps 1 is below 10",
    "pretrain-mini ViT-B_32-mini --output ''": "--output is empty",
    "pretrain-mini ViT-B_32-mini --output file": "cannot write to file (File exists)",
    "pretrain-mini ViT-B_32-mini --output file/x": "cannot write to file/x (Not a directory)",
    f"{PLAN} --reduction-factor 1.0000001": "reduction_factor 1.0000001 is outside [1.1, 1000]: give such as 2",
    f"{PLAN} --reduction-factor inf": "reduction_factor inf is outside",
    f"{PLAN} --grace-fraction 1e-300": "grace_fraction 1e-300 is outside [0.001, 1)",
    "lr_search --preset mini --plan --num-trials 100000000": "num_trials 100000000 is outside [1, 10000]",
    f"{TRAIN} --resolution 1600000": "does not fit ViT-B_32-mini: give a multiple of 8, such as 1024",
    "probe --model ViT-B_16 --dataset cifar10 --resolution 1600000": "such as 2048, up to 2048",
    "evaluate --model ViT-B_32-mini --dataset digits-pretrain --upstream digits --resolution 1600000": "up to 1024",
    "export --model ViT-B_32-mini --upstream digits --output a.npz --resolution 1600000": "up to 1024",
    f"{TRAIN} --global-batch-size 4000000000": "global_batch_size 4000000000 is outside [1, 2**20]",
    f"{TRAIN} --num-workers 100000": "num_workers 100000 is outside [0, 1024]",
    f"{TRAIN} --hang-minutes inf": "hang_minutes inf is outside (0, 10]",
    f"{TRAIN} --checkpoint-every-minutes nan": "checkpoint_every_minutes nan is outside (0, 1440]",
    "watch --every-seconds 1e300": "every_seconds 1e+300 is not in (0, 86400]",
    f"{PLAN} --gpus-per-trial 99999999999999999999": "gpus_per_trial '99999999999999999999' is no number in [1, 1024]",
    f"{TRAIN} --micro-batch-size 3": "micro_batch_size 3 does not divide 64, the global batch size",
    # Addresses.
    f"{PLAN} --notify http://host:abc/": "notify 'http://host:abc/' is no valid address (Port could not be cast",
    f"{PLAN} --notify http://host:99999/": "notify 'http://host:99999/' is no valid address (Port out of range",
    f"{PLAN} --notify http://[host/": "notify 'http://[host/' is no valid address (Invalid IPv6 URL)",
    f"{PLAN} --notify 'http://host/a b'": "are written as %20 and so on",
    f"{PLAN} --notify http://me:word@host/": "is no web address",
    f"{PLAN} --notify ''": "--notify is empty",
    f"{TRAIN} --tracking-uri http://[host/": "tracking-uri 'http://[host/' is no valid address",
    f"{TRAIN} --tracking-uri http://host:abc": "tracking-uri 'http://host:abc' is no valid address",
    "sync --tracking-uri ''": "--tracking-uri is empty",
    f"{PLAN} --tracking-uri http://[host/": "tracking-uri 'http://[host/' is no valid address",
    "paper_grid --preset mini --tracking-uri htp://host": "tracking-uri htp://host is none of MLflow's",
    "lr_search --preset mini --plan --optuna-storage s3:/x": "optuna storage s3:/x is no path",
    "lr_search --preset mini --optuna-storage /dev/zero": "optuna storage /dev/zero cannot be used (a device or pipe)",
    "fetch ViT-B_16 --source http://[host": "is no valid address",
    "fetch ViT-B_16 --source http://host:abc": "is no valid address",
    # What would be dropped.
    f"{TRAIN} --upstream digits --checkpoint own.npz": "upstream digits or checkpoint own.npz: give the one",
    "explain ViT-B_16/cifar10/0.1 --config own.json": "cells are of a storage, and own.json is from elsewhere",
    "fetch cifar10 --source http://[host": "is no valid address",
    "fetch cifar10 --source foo://x": "foo://x/cifar-10-python.tar.gz cannot be used (Unrecognized",
    "fetch oxford_pets --source ''": "source is empty",
    "fetch imagenet2012 --source http://host/x": "source http://host/x is a web address, which lists no files: give",
    "fetch imagenet2012 --source .": "source . has no files in train/: give a folder with train, val in it",
    # What never ends.
    "predict /dev/zero --model ViT-B_32-mini --upstream digits": "/dev/zero cannot be used (a device or pipe)",
    "attention pipe --model ViT-B_32-mini --upstream digits": "pipe cannot be used (a device or pipe)",
    "predict img.png --checkpoint /dev/zero": "--checkpoint /dev/zero cannot be used (a device or pipe)",
    f"{TRAIN} --checkpoint /dev/zero": "--checkpoint /dev/zero cannot be used",
    "export --model ViT-B_32-mini --checkpoint pipe --output a.npz": "--checkpoint pipe cannot be used",
    "score /dev/zero": "/dev/zero cannot be used",
    "score file --real /dev/zero": "--real /dev/zero cannot be used",
    "explain --config /dev/zero": "--config /dev/zero cannot be used",
    f"{PLAN} --cluster /dev/zero": "--cluster /dev/zero cannot be used",
    "train --model ViT-B_32-mini --dataset ./classes": "/val/b (val/b/x.png: a link to /dev/zero: a device or",
    "evaluate --model ViT-B_32-mini --dataset digits-even --upstream digits --json /dev/null": "a device or pipe",
    "evaluate --model ViT-B_32-mini --dataset digits-even --upstream digits --json .": "cannot write .: it is a folder",
    # Other paths.
    "explain --config deep.json": "deep.json can't be read (nested too deep)",
    "report --storage . --output s3:/bucket": "output s3:/bucket is no path",
    "report --storage . --output file/x": "output file/x cannot be a folder",
    "predict img.png --checkpoint ~nobody-9/x.npz": "--checkpoint ~nobody-9/x.npz cannot be used (Could not determine",
    "predict img.png --checkpoint s3:/bucket/x.npz": "--checkpoint s3:/bucket/x.npz is no path",
    "predict img.png --trial ''": "--trial is empty",
    "train --model ViT-B_32-mini --dataset '~nobody-9/x'": "dataset ~nobody-9/x cannot be used",
    f"{PLAN} --datasets ''": "--datasets is empty",
}


SECONDS = 2.0
"""Of a processor's time that a refusal may take at most."""


def app_of(name: str) -> tuple[App, list[str]]:
    """The app of a script of sweeps/, or the trainer's with its command."""
    module = f"sweeps.{name}" if (ROOT / "sweeps" / f"{name}.py").exists() else ""
    app: App = importlib.import_module(module or "vit_trainer.__main__").app
    return app, [] if module else [name]


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "file").write_text("")
    (tmp_path / "own.json").write_text("{}")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    shutil.copy(MINIATURES / "ViT-B_32-mini.npz", tmp_path / "own.npz")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "classes" / part / label).mkdir(parents=True)
            (tmp_path / "classes" / part / label / "x.png").write_bytes(b"x")
    (tmp_path / "classes" / "val" / "b" / "x.png").unlink()
    (tmp_path / "classes" / "val" / "b" / "x.png").symlink_to("/dev/zero")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "img.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("VIT_CHECKPOINTS", str(tmp_path / "none"))
    return tmp_path


def refusal(cwd: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that refuses; it leaves the folder as it was."""
    before = sorted(str(path) for path in cwd.rglob("*"))
    app, command = app_of(words[0])
    began_at = time.process_time()
    with pytest.raises(SystemExit) as left:
        run(app, [*command, *words[1:]])
    took = time.process_time() - began_at
    said = capsys.readouterr().err
    assert took < SECONDS, words
    assert left.value.code == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert sorted(str(path) for path in cwd.rglob("*")) == before
    return said


def test_strange_storages(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for storage, message in STORAGES.items():
        given = storage.strip("'").replace("{cwd}", str(cwd))
        for command in ([*TRAIN.split(), "--total-steps", "2"], PLAN.split(), *(each.split() for each in READERS)):
            said = refusal(cwd, [*command, "--storage", given], capsys)
            assert message.replace("{cwd}", str(cwd)) in said, command


def test_places_that_mlflow_misreads(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for storage, message in MISREAD.items():
        for command in (PLAN, "doctor", "sync"):
            said = refusal(cwd, [*command.split(), "--storage", storage], capsys)
            assert message.replace("{cwd}", str(cwd)) in said, command
    with pytest.raises(SystemExit) as left:
        run(app_of("paper_grid")[0], [*PLAN.split()[1:], "--tracking-uri", "http://localhost:5000", "--storage", "a?b"])
    assert left.value.code == 0


@pytest.mark.parametrize("line", VALUES)
def test_strange_values(line: str, cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert VALUES[line].replace("{cwd}", str(cwd)) in refusal(cwd, shlex.split(line), capsys)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what its children took")
@pytest.mark.parametrize("line", {line.split()[0]: line for line in [*VALUES, *READERS]}.values())
def test_no_refusal_imports_what_it_does_not_need(line: str, cwd: Path) -> None:
    """Of each command one, in a process of its own."""
    name, *rest = shlex.split(line)
    script = ROOT / "sweeps" / f"{name}.py"
    command = [str(script)] if script.exists() else ["-m", "vit_trainer", name]
    storage = ["--storage", "s3:/x"] if line in READERS else []
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began_at = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, *command, *rest, *storage], check=False, env=environment, capture_output=True
    )
    took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began_at
    assert done.returncode == 2, done.stderr
    assert took < SECONDS
