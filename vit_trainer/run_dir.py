"""RunDir: the only owner of file names in a run folder. Standard library only.

A run folder is the whole truth about a trial:

    config.json        the resolved FinetuneConfig, written first
    lease.json         who may write here
    journal.jsonl      a row per report; append only
    checkpoint/        the latest complete state
    result.json        the outcome, once there is one
    model.safetensors  the final weights, where asked for
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_trainer.errors import InputError, LeaseLostError

Row = dict[str, Any]
"""A row of the journal: `time` (Unix seconds), `step`, and metrics under their own names."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class RunDir:
    """One trial's folder: creating it, writing to it under a lease, reading it.

    Reading never needs the lease. Writing does: `open_for_writing()` takes it, and a process that finds it
    taken over by a successor gets `LeaseLostError` instead of writing beside it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lease: str | None = None

    @property
    def trial_id(self) -> str:
        return self.path.name

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def lease_path(self) -> Path:
        return self.path / "lease.json"

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint" / "state.safetensors"

    @property
    def weights_path(self) -> Path:
        return self.path / "model.safetensors"

    def open_for_writing(self, config: Mapping[str, Any]) -> None:
        """Create the folder if need be, take the lease over, and write the config or check that it agrees.

        A result from before is taken away: whoever opens a run for writing goes on with it.

        Raises:
            InputError: the folder can't be written, or belongs to a trial with another config.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lease = uuid.uuid4().hex
            lease = {"writer": self._lease, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
            write_atomically(self.lease_path, json.dumps(lease).encode())
            present = self.config()
            if present in (None, dict(config)):
                self.result_path.unlink(missing_ok=True)
            if present is None:
                write_atomically(self.config_path, json.dumps(dict(config), indent=1, sort_keys=True).encode())
        except OSError as error:
            raise InputError(f"cannot write to run folder {self.path}: {error.strerror}; give another one") from error
        if present is not None and present != dict(config):
            differing = sorted(key for key in {*present, *config} if present.get(key) != config.get(key))
            raise InputError(
                f"run folder {self.path} holds another trial ({', '.join(differing)} differ): give a new one"
            )

    def check_lease(self) -> None:
        """Raise `LeaseLostError` unless this object is still the folder's writer."""
        holder = self._read_json(self.lease_path) or {}
        if self._lease is None or holder.get("writer") != self._lease:
            raise LeaseLostError(
                f"run folder {self.path} is now written by process {holder.get('pid')} on {holder.get('host')}"
            )

    def append(self, row: Row) -> None:
        """Add a row to the journal, in one write, so that a crash tears at most the last line."""
        self.check_lease()
        line = json.dumps({"time": time.time(), **row}) + "\n"
        with self.journal_path.open("a+b") as file:
            torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write((b"\n" if torn else b"") + line.encode())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Put the outcome in place."""
        self.check_lease()
        write_atomically(self.result_path, json.dumps(dict(result), indent=1).encode())

    def config(self) -> dict[str, Any] | None:
        """The trial's FinetuneConfig as a dict, or None before it was written."""
        return self._read_json(self.config_path)

    def result(self) -> dict[str, Any] | None:
        """The outcome, or None while there is none."""
        return self._read_json(self.result_path)

    def rows(self) -> list[Row]:
        """Every complete row in the order written; a resumed run writes some steps again, see `journal()`."""
        try:
            lines = self.journal_path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # empty, or torn by a crash
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
        return rows

    def journal(self) -> list[Row]:
        """One row per step in order of steps; where a resumed run wrote a step again, its later row."""
        return [row for _, row in sorted({row["step"]: row for row in self.rows()}.items())]

    @staticmethod
    def _read_json(path: Path) -> dict[str, Any] | None:
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): move its folder away to start that trial anew") from error
        if not isinstance(content, dict):
            raise InputError(f"{path} is damaged (not an object): move its folder away to start that trial anew")
        return content
