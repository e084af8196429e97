"""Storage: the only owner of where things lie in what --storage names. Standard library only until a URI is opened.

runs/<trial id>/          a trial, see `RunDir`: the truth that all else is a view of
sweeps/<sweep>/           commands.jsonl, decisions.jsonl, slots.jsonl, tracking.json, the sweep's own report/, and
                          awaited.txt about nodes that don't come, empty when they have
report/                   about all that the storage holds
datasets/<id>.json.gz     what was in folders of classes that trials were trained on
probes.json               measured rates, for plans
ray/                      Ray Tune's own records, which nothing here reads; not where a URI holds keys
tensorboard/<trial id>/   event files, where asked for
optuna.log                the studies of --search optuna, unless they have a file or database of their own; what was
                          damaged of it is kept as optuna.log.damaged-1
mlflow.db, mlflow-artifacts/   MLflow's, unless it has a server; of a bucket, in ./mlflow of the local machine
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from vit_trainer.errors import DamagedError, InputError, reason_of
from vit_trainer.files.folder import Folder, LocalFolder, open_folder
from vit_trainer.files.outgoing import printable
from vit_trainer.files.run_dir import Run, RunDir
from vit_trainer.files.schema import json_of

T = TypeVar("T")

COMMANDS, DECISIONS, PARITY, SLOTS = "commands.jsonl", "decisions.jsonl", "parity.jsonl", "slots.jsonl"
TRACKING, AWAITED = "tracking.json", "awaited.txt"
"""Files of a sweep's folder."""
TABLE = "table.json"
"""A report's table, a row per cell."""
PROBES = "probes.json"
PACKED, DATA_HASHES = "evidence.jsonl", "data-hashes.json"
"""Which bundles of evidence were made of a storage; hashes of data sets, which take long."""
NO_RUN = "no config.json: not a run folder, or its process was killed at once"
NUM_READERS = 8
"""How many run folders are read at a time."""


class Storage:
    """A folder or bucket that sweeps and single trials share."""

    def __init__(self, location: str | Path) -> None:
        """location: path or URI.

        Raises:
            InputError: a URI of a kind that nothing here opens, or a path where no folder can be.
        """
        self.folder: Folder = open_folder(location)

    @classmethod
    def existing(cls, location: str) -> "Storage":
        """A storage that is only read.

        Raises:
            InputError: there is no such folder, or nothing here opens such a URI.
        """
        storage = cls(location)
        if storage.is_local and not Path(storage.location).is_dir():
            raise InputError(f"storage {location} is no folder: give the --storage of a sweep")
        return storage

    @property
    def location(self) -> str:
        """Absolute path, or URI."""
        return self.folder.location

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine, or of a file system that it has mounted."""
        return isinstance(self.folder, LocalFolder)

    # Trials.

    @property
    def runs(self) -> Folder:
        """The run folders, by trial id."""
        return self.folder.child("runs")

    def trial_ids(self) -> list[str]:
        """Ids of the trials that have a run folder, sorted."""
        return self.runs.names()

    def run_dir(self, trial_id: str) -> RunDir:
        """A trial's run folder; it need not exist."""
        return RunDir(self.runs.child(trial_id))

    def run_dirs(self) -> list[RunDir]:
        """All run folders, in the order of their trials' ids."""
        return [self.run_dir(trial_id) for trial_id in self.trial_ids()]

    def read_runs(
        self, trial_ids: Iterable[str] | None = None, *, to_run: bool = False
    ) -> tuple[dict[str, Run], dict[str, str]]:
        """What run folders hold, and in a line each which are left out and why; by trial id. The one reader of all.

        Args:
            trial_ids: None: all that have a folder.
            to_run: the trials are to be run unless they are done; they needn't have begun.

        Raises:
            InputError: of trials that are to be run, one can't be read, so that nobody knows.
        """
        ids = self.trial_ids() if trial_ids is None else list(trial_ids)
        found = dict(zip(ids, in_parallel(lambda trial_id: self._run(trial_id, to_run), ids), strict=True))
        left_out = {key: printable(each, keep="") for key, each in found.items() if isinstance(each, str) and each}
        return {trial_id: each for trial_id, each in found.items() if isinstance(each, Run)}, left_out

    def _run(self, trial_id: str, to_run: bool) -> Run | str:
        """The run of a trial, or why it is left out, if that is worth a word."""
        try:
            return self.run_dir(trial_id).read() or ("" if to_run else f"runs/{trial_id}: {NO_RUN}")
        except DamagedError as error:
            return str(error)
        except OSError as error:
            reason = f"runs/{trial_id} cannot be read ({reason_of(error)})"
            if to_run:
                raise InputError(f"{reason}: make it readable, or move it away to run that trial anew") from error
            return reason

    @property
    def listings(self) -> Folder:
        """What was in folders of classes that trials were trained on."""
        return self.folder.child("datasets")

    # Sweeps.

    def sweep_names(self) -> list[str]:
        """Names of the sweeps that have a folder, sorted."""
        return self.folder.child("sweeps").names()

    def sweep(self, name: str) -> Folder:
        """A sweep's folder, with its COMMANDS, DECISIONS, PARITY, SLOTS, TRACKING and AWAITED; it need not exist."""
        return self.folder.child("sweeps").child(name)

    def sweep_lines(self, sweep: str, name: str, parse: Callable[[Any], T]) -> tuple[list[T], int]:
        """What a file of a sweep's folder holds, a JSON value a line, and the number of lines that can't be read.

        Args:
            parse: raises ValueError for what should not be there.
        """
        try:
            content = self.sweep(sweep).read(name) or b""
        except NotADirectoryError:
            return [], 0  # a file beside the sweeps' folders
        except IsADirectoryError:
            return [], 1
        return lines_as(content, parse)

    def report(self, sweep: str | None = None) -> Folder:
        """Where the report of a sweep lies; None: that of the whole storage."""
        return (self.folder if sweep is None else self.sweep(sweep)).child("report")

    # Other programs.

    @property
    def ray(self) -> Folder:
        """Where Tune keeps its own records."""
        return self.folder.child("ray")

    @property
    def event_files(self) -> Path:
        """Where TensorBoard's files lie, a folder per cell and trial; of a local storage only."""
        return Path(self.location) / "tensorboard"

    @property
    def optuna_log(self) -> str:
        """Path of Optuna's file; of a local storage only."""
        return f"{self.location}/optuna.log"

    @property
    def mlflow_folder(self) -> Path:
        """Where MLflow's own files lie: beside the run folders, or here if those are in a bucket."""
        return Path(self.location) if self.is_local else Path("mlflow").resolve()

    @property
    def mlflow_database(self) -> Path:
        """MLflow's SQLite file, where no server is named."""
        return self.mlflow_folder / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Where MLflow puts files, where no server is named."""
        return self.mlflow_folder / "mlflow-artifacts"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address of `mlflow_database`; raises InputError where MLflow would look for it elsewhere."""
        if set("%?") & set(str(self.mlflow_database)):
            raise InputError(
                f"{self.mlflow_database} has a % or ? in its path, which MLflow misreads: give another --storage, or "
                "MLflow a server by --tracking-uri"
            )
        return f"sqlite:///{self.mlflow_database}"


def lines_as(content: bytes, parse: Callable[[Any], T]) -> tuple[list[T], int]:
    """What a file holds, a JSON value a line, and the number of lines that can't be read; parse as in `sweep_lines`."""
    found, num_damaged = [], 0
    for line in filter(bytes.strip, content.split(b"\n")):
        try:
            found.append(parse(json_of(line)))
        except ValueError:
            num_damaged += 1
    return found, num_damaged


def in_parallel(call: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """What a call comes to for each name, most of which is waiting for a storage."""
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return list(pool.map(call, names))
