"""sync(): ships every run folder of a storage to MLflow; what is there already is left as it is."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vit_trainer.errors import InputError, StoreError
from vit_trainer.files.progress_bar import tracked
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import NO_RUN, Storage
from vit_trainer.tracking.catalogue import Membership, catalogues, report_rows
from vit_trainer.tracking.trial_runs import Change, Shipper

DEFAULT_EXPERIMENT = "vit_trainer"
"""MLflow experiment of trials that belong to no sweep."""


@dataclass
class Synced:
    """What a call of sync() did."""

    num_runs: dict[Change, int] = field(default_factory=lambda: {"created": 0, "updated": 0, "unchanged": 0})
    """Runs by what was done to them; a trial that is part of several sweeps has a run in the experiment of each."""
    left_out: list[str] = field(default_factory=list)
    """A line per folder that is damaged or none of ours: which, and why."""


def sync(storage: Storage, tracking_uri: str, experiment: str | None = None) -> Synced:
    """Bring MLflow up to date with a storage.

    Args:
        experiment: for all runs; None: that of each trial's sweep, else DEFAULT_EXPERIMENT.

    Raises:
        Exception: whatever MLflow raises where the store can't be reached or refuses.
    """
    places = _places(storage, experiment)
    shippers: dict[str, Shipper] = {}
    synced = Synced()
    runs, left_out = storage.read_runs()
    synced.left_out += left_out.values()
    began = {trial_id: run.lines[0]["time"] if run.lines else math.inf for trial_id, run in runs.items()}
    in_order = [*sorted(runs, key=began.__getitem__), *(each for each in left_out if each in places)]
    for trial_id in tracked(in_order, "runs to MLflow"):
        try:
            for where, membership in places.get(trial_id) or [(experiment or DEFAULT_EXPERIMENT, Membership())]:
                if where not in shippers:
                    shippers[where] = _shipper(storage, tracking_uri, where, membership)
                if trial_id in runs:
                    synced.num_runs[shippers[where].ship(storage.run_dir(trial_id), membership)] += 1
                else:
                    shippers[where].discount(trial_id, membership, left_out[trial_id])
        except StoreError:
            raise
        except InputError as error:
            synced.left_out.append(str(error))
    for where, shipper in shippers.items():
        shipper.summarise_cells(report=report_rows(storage.report(where)))
    return synced


def sync_files(storage: Storage, tracking_uri: str, run_dir: RunDir, files: Iterable[Path], folder: str) -> None:
    """Bring MLflow up to date with one trial and put files on its run; of several sweeps, on its run in each.

    Args:
        files: put in the run's artifacts under their own names.
        folder: within the artifacts.

    Raises:
        InputError: the run folder is damaged or none of ours.
        Exception: whatever MLflow raises where the store can't be reached or refuses.
    """
    if run_dir.read() is None:
        raise InputError(f"runs/{run_dir.trial_id}: {NO_RUN}")
    files = list(files)
    for where, membership in _places(storage, None).get(run_dir.trial_id) or [(DEFAULT_EXPERIMENT, Membership())]:
        shipper = _shipper(storage, tracking_uri, where, membership)
        shipper.ship(run_dir, membership)
        shipper.summarise_cells()
        shipper.ship_trial_files(run_dir.trial_id, files, folder)


def tag_sweeps(storage: Storage, tracking_uri: str, sweeps: Iterable[str], tags: Mapping[str, str]) -> None:
    """Put tags on the sweeps' own runs; raises whatever MLflow raises where the store can't be reached or refuses."""
    for name in sweeps:
        Shipper(tracking_uri, name, storage.mlflow_artifacts, {"sweep": name}).tag_sweep(tags)


def _shipper(storage: Storage, tracking_uri: str, experiment: str, membership: Membership) -> Shipper:
    tags = {"sweep": experiment} if membership.group else {}
    return Shipper(tracking_uri, experiment, storage.mlflow_artifacts, tags)


def _places(storage: Storage, experiment: str | None) -> dict[str, list[tuple[str, Membership]]]:
    """The experiments in which each trial has a run, and what is said of it there."""
    places: dict[str, list[tuple[str, Membership]]] = {}
    for name, catalogue in catalogues(storage).items():
        for trial_id, membership in catalogue.entries.items():
            known = places.setdefault(trial_id, [])
            if experiment is None or not known:
                known.append((experiment or name, membership))
    return places
