"""Catalogue: what MLflow is to say of a sweep's trials that their run folders don't know. Standard library only.

It lies in the storage, `sweeps/<experiment>/tracking.json`, so that whoever ships the folders later says the same.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vit_trainer.files.folder import Folder
from vit_trainer.files.schema import instance_of, json_of
from vit_trainer.files.storage import TABLE, TRACKING, Storage


@dataclass(frozen=True)
class Membership:
    """One trial's place in a sweep."""

    group: str | None = None
    """Name of the run that holds it in MLflow: its cell. None: it stands alone."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags that are put on its run."""
    published_accuracy: float | None = None
    """Test accuracy that others have published for its cell, a fraction in [0, 1]; None: nobody has."""
    published_base_lr: float | None = None
    """The learning rate behind that, whose runs alone are compared with it; None: the best of several."""
    name: str | None = None
    """What the cell's run is called in MLflow; None: as `group`."""
    params: Mapping[str, str] = field(default_factory=dict)
    """What all trials of the cell share, by the names that config.json and the report's table.json have for it."""


class Catalogue:
    """A sweep's memberships by trial id, as they lie in the storage."""

    def __init__(self, storage: Storage, experiment: str) -> None:
        """Reads what earlier sessions wrote; a damaged file counts as none, since the sweep writes it anew."""
        self._folder = storage.sweep(experiment)
        self.entries: dict[str, Membership] = {}
        self.is_damaged = False
        try:
            content = json_of(self._folder.read(TRACKING) or b"{}")
            self.entries = {trial_id: instance_of(Membership, values) for trial_id, values in content.items()}
        except NotADirectoryError:
            pass  # a file beside the sweeps' folders
        except (ValueError, AttributeError, IsADirectoryError):
            self.is_damaged = True

    def add(self, entries: Mapping[str, Membership]) -> None:
        """Write down what is new; raises OSError for what the storage refuses."""
        if all(self.entries.get(trial_id) == entry for trial_id, entry in entries.items()):
            return
        self.entries |= entries
        content = {trial_id: asdict(entry) for trial_id, entry in self.entries.items()}
        self._folder.write(TRACKING, json.dumps(content, indent=1).encode())


def catalogues(storage: Storage) -> dict[str, Catalogue]:
    """The catalogues of all sweeps of a storage, by experiment; those that hold nothing are left out."""
    found = {name: Catalogue(storage, name) for name in storage.sweep_names()}
    return {name: catalogue for name, catalogue in found.items() if catalogue.entries or catalogue.is_damaged}


def report_rows(report: Folder) -> list[dict[str, Any]]:
    """The rows of a report's table.json, a cell each; none where there is no such file, or a damaged one."""
    try:
        return [dict(row) for row in json_of(report.read(TABLE) or b"[]")]
    except (OSError, ValueError, TypeError):
        return []
