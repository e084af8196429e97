"""SweepShipper: a sweep's trials on their way to MLflow, in the runs of their cells."""

import shlex
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sweeps.options import SweepOptions
from sweeps.table.cells import Cell, Trial
from sweeps.table.published import published_for
from vit_trainer.files.folder import Folder
from vit_trainer.files.outgoing import shown_command
from vit_trainer.tracking.background import BackgroundShipper
from vit_trainer.tracking.catalogue import Catalogue, Membership


class SweepShipper:
    """Ships in the background, and notes in the storage what `python -m vit_trainer sync` must know to do the same."""

    def __init__(self, name: str, options: SweepOptions) -> None:
        storage = options.opened_storage
        storage.mlflow_folder.mkdir(parents=True, exist_ok=True)
        self.tracking_uri = options.tracking_uri or storage.tracking_uri
        self._options = options
        self._catalogue = Catalogue(storage, name)
        tags = {"sweep": name, "command": shown_command()}
        self._background = BackgroundShipper(self.tracking_uri, name, storage.mlflow_artifacts, tags)

    def ship_all(self, trials: Iterable[Trial]) -> None:
        """Have trials shipped soon."""
        memberships = {trial: _membership(trial.cell, self._options.selection) for trial in trials}
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
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder) / "report"
            files.mkdir()
            for name in report.names():
                (files / name).write_bytes(report.read(name) or b"")
            self._background.close(files=files if any(files.iterdir()) else None)
        if self._background.failure:
            uri = self.tracking_uri
            given = f" --tracking-uri {shlex.quote(uri)}" if self._options.tracking_uri else ""
            command = f"python -m vit_trainer sync --storage {shlex.quote(self._options.storage)}{given}"
            print(
                f"MLflow at {uri} did not get everything: {self._background.failure}. To ship the rest: {command}",
                file=sys.stderr,
            )


def _membership(cell: Cell, selection: str) -> Membership:
    published = published_for(cell)
    tags = {"cell": cell.name, "model": cell.model, "dataset": cell.dataset, "early_stopping": selection}
    if published is None:
        return Membership(cell.name, tags)
    return Membership(cell.name, tags, published.accuracy, published.base_lr)
