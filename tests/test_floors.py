"""Imports point down only: sweeps -> vit_trainer -> its parts -> config and run folders."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_RAY = {"studies.py", "search_space.py", "published.py", "verdict.py", "commands.py"}
NO_RAY |= {"to_webhook.py", "to_tensorboard.py", "standing.py", "sweep_display.py", "watch.py"}
NO_RAY |= {"labels.py", "cell_names.py", "best_region.py", "finding.py", "cluster_file.py"}
NO_RAY |= {"results.py", "figures.py", "pages.py", "sections.py", "report.py"}
STANDARD_LIBRARY_ONLY = [
    "errors.py",
    "architectures.py",
    "config.py",
    "model/memory.py",
    "files/run_dir.py",
    "data/datasets.py",
    "data/class_folders.py",
]


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports anywhere, top level or in a function."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return modules


def packages(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imported_modules(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "vit_trainer").rglob("*.py")), ids=lambda path: path.name)
def test_the_trainer_knows_nothing_of_sweeps(path: Path) -> None:
    assert not packages(path) & {"ray", "optuna", "sweeps"}
    if path.name not in ("experiment.py", "shipper.py", "store.py", "served_model.py"):
        assert "mlflow" not in packages(path)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").rglob("*.py")), ids=lambda path: path.name)
def test_only_the_launcher_and_the_count_of_gpus_import_torch_in_sweeps(path: Path) -> None:
    if path.name not in ("launcher.py", "tuner.py"):
        assert "torch" not in packages(path)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").rglob("*.py")), ids=lambda path: path.name)
def test_only_the_studies_import_optuna_and_what_needs_no_cluster_knows_nothing_of_ray(path: Path) -> None:
    assert ("optuna" in packages(path)) == (path.name == "studies.py")
    if path.name in NO_RAY:
        assert "ray" not in packages(path)


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_the_ground_floor_is_standard_library_only(name: str) -> None:
    assert packages(ROOT / "vit_trainer" / name) <= set(sys.stdlib_module_names) | {"vit_trainer"} | {"__future__"}


def test_configs_and_run_folders_are_read_without_torch() -> None:
    code = "import sys, vit_trainer.config, vit_trainer.files.run_dir; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_there_is_no_drawer_of_leftovers() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    folders = ("vit_trainer", "sweeps", "tests")
    assert not [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path.name in drawers]
