"""A storage that was copied or moved: MLflow's database in it has absolute paths of files, which are put right."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

log = logging.getLogger(__name__)

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's that begin with where files lie."""


def follow(database: Path, artifacts: Path, recorded: str) -> None:
    """Have a storage's own database look for files, and put new ones, where they lie now; others stay as they are.

    Args:
        artifacts: the storage's folder for them.
        recorded: where an experiment of the database has them, as a URI; MLflow's client can't change that.
    """
    place = artifacts.resolve()
    old, new = recorded.rstrip("/"), place.as_uri()
    is_ours = Path(unquote(urlsplit(old).path)).name == place.name and old.startswith("file:")
    if old == new or not is_ours or database.resolve() != place.parent / "mlflow.db":
        return
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for table, column in PLACES:
            if any(column == row[1] for row in connection.execute(f"pragma table_info({table})")):
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) where substr({column} || '/', 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
    log.warning("MLflow: this storage was copied or moved: files are in %s now, no longer in %s", place, old)
