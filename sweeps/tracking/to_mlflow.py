"""SweepShipper: a sweep's trials on their way to MLflow, in the runs of their cells."""

import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from sweeps.options import SweepOptions
from sweeps.table.cells import Cell, Trial, short_name
from sweeps.table.published import published_for
from vit_trainer.files.folder import Folder
from vit_trainer.files.outgoing import shown_command
from vit_trainer.tracking.background import BackgroundShipper
from vit_trainer.tracking.catalogue import Catalogue, Membership, report_rows
from vit_trainer.tracking.cell_runs import CONSTANTS
from vit_trainer.tracking.views import link


class SweepShipper:
    """Ships in the background, and notes in the storage what `python -m vit_trainer sync` must know to do the same."""

    def __init__(self, name: str, options: SweepOptions) -> None:
        storage = options.opened_storage
        storage.mlflow_folder.mkdir(parents=True, exist_ok=True)
        self.tracking_uri = options.tracking_uri or storage.tracking_uri
        self._options = options
        self._catalogue = Catalogue(storage, name)
        self._experiment_id: str | None = None
        self.tell: Callable[[str], None] = lambda line: None
        """Is told how to compare the runs, once, as soon as MLflow has the experiment; in another thread."""
        tags = {"sweep": name, "command": shown_command()}
        arguments = (self.tracking_uri, name, storage.mlflow_artifacts, tags, self._connected)
        self._background = BackgroundShipper(*arguments)

    def _connected(self, experiment_id: str) -> None:
        self._experiment_id = experiment_id
        self.tell(self.how_to_compare)

    @property
    def how_to_compare(self) -> str:
        """What to open in a browser, and what to start before where there is no server; a line each."""
        page = "" if self._experiment_id is None else link(self._experiment_id, "cells")
        uri = self.tracking_uri
        if uri.startswith("http"):
            return f"To compare the runs: {re.sub('//[^/]*@', '//', uri).rstrip('/')}/{page}"
        words = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri", uri]
        then = f"\nand then open http://127.0.0.1:5000/{page}" if page else ""
        return f"To compare the runs: {shlex.join(words)}{then}"

    def ship_all(self, trials: Iterable[Trial]) -> None:
        """Have trials shipped soon."""
        memberships = {trial: membership_of(trial.cell, self._options.selection) for trial in trials}
        self._catalogue.add({trial.trial_id: membership for trial, membership in memberships.items()})
        for trial, membership in memberships.items():
            self._background.ship(self._options.run_dir(trial), membership)

    def ship(self, trial: Trial) -> None:
        """Have a trial shipped soon."""
        self.ship_all([trial])

    def close(self, report: Folder) -> None:
        """Wait until everything is shipped, or say how to ship the rest.

        Args:
            report: its files, if there are any, belong to the whole sweep.
        """
        rows = report_rows(report)
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder) / "report"
            files.mkdir()
            for name in report.names():
                (files / name).write_bytes(report.read(name) or b"")
            self._background.close(files=files if any(files.iterdir()) else None, report=rows)
        if self._background.failure:
            uri = self.tracking_uri
            given = f" --tracking-uri {shlex.quote(uri)}" if self._options.tracking_uri else ""
            command = f"python -m vit_trainer sync --storage {shlex.quote(self._options.storage)}{given}"
            print(
                f"MLflow at {uri} did not get everything: {self._background.failure}. To ship the rest: {command}",
                file=sys.stderr,
            )


def membership_of(cell: Cell, selection: str) -> Membership:
    """What MLflow is to say of a cell's trials; selection: how its candidates are selected."""
    figure = published_for(cell)
    accuracy, base_lr = (figure.accuracy, figure.base_lr) if figure else (None, None)
    tags = {"cell": cell.name, "model": cell.model, "dataset": cell.dataset, "early_stopping": selection}
    values = {**vars(cell.as_recorded), **vars(cell.schedule)}
    params = {name: str(values[name]) for name in CONSTANTS if values[name] is not None}
    return Membership(cell.name, tags, accuracy, base_lr, short_name(cell), params)
