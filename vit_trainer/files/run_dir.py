"""RunDir: the only owner of file names in a run folder. Standard library only.

A run folder is the whole truth about a trial:

    config.json        the resolved FinetuneConfig, written first
    lease.json         who may write here; gone when nobody does
    journal.jsonl      a line per attempt and a row per report; append only
    checkpoint/        the latest complete state
    result.json        the outcome, once there is one
    model.safetensors  the final weights, where asked for
    environments/      packages, system and variables of its attempts, a file for each that differs
    predictions.npz    what the final model said of each test image, see `Predictions`
    profile/           what ten steps did, where asked for
    stop.json          asks the trial's process to end, until it has
    damaged-1/         what stood here when something of it was damaged, and the trial had to start anew

What is read has passed the schema of its file, or is a DamagedError, so that nobody else need check anything.
"""

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vit_trainer.errors import DamagedError, InputError, LeaseLostError, reason_of
from vit_trainer.files.folder import Folder, open_folder
from vit_trainer.files.location import is_uri
from vit_trainer.files.outgoing import hide_secrets
from vit_trainer.files.schema import UNFINISHED, config_of, lease_of, lines_of, result_of, trial_id_of

T = TypeVar("T")
Row = dict[str, Any]
"""A row of the journal: `time` (Unix seconds), `step`, and metrics under their own names."""
Result = Mapping[str, Any]
"""Content of a result.json."""

CONFIG, LEASE, JOURNAL, RESULT = "config.json", "lease.json", "journal.jsonl", "result.json"
STOP = "stop.json"
"""Asks whoever works here to end; see the sweeps' `Requests`. No part of what a run has come to."""
CHECKPOINT, WEIGHTS = "checkpoint/state.safetensors", "model.safetensors"
PREDICTIONS, ENVIRONMENTS = "predictions.npz", "environments"
TRACE, MEMORY = "profile/trace.json.gz", "profile/memory.pickle"
SILENT_HOURS = 1.0
"""A writer on another machine that has written nothing for so long is taken for dead."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds; all of it has been checked."""

    trial_id: str
    """Name of the folder."""
    config: Mapping[str, Any]
    """Content of config.json."""
    lines: tuple[Row, ...]
    """Every line of the journal in the order written."""
    result: Result | None
    """Content of result.json."""

    @property
    def status(self) -> str:
        """That of the result, or UNFINISHED."""
        return UNFINISHED if self.result is None else self.result["status"]

    @cached_property
    def journal(self) -> list[Row]:
        """As `RunDir.journal`."""
        return one_per_step(self.lines)

    @property
    def step(self) -> int:
        """Optimiser steps that the trial has taken."""
        return self.journal[-1]["step"] if self.journal else 0


def one_per_step(lines: Iterable[Row]) -> list[Row]:
    """Of a journal's lines one row per step in order of steps; where a resumed run wrote one again, its later row."""
    return [row for _, row in sorted({line["step"]: line for line in lines if "step" in line}.items())]


class RunDir:
    """One trial's folder: creating it, writing to it under a lease, reading it.

    Reading never needs the lease. Writing does: `open_for_writing()` takes it, and a process that finds it
    taken over by a successor gets `LeaseLostError` instead of writing beside it.
    """

    def __init__(self, folder: Folder | str | Path, names: Container[str] | None = None) -> None:
        """
        Args:
            folder: or its path or URI, see `open_folder`.
            names: of the files that are there, if a listing has told: a bucket isn't asked for others.
        """
        self.folder = folder if isinstance(folder, Folder) else open_folder(folder)
        self._names = names
        self._lease: str | None = None
        self._checkpoint: Future[None] | None = None

    @property
    def location(self) -> str:
        """Path or URI."""
        return self.folder.location

    @property
    def trial_id(self) -> str:
        location = self.location
        return PurePosixPath(urlsplit(location).path if is_uri(location) else location).name

    # Writing.

    def open_for_writing(self, config: Mapping[str, Any]) -> None:
        """Create the folder if need be, take the lease over, and write the config or check that it agrees.

        A result from before is taken away: whoever opens a run for writing goes on with it. Where anything is damaged,
        all that is there is moved to a folder beside it, and the journal begins by saying so.

        Raises:
            InputError: the folder can't be written, or belongs to a trial with another config.
        """
        try:
            self._lease = uuid.uuid4().hex
            lease = {"writer": self._lease, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
            self.folder.write(LEASE, json.dumps(lease).encode())
            try:
                present = self._read()
                if present is not None and present.config != dict(config) and self.trial_id == trial_id_of(config):
                    raise self._damaged(CONFIG, "it is another trial's")
            except DamagedError as error:
                present = None
                self._set_aside(str(error))
            if present is None or present.config == dict(config):
                self.folder.remove(RESULT)
            for name in self.folder.child("checkpoint").names():
                if name.endswith(".tmp"):  # of a writer that was killed
                    self.folder.remove(f"checkpoint/{name}")
            if present is None:
                self.folder.write(CONFIG, json.dumps(dict(config), indent=1, sort_keys=True).encode())
        except OSError as error:
            raise InputError(
                f"cannot write to run folder {self.location}: {reason_of(error)}; give another one"
            ) from error
        if present is not None and present.config != dict(config):
            differing = sorted(key for key in {*present.config, *config} if present.config.get(key) != config.get(key))
            raise InputError(
                f"run folder {self.location} holds another trial ({', '.join(differing)} differ): give a new one"
            )

    def _set_aside(self, reason: str) -> None:
        """Begin anew: the result goes first and the config last, so that nothing looks whole in between."""
        names = self.folder.names()
        into = next(name for i in count(1) if (name := f"damaged-{i}") not in names)
        for name in (RESULT, JOURNAL, CHECKPOINT, WEIGHTS, PREDICTIONS, TRACE, MEMORY, CONFIG):
            self.folder.move(name, f"{into}/{name}")
        self.append({"note": f"started anew, since {reason}; what was there is kept in {into}"})

    def check_lease(self) -> None:
        """Raise `LeaseLostError` unless this object is still the folder's writer."""
        holder = self.lease()
        if self._lease is None or holder is None or holder.get("writer") != self._lease:
            if holder is None:
                raise LeaseLostError(f"run folder {self.location} has lost its lease: deleted, moved or damaged")
            raise LeaseLostError(
                f"run folder {self.location} is now written by process {holder.get('pid')} on {holder.get('host')}"
            )

    def close(self) -> None:
        """Give the lease back, if it is still this object's: nothing more will be written."""
        with suppress(Exception):
            self.finish_checkpoint()
        with suppress(OSError):  # a lease that stays is taken for a killed writer's
            if self._lease is not None and (self.lease() or {}).get("writer") == self._lease:
                self.folder.remove(LEASE)
        self._lease = None

    def append(self, row: Row) -> Row:
        """Add a row to the journal with the time, in one write, so that a crash tears at most the last line."""
        self.check_lease()
        row = {"time": time.time(), **row}
        self.folder.append(JOURNAL, (hide_secrets(json.dumps(row)) + "\n").encode())
        return row

    def write_environment(self, environment: Mapping[str, Any]) -> str:
        """Keep what an attempt runs in; returns the name of its file, the first digits of its SHA-256."""
        content = hide_secrets(json.dumps(dict(environment), indent=1)).encode()
        name = hashlib.sha256(content).hexdigest()[:16]
        self.folder.write(f"{ENVIRONMENTS}/{name}.json", content)
        return name

    def start_checkpoint(self, parts: Callable[[], Sequence[bytes | memoryview]]) -> None:
        """Put a new checkpoint in the place of the last one, in the background; the one before must be finished.

        Args:
            parts: called there; gives its content, which must not change meanwhile.
        """
        assert self._checkpoint is None
        future: Future[None] = Future()

        def write() -> None:
            try:
                self.check_lease()
                future.set_result(self.folder.write(CHECKPOINT, *parts()))
            except BaseException as error:
                future.set_exception(error)

        self._checkpoint = future
        threading.Thread(target=write, name="checkpoint", daemon=True).start()

    def is_writing_checkpoint(self) -> bool:
        """Whether one is on its way; raises what kept the last one from its place."""
        if self._checkpoint is not None and self._checkpoint.done():
            self.finish_checkpoint()
        return self._checkpoint is not None

    def finish_checkpoint(self) -> None:
        """Wait until the checkpoint is in place.

        Raises:
            OSError: the storage refused it.
            LeaseLostError: another process has taken the run over.
        """
        future, self._checkpoint = self._checkpoint, None
        if future is not None:
            future.result()

    def remove_checkpoint(self) -> None:
        """Give its room back: the run has its result."""
        with suppress(OSError):
            self.finish_checkpoint()
        self.check_lease()
        self.folder.remove(CHECKPOINT)

    def write_weights(self, content: bytes) -> None:
        """Put the final weights in place."""
        self.check_lease()
        self.folder.write(WEIGHTS, content)

    def write_predictions(self, content: bytes) -> None:
        """Put what the final model said of the test images in place."""
        self.check_lease()
        self.folder.write(PREDICTIONS, content)

    def write_profile(self, name: str, content: bytes) -> None:
        """Put a profile's file in place; name: TRACE or MEMORY."""
        self.check_lease()
        self.folder.write(name, content)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Put the outcome in place."""
        self.check_lease()
        self.folder.write(RESULT, hide_secrets(json.dumps(dict(result), indent=1)).encode())

    # Reading.

    def read(self) -> Run | None:
        """All that is here, or None before a trial has begun.

        Raises:
            DamagedError: something here is not what the trial of the folder's name has written.
            OSError: it can't be read.
        """
        run = self._read()
        if run is not None and (own := trial_id_of(run.config)) != self.trial_id:
            raise self._damaged(CONFIG, f"it is that of {own}, of which this may be a copy")
        return run

    def read_intact(self) -> Run | None:
        """As `read`, whatever the folder's name; None too where anything is damaged, so that none of it counts."""
        with suppress(DamagedError):
            return self._read()
        return None

    def _read(self) -> Run | None:
        # The last written first: the journal is complete once there is a result, and has a config once it has lines.
        result, lines, config = self.result(), self.lines(), self.config()
        if config is None:
            if result is None and not lines:
                return None
            raise self._damaged(CONFIG, "it is missing")
        for name, own in ((RESULT, [result or {}]), (JOURNAL, lines)):
            if (step := max((each.get("step", 0) for each in own), default=0)) > config["total_steps"]:
                raise self._damaged(name, f"it has step {step} of {config['total_steps']}")
        return Run(self.trial_id, config, tuple(lines), result)

    def config(self) -> dict[str, Any] | None:
        """The trial's FinetuneConfig as a dict, or None before it was written."""
        return self._parsed(CONFIG, config_of)

    def lease(self) -> dict[str, Any] | None:
        """Who writes here (`host`, `pid`, `time`), or None if nobody does; left behind by a writer that was killed."""
        with suppress(DamagedError):  # says nothing of the trial
            return self._parsed(LEASE, lease_of)
        return None

    def has_writer(self) -> bool:
        """Whether a process seems to write here: on this machine one that lives, else one that has written of late."""
        lease = self.lease()
        if lease is None:
            return False
        if lease["host"] == socket.gethostname():
            try:
                os.kill(lease["pid"], 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                pass  # another user's, but alive
            return True
        run = self.read_intact()
        last: float = max([lease["time"], *(line["time"] for line in run.lines[-1:])] if run else [lease["time"]])
        return time.time() - last < 3600 * SILENT_HOURS

    def result(self) -> dict[str, Any] | None:
        """The outcome, or None while there is none."""
        return self._parsed(RESULT, result_of)

    def checkpoint(self) -> AbstractContextManager[Path | None]:
        """The latest checkpoint as a local file for as long as the context lasts, or None."""
        return self.folder.as_file(CHECKPOINT)

    def weights(self) -> AbstractContextManager[Path | None]:
        """The final weights as a local file for as long as the context lasts, or None."""
        return self.folder.as_file(WEIGHTS)

    def lines(self) -> list[Row]:
        """Every complete line of the journal in the order written: rows, and the beginnings of attempts."""
        return self._parsed(JOURNAL, lines_of) or []

    def attempts(self) -> list[Row]:
        """Each time that a process began or went on with the trial: `attempt`, `from_step`, `host`, …"""
        return [line for line in self.lines() if "attempt" in line]

    def rows(self) -> list[Row]:
        """Every complete row in the order written; a resumed run writes some steps again, see `journal()`."""
        return [line for line in self.lines() if "step" in line]

    def journal(self) -> list[Row]:
        """One row per step in order of steps; where a resumed run wrote a step again, its later row."""
        return one_per_step(self.lines())

    def _parsed(self, name: str, parse: Callable[[bytes], T]) -> T | None:
        try:
            content = self.folder.read(name) if self._names is None or name in self._names else None
            return None if content is None else parse(content)
        except NotADirectoryError:
            return None  # this is a file beside the run folders
        except IsADirectoryError as error:
            raise self._damaged(name, reason_of(error)) from error
        except ValueError as error:
            raise self._damaged(name, str(error)) from error

    def _damaged(self, name: str, reason: str) -> DamagedError:
        return DamagedError(f"runs/{self.trial_id}/{name} is damaged: {reason}")
