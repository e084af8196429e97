"""python -m vit_trainer sync: run folders to MLflow."""

import sys

from vit_trainer.command_line import TrackingUri
from vit_trainer.errors import InputError, StoreError, VitTrainerError, counted
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.store import outage_said, require_store


def sync(*, storage: str = "sweep-results", tracking_uri: TrackingUri = None, experiment: str | None = None) -> int:
    """Ship every run folder of a storage to MLflow, and nothing twice; a sweep may go on meanwhile.

    Exits with 1 if the server can't be reached or refuses; the same command then ships the rest.

    Parameters
    ----------
    storage
        What the sweep or train was given: a path, or a URI such as s3://bucket/folder.
    tracking_uri
        MLflow server or store; a SQLite file in the storage unless given.
    experiment
        MLflow experiment for all runs; each sweep's own unless given.
    """
    opened = Storage(storage)
    uri = tracking_uri or opened.tracking_uri
    if not opened.trial_ids():
        raise InputError(f"there are no run folders in {storage}: give the storage of a sweep or of train")
    try:
        require_store(uri)
    except StoreError as error:
        raise VitTrainerError(str(error)) from error
    from vit_trainer.tracking.sync import sync as ship_all

    with outage_said("the same command ships the rest"):
        synced = ship_all(opened, uri, experiment)
    for line in synced.left_out:
        print(f"left out: {line}", file=sys.stderr)
    counts = ", ".join(f"{count} {what}" for what, count in synced.num_runs.items())
    print(f"runs in MLflow at {uri}: {counts}; {counted(len(synced.left_out), 'folder')} left out")
    return 0
