"""clusters/inputs.sh: from the bucket that clusters/bucket names, and what it says where that file isn't there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLUSTERS = Path(__file__).parents[2] / "clusters"


def inputs(folder: Path) -> "subprocess.CompletedProcess[str]":
    """As on a worker whose home is the folder."""
    (folder / "vit-venv").unlink(missing_ok=True)
    (folder / "vit-venv").symlink_to(Path(sys.executable).parent.parent)
    environment = os.environ | {"HOME": str(folder), "VIT_DATA": str(folder / "data")}
    command = ["bash", str(folder / "inputs.sh"), "cifar10"]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.slow
def test_the_bucket_is_asked_and_without_one_it_says_what_to_do(tmp_path: Path) -> None:
    shutil.copy(CLUSTERS / "inputs.sh", tmp_path)
    without = inputs(tmp_path)
    assert without.returncode == 2
    assert "echo s3://my-bucket > clusters/bucket" in without.stderr
    assert len(without.stderr.splitlines()) == 1
    bucket = tmp_path / "my-bucket"
    (bucket / "inputs").mkdir(parents=True)
    (tmp_path / "bucket").write_text(f"{bucket}/\n")
    empty = inputs(tmp_path)
    assert empty.returncode == 2
    assert f"{bucket}/inputs" in empty.stderr
    (tmp_path / "bucket").write_text("s3://my-bucket?region=us-east-1&scheme=http&endpoint_override=127.0.0.1%3A1\n")
    assert "s3://my-bucket/inputs" in inputs(tmp_path).stderr
