"""A sweep whose every URL holds a token: it finds its way into no file, no tag, no message and no output."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSelector, FileSystem, FileType

from tests.stores import MlflowServer, postgresql
from tests.sweeps.sweep_process import SCRIPT, SMALL_GRID
from tests.sweeps.tracking.test_to_webhook import server  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = SCRIPT.parents[1]
TOKENS = [f"t0KeN{i}" for i in range(8)]


def test_no_secret_of_any_url_leaves(
    tmp_path: Path,
    two_slots: str,
    bucket: str,
    server: tuple[str, list[dict[str, Any]]],  # noqa: F811
) -> None:
    url, told = server
    environment = os.environ | {"RAY_ADDRESS": two_slots, "PYTHONPATH": str(ROOT)}

    def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
        )

    mlflow = MlflowServer(tmp_path)
    mlflow.launch()
    storage = bucket.replace("s3://", f"s3://{TOKENS[0]}:{TOKENS[1]}@")
    with postgresql() as database:
        mlflow.wait()
        places = ["--storage", storage, "--tracking-uri", mlflow.address.replace("://", f"://me:{TOKENS[2]}@")]
        command = [sys.executable, str(SCRIPT), *SMALL_GRID, *places, "--search", "optuna", "--num-trials", "2"]
        password = f":{TOKENS[3]}%20{TOKENS[4]}%40{TOKENS[5]}@"
        command += ["--optuna-storage", database.replace("@", password, 1), "--base-lrs", "0.001", "0.01"]
        command += [f"--notify={url}/{TOKENS[6]}?key={TOKENS[7]}"]
        done = run(command)
        assert done.returncode == 0, done.stderr
        outputs = [done.stdout, done.stderr]
        for tool in (
            [str(ROOT / "sweeps/report.py")],
            [str(ROOT / "sweeps/watch.py"), "--once"],
            ["-m", "vit_trainer", "sync"],
        ):
            done = run([sys.executable, *tool, *places[: 4 if "sync" in tool else 2]])
            assert done.returncode == 0, done.stderr
            outputs += [done.stdout, done.stderr]
    mlflow.kill()
    refused = run([*command, "--num-trials", "3"])  # nothing answers any more
    assert refused.returncode == 2
    outputs.append(refused.stderr)
    assert [each["event"] for each in told] == ["finished"]

    filesystem, path = FileSystem.from_uri(bucket)
    infos = filesystem.get_file_info(FileSelector(path, recursive=True))
    files = {info.path: filesystem.open_input_stream(info.path).read() for info in infos if info.type == FileType.File}
    files |= {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    files |= {f"output {i}": output.encode() for i, output in enumerate([*outputs, repr(told)])}
    assert any("commands.jsonl" in name for name in files)
    found = [
        (name, token)
        for name, content in files.items()
        for token in TOKENS
        if token.encode() in content or token.encode().hex().encode() in content
    ]
    assert not found
