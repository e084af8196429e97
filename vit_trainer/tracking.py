"""Ships run folders to MLflow. The journal is the truth and MLflow a view of it, which may lag or be rebuilt.

Nothing here runs in a training process: shipping reads what the folders hold, as often as one likes. MLflow ignores a
metric that it already has (same key, step, time and value), so sending again is harmless.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_trainer.folders import is_uri
from vit_trainer.run_dir import Row, RunDir

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI open on the table of runs, where it would show pages for language models."""
METRICS_PER_BATCH = 1000
"""MLflow's limit for one log_batch call."""


def default_place(storage: str) -> Path:
    """Where MLflow's files are unless asked for otherwise: beside the run folders, or here if those are in a bucket."""
    return Path("mlflow" if is_uri(storage) else storage).expanduser().resolve()


def default_tracking_uri(place: Path) -> str:
    """A local SQLite file."""
    return f"sqlite:///{place}/mlflow.db"


class Shipper:
    """Sends run folders to one MLflow experiment."""

    def __init__(self, tracking_uri: str, experiment: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        """Connects, and creates the store and the experiment if need be.

        Args:
            artifacts: folder for a new experiment's artifacts, where the store itself is a local file.
            tags: put on every run.
        """
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # creating a store is no news
        self._client: MlflowClient = MlflowClient(tracking_uri)
        self._tags = dict(tags)
        found = self._client.get_experiment_by_name(experiment)
        location = artifacts.resolve().as_uri() if tracking_uri.startswith("sqlite:") else None
        self._experiment_id: str = (
            found.experiment_id
            if found
            else self._client.create_experiment(experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
        )
        self._run_ids: dict[str, str] = {}
        self._num_shipped: dict[str, int] = {}

    def ship(self, run_dir: RunDir, tags: Mapping[str, str]) -> None:
        """Bring MLflow up to date with a run folder: one run per trial id, for ever.

        Args:
            tags: put on this run, beside the trial id and those of the shipper.
        """
        config, rows, result = run_dir.config(), run_dir.rows(), run_dir.result()
        if config is None:
            return
        run_id = self._run_ids.get(run_dir.trial_id) or self._find_or_create(run_dir.trial_id, config, rows, tags)
        self._run_ids[run_dir.trial_id] = run_id
        first = self._num_shipped.get(run_dir.trial_id, 0)
        self._log(run_id, [(row, row["step"], int(row["time"] * 1000)) for row in rows[first:]])
        self._num_shipped[run_dir.trial_id] = len(rows)
        if result is None:
            if self._client.get_run(run_id).info.status != "RUNNING":
                self._client.update_run(run_id, status="RUNNING")  # it failed or was stopped, and now goes on
            return
        ended = int(rows[-1]["time"] * 1000) if rows else int(time.time() * 1000)
        self._log(run_id, [(result, result["step"], ended)])
        if cause := result.get("cause"):
            self._client.set_tag(run_id, "cause", cause)
        self._client.set_terminated(run_id, MLFLOW_STATUS[result["status"]], ended)

    def _find_or_create(
        self, trial_id: str, config: Mapping[str, Any], rows: list[Row], tags: Mapping[str, str]
    ) -> str:
        found = self._client.search_runs([self._experiment_id], f"tags.trial_id = '{trial_id}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        from mlflow.entities import Param

        started = int(rows[0]["time"] * 1000) if rows else None
        all_tags = {**self._tags, **tags, "trial_id": trial_id}
        run = self._client.create_run(self._experiment_id, start_time=started, tags=all_tags, run_name=trial_id)
        self._client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in config.items()])
        return str(run.info.run_id)

    def _log(self, run_id: str, rows: list[tuple[Mapping[str, Any], int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, timestamp, step)
            for row, step, timestamp in rows
            for key, value in row.items()
            if isinstance(value, int | float) and key not in ("time", "step")
        ]
        for first in range(0, len(metrics), METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=metrics[first : first + METRICS_PER_BATCH])


class BackgroundShipper:
    """A thread that ships run folders while a sweep goes on; an outage of MLflow delays the view and nothing else."""

    def __init__(self, tracking_uri: str, experiment: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        self._arguments = (tracking_uri, experiment, artifacts, dict(tags))
        self._queue: queue.Queue[tuple[RunDir, dict[str, str]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow-shipper", daemon=True)
        self._thread.start()
        self.failure: str | None = None
        """The last outage in one line; None if everything was shipped."""

    def ship(self, run_dir: RunDir, tags: Mapping[str, str]) -> None:
        """Have a run folder shipped soon; returns at once."""
        self._queue.put((run_dir, dict(tags)))

    def close(self, timeout_seconds: float = 60.0) -> None:
        """Wait until everything is shipped, or the time is up."""
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self.failure = self.failure or f"not done after {timeout_seconds:.0f} s"

    def _work(self) -> None:
        shipper: Shipper | None = None
        waiting: dict[str, tuple[RunDir, dict[str, str]]] = {}
        closing = False
        while not closing or waiting:
            while not waiting or not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    closing = True
                    break
                waiting[item[0].trial_id] = item
            for trial_id, (run_dir, tags) in list(waiting.items()):
                try:
                    shipper = shipper or Shipper(*self._arguments)
                    shipper.ship(run_dir, tags)
                    self.failure = None
                except Exception as error:
                    self.failure = f"{type(error).__name__}: {error}".splitlines()[0]
                    log.warning("MLflow: %s", self.failure)
                    if closing:
                        return
                    break
                del waiting[trial_id]
