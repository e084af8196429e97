"""Where a run's code came from, in a checkout of git's own making; and that every attempt says it."""

import importlib.util
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from vit_trainer import provenance
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.machine import device_name
from vit_trainer.train import train
from vit_trainer.weights.npz_files import checkpoint_path, file_upstream


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a copy of the module in it, not yet added."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    git(tmp_path, "init", "--quiet")
    shutil.copy(provenance.__file__, tmp_path / "provenance.py")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A Tester", "-c", "user.email=tester@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def module_in(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("copied_provenance", folder / "provenance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_commit_is_that_of_the_checkout_which_holds_the_code(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "first")
    assert module_in(checkout).commit() is None  # it merely lies there, as a package in a .venv does
    git(checkout, "add", "provenance.py")
    git(checkout, "commit", "--quiet", "--message", "second")
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # what a hook of another repository would see
    assert module_in(checkout).commit() == head
    with (checkout / "provenance.py").open("a") as file:
        file.write("# changed\n")
    assert module_in(checkout).commit() == f"{head}-dirty"


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert module_in(checkout).commit() is None


def test_every_attempt_says_what_it_was_made_with(tmp_path: Path) -> None:
    config = FinetuneConfig.official("ViT-B_32-mini", "digits-even", total_steps=1, warmup_steps=0)
    train(config, RunDir(tmp_path), Execution())
    (attempt,) = RunDir(tmp_path).attempts()
    assert attempt["versions"]["torch"] == version("torch")
    assert attempt["commit"] == provenance.commit()
    assert attempt["device_name"] == device_name()
    assert file_upstream(checkpoint_path(config.model, config.upstream)) == f"npz-{attempt['weights_sha256'][:12]}"
