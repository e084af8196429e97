"""MLflow's file: made whole or not at all, whenever its maker is killed; what else it is, is known in seconds."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.stores import with_mlflow_tables
from vit_trainer.errors import StoreError
from vit_trainer.tracking import database
from vit_trainer.tracking.background import BackgroundShipper
from vit_trainer.tracking.database import make_database, require_database
from vit_trainer.tracking.trial_runs import Shipper

MAKE = "import sys; from vit_trainer.tracking.database import *; make_database(Path(sys.argv[1]))"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.slow
def test_a_kill_while_it_is_made_leaves_none_and_the_next_attempt_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    for num_bytes in (1, 300_000):
        maker = subprocess.Popen([sys.executable, "-c", MAKE, str(path)])
        while not any(each.stat().st_size >= num_bytes for each in tmp_path.glob(".mlflow.db.*.tmp")):
            assert maker.poll() is None
        maker.send_signal(signal.SIGKILL)
        assert maker.wait() == -signal.SIGKILL
        assert not path.exists()
    makers = [subprocess.Popen([sys.executable, "-c", MAKE, str(path)]) for _ in range(2)]
    assert [maker.wait(60) for maker in makers] == [0, 0]
    require_database(path)
    Shipper(f"sqlite:///{path}", "a-sweep", tmp_path, {}).sweep_run()
    assert len(list(tmp_path.glob(".mlflow.db.*.tmp"))) == 2  # of the killed


def locked(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50_000])


def zeroed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100_000] + bytes(100_000) + content[200_000:])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("a text file, not a database"), "it is no SQLite file: move it away"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "it is no file: move it away"),
    "torn": (torn, "damaged ("),
    "zeroed": (zeroed, "damaged ("),
    "foreign": (
        lambda path: (path.unlink(), execute(path, "CREATE TABLE studies (a)")),
        "another program's, with tables such as studies: give another file",
    ),
    "half made": (lambda path: execute(path, "DELETE FROM alembic_version"), "left half made, by a process that was"),
    "newer": (
        lambda path: execute(
            path,
            "UPDATE alembic_version SET version_num = 'fedcba987654'",
            "INSERT INTO runs (run_uuid) VALUES ('a')",
        ),
        "has made it (revision fedcba987654): install that version",
    ),
    "older": (
        lambda path: execute(
            path,
            "UPDATE alembic_version SET version_num = '0a8213491aaa'",
            "INSERT INTO runs (run_uuid) VALUES ('a')",
        ),
        "has made it: `mlflow db upgrade`",
    ),
    "locked": (locked, "another program has locked it for 0.2 s: end that program"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_none_of_mlflows_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(database, "SECONDS_TO_WAIT", 0.2)
    path = with_mlflow_tables(tmp_path) / "mlflow.db"
    require_database(path)
    do, reason = DAMAGES[damage]
    held = do(path)
    with pytest.raises(StoreError) as caught:
        require_database(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    # A sweep learns of it within seconds too, and goes on.
    started = time.monotonic()
    shipper = BackgroundShipper(f"sqlite:///{path}", "a-sweep", tmp_path, {})
    shipper.close()
    assert shipper.failure == str(caught.value)
    assert time.monotonic() - started < 20  # MLflow itself would try for a minute
    if isinstance(held, sqlite3.Connection):
        held.close()
        require_database(path)


def test_an_empty_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    require_database(path)
    make_database(path)
    require_database(path)
    assert path.stat().st_size > 0
    assert sorted(tmp_path.iterdir()) == [path]
