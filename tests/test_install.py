"""What pip installs works in an empty folder, without a checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vit_trainer.files.run_dir import RunDir

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed, without what it needs, which is here already."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "source").mkdir()
    for name in ("sweeps", "vit_trainer"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(build, check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True, cwd=folder)
    return folder / "site"


def test_every_file_of_the_packages_is_installed(site: Path) -> None:
    for package in ("sweeps", "vit_trainer"):
        own = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()}
        there = {path.relative_to(site) for path in (site / package).rglob("*") if path.is_file()}
        assert {path for path in own - there if "__pycache__" not in path.parts} == set()


def test_the_miniature_runs_from_the_wheel_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    def run(name: str, *arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(site), "RAY_ADDRESS": "local"}
        command = [sys.executable, str(site / "bin" / name), *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    grid = ["--preset", "mini", "--models", "ViT-B_32-mini", "--datasets", "digits-even", "--dropouts", "0"]
    said = run("vit-sweeps", "grid", *grid, "--base-lrs", "official")
    assert "1 trial, 0 of them done" in said
    (run_dir,) = (RunDir(path) for path in (tmp_path / "sweep-results" / "runs").iterdir())
    assert run_dir.lines()[0]["commit"] is None  # of what is installed, not of this checkout
    accuracy = f"{100 * (run_dir.result() or {})['test/accuracy']:.2f}"
    assert accuracy in said
    assert accuracy in run("vit-sweeps", "watch", "--once")
    assert f"{tmp_path}/sweep-results/report/report.html" in run("vit-sweeps", "report")
    assert "vit-sweeps grid --preset paper --plan" in run("vit-sweeps", "grid", "--help")
    assert "Usage: vit-trainer train" in run("vit-trainer", "train", "--help")
