"""Imports point down only, between rooms and between files; lazy ones count too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "sweeps": (
        "commands",
        "sweep",
        "bundle",
        "reporting tracking",
        "running",
        "display",
        "selection checks",
        "records cluster",
        "planning",
        "options",
        "table machines",
    ),
    "vit_trainer": (
        "__main__",
        "commands",
        "parity",
        "command_line inference tracking train pretrain",
        "loop",
        "evaluate",
        "weights",
        "model",
        "config",
        "data command_line",
        "files",
        "machine kernels cards architectures provenance",
        "errors",
    ),
}
"""The rooms of each package from the top floor down. A room imports from lower floors, and none of its own."""
ONLY_IN = {
    "optuna": {"sweeps/selection/studies.py"},
    "mlflow": {"sweeps/tracking/registry.py", "vit_trainer/inference/served_model.py", "vit_trainer/tracking/*"},
    "ray": {"sweeps/cluster/*", "sweeps/running/*", "sweeps/selection/asha_scheduler.py", "sweeps/checks/*"},
    "torch": {
        "vit_trainer/*",
        "vit_trainer/*/*",
        "sweeps/running/launcher.py",
        "sweeps/cluster/join.py",
        "sweeps/machines/speeds.py",
    },
}
"""Which files import a heavy package."""
STANDARD_LIBRARY_ONLY = (
    "errors.py",
    "files/outgoing.py",
    "cards.py",
    "architectures.py",
    "config.py",
    "model/memory.py",
    "files/storage.py",
)
FILES = sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py"))


def modules_imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import; of `from a import b` both a and a.b, since b may be one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {module.split(".")[0] for module in modules_imported(path)}


def name_of(path: Path) -> str:
    """`sweeps.table.cells`; of an __init__.py its package's."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def arrows() -> dict[str, set[str]]:
    """Which files of the two packages each imports from, by the names of modules."""
    names = {name_of(path) for path in FILES}
    return {name_of(path): (set(modules_imported(path)) & names) - {name_of(path)} for path in FILES}


def room(module: str) -> tuple[str, str]:
    """The package, and its room; whatever stands at the top of sweeps/ beside its rooms is a command."""
    package, _, rest = module.partition(".")
    name = rest.split(".")[0]
    is_command = package == "sweeps" and (ROOT / package / f"{name}.py").exists() and name not in ("sweep", "options")
    return package, "commands" if is_command else name


def test_every_room_has_its_floor() -> None:
    rooms = {room(name_of(path)) for path in FILES} - {(package, "") for package in FLOORS}
    assert rooms == {(package, name) for package, floors in FLOORS.items() for name in " ".join(floors).split()}


def test_imports_between_rooms_point_down() -> None:
    floor_of = {
        (package, name): number
        for package, floors in FLOORS.items()
        for number, names in enumerate(floors)
        for name in names.split()
    }
    up = [
        f"{importer} -> {imported}"
        for importer, found in arrows().items()
        for imported in found
        if room(importer) != room(imported) and room(importer)[0] == room(imported)[0] and room(imported)[1]
        if floor_of[room(importer)] >= floor_of[room(imported)]
    ]
    assert not up


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_trainer_knows_nothing_of_sweeps() -> None:
    assert not [path for path in FILES if path.is_relative_to(ROOT / "vit_trainer") and "sweeps" in packages(path)]


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_heavy_package_is_imported_where_it_is_said_to_be(package: str) -> None:
    importers = {path.relative_to(ROOT) for path in FILES if package in packages(path)}
    assert not {path for path in importers if not any(path.match(pattern) for pattern in ONLY_IN[package])}
    assert all(any(path.match(pattern) for path in importers) for pattern in ONLY_IN[package])


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_the_ground_floor_is_standard_library_only(name: str) -> None:
    allowed = set(sys.stdlib_module_names) | {"vit_trainer", "__future__"}
    allowed |= {"pyarrow"} if name == "files/storage.py" else set()
    assert packages(ROOT / "vit_trainer" / name) <= allowed


def test_configs_and_run_folders_are_read_without_torch() -> None:
    code = "import sys, vit_trainer.config, vit_trainer.files.run_dir; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_room_is_crowded() -> None:
    """Beside the commands that people call, of which sweeps/ is full."""
    crowded = {}
    for folder in {path.parent for path in FILES} - {ROOT / "sweeps"}:
        count = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        if count > 12:
            crowded[folder.name] = count
    assert not crowded


def test_there_is_no_drawer_of_leftovers() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    folders = ("vit_trainer", "sweeps", "tests")
    assert not [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path.name in drawers]
