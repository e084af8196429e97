"""MLflow's SQLite file: made whole or not at all, and recognised before MLflow asks it again and again."""

import os
import sqlite3
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from vit_trainer.errors import StoreError, reason_of

SECONDS_TO_WAIT = 5.0
"""How long another program may hold the file's lock, and how long the check for damage may take."""
ABANDONED_SECONDS = 3600.0
"""A file that is still being made after so long has lost its maker."""
ANEW = "move it away, and it is made anew from the run folders"


def database_of(tracking_uri: str) -> Path | None:
    """The file that a tracking URI names; None: a server's."""
    scheme, separator, path = tracking_uri.partition(":///")
    return Path(path) if separator and path and scheme.partition("+")[0] == "sqlite" else None


def require_database(path: Path) -> None:
    """Check that a file is MLflow's, of this version, whole and free, or isn't there yet. Changes nothing.

    Raises:
        StoreError: what else it is, and what helps.
    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        where = path.parent.resolve()
        raise StoreError(f"MLflow can't use {path}: {where} is no folder that can be written; correct the address")
    if not path.exists():
        return
    if not path.is_file():
        raise StoreError(f"MLflow can't use {path}, for it is no file: {ANEW}")
    try:
        with path.open("r+b") as file:
            head = file.read(16)
        if head and head != b"SQLite format 3\0":
            raise StoreError(f"MLflow can't use {path}, for it is no SQLite file: {ANEW}")
        uri = f"file:{quote(str(path.absolute()))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=SECONDS_TO_WAIT, isolation_level=None)) as connection:
            wrong = _what_is_wrong(connection)
    except (OSError, sqlite3.Error) as error:
        wrong = f"it cannot be read or written ({reason_of(error)}): make it readable and writable, or {ANEW}"
        if "locked" in str(error):
            wrong = f"another program has locked it for {SECONDS_TO_WAIT:g} s: end that program"
        elif isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            wrong = f"it is damaged ({reason_of(error)}): {ANEW}"
    if wrong:
        raise StoreError(f"MLflow can't use {path}, for {wrong}")


def make_database(path: Path) -> None:
    """Make MLflow's file unless it is there, under another name first: a kill leaves none that is half made."""
    if path.exists() and path.stat().st_size:
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in path.parent.glob(f".{path.name}.*.tmp*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        SqlAlchemyStore(f"sqlite:///{temporary}", "./mlruns").engine.dispose()
        if path.exists():  # and empty
            os.replace(temporary, path)
        else:
            with suppress(FileExistsError):  # another process was faster
                _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _link(source: Path, path: Path) -> None:
    """Give a file another name, unless that is taken; raises FileExistsError then."""
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if not path.exists():
            os.replace(source, path)


def _what_is_wrong(connection: sqlite3.Connection) -> str:
    """With what helps; empty if nothing is."""
    connection.execute("BEGIN IMMEDIATE").connection.rollback()  # waits for who writes
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return ""
    deadline = time.monotonic() + SECONDS_TO_WAIT
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    with suppress(sqlite3.OperationalError):  # a large file's time is up
        ((found,),) = connection.execute("PRAGMA quick_check(1)")
        if found != "ok":
            return f"it is damaged ({found.splitlines()[-1]}): {ANEW}"
    connection.set_progress_handler(None, 0)
    if not {"experiments", "runs"} & tables:
        return f"it is another program's, with tables such as {min(tables)}: give another file, or {ANEW}"
    revisions = connection.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
    revision = next((str(found) for (found,) in revisions), None)
    from alembic.script import ScriptDirectory
    from alembic.util.exc import CommandError
    from mlflow import __file__ as package
    from mlflow import __version__ as version

    known = ScriptDirectory(str(Path(package).parent / "store" / "db_migrations"))
    if revision in known.get_heads():
        return ""
    if revision is None or not connection.execute("SELECT count(*) FROM runs").fetchone()[0]:
        return f"it was left half made, by a process that was killed: {ANEW}"
    try:
        known.get_revision(revision)
    except CommandError:
        return f"a newer MLflow than {version} has made it (revision {revision}): install that version, or {ANEW}"
    return f"an older MLflow than {version} has made it: `mlflow db upgrade` with its address, or {ANEW}"
