"""Ships run folders to MLflow. The journal is the truth and MLflow a view of it, which may lag or be rebuilt.

Shipping reads what the folders hold, as often as one likes. What has been shipped is marked on the run itself, and
MLflow ignores a metric that it already has (same key, step, time and value), so sending again is harmless.

In an experiment there is one run per trial, found by its tag `trial_id`; with a sweep, its parent is the run of its
cell (tag `cell_run`), which shows the cell's best trial; and one run of the sweep itself (tag `sweep_run`) with what
belongs to the whole. Accuracies and `accuracy_difference` (achieved minus published) are fractions: 0.01 is one point.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vit_trainer.errors import InputError, cause_of
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.tracking.catalogue import Entry
from vit_trainer.tracking.store import be_impatient, hide_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

MLFLOW_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}
"""By outcome, which is on the run as a tag: MLflow has one word for stopped and interrupted."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI open on the table of runs, where it would show pages for language models."""
PARENT = "mlflow.parentRunId"
"""MLflow's tag that shows a run within another."""
METRICS_PER_BATCH = 1000
"""MLflow's limit for one log_batch call."""
SECONDS_BETWEEN_ATTEMPTS = 5.0
"""After an outage."""
SILENT_HOURS = 1.0
"""A writer on another machine that has written nothing for so long is taken for dead."""

Change = Literal["created", "updated", "unchanged"]
"""What shipping a folder did to MLflow."""


@dataclass
class _Shipped:
    """What MLflow has of a trial."""

    run_id: str
    mark: tuple[int, float]
    """How many rows, and the time of the last, by which a journal that was begun anew is recognised."""
    outcome: str | None
    group: str | None


def is_running(run_dir: RunDir) -> bool:
    """Whether a process seems to write to a run folder: of this machine one that lives, else one that has of late."""
    lease = run_dir.lease()
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
    last: float = max([lease["time"], *(line["time"] for line in run_dir.lines()[-1:])])
    return time.time() - last < 3600 * SILENT_HOURS


class Shipper:
    """Sends run folders to one MLflow experiment."""

    def __init__(self, tracking_uri: str, experiment: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        """Connects, and creates the store and the experiment if need be.

        Args:
            artifacts: folder for a new experiment's artifacts, where the store itself is a local file.
            tags: put on every run.

        Raises:
            InputError: the experiment was deleted in MLflow.
            Exception: whatever MLflow raises where the store can't be reached or refuses.
        """
        be_impatient()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # creating a store is no news
        self._client: MlflowClient = MlflowClient(tracking_uri)
        self._tags = dict(tags)
        location = artifacts.resolve().as_uri() if tracking_uri.startswith("sqlite:") else None
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            with suppress(MlflowException):  # another process was faster; or the store refuses, which shows next
                self._client.create_experiment(experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
            found = self._client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage != "active":
            raise InputError(
                f"MLflow has no experiment {experiment!r}, or has deleted it: restore it with `mlflow experiments "
                "restore`, or delete it for good with `mlflow gc`"
            )
        self._experiment_id: str = found.experiment_id
        self._shipped: dict[str, _Shipped] = {}
        self._groups: dict[str, str] = {}
        self._changed_groups: set[str] = set()

    def ship(self, run_dir: RunDir, entry: Entry, *, driver_ended: bool = False) -> Change:
        """Bring MLflow up to date with a run folder: one run per trial id, for ever.

        Args:
            entry: what to say beside what the folder holds.
            driver_ended: nobody goes on with a trial that has no result, even if a lease was left behind.

        Raises:
            InputError: the folder is damaged or none of ours; MLflow is as before.
            Exception: whatever MLflow raises in an outage.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._ship(run_dir, entry, driver_ended)
        except MlflowException:
            shipped = self._shipped.pop(run_dir.trial_id, None)  # the next attempt looks at what MLflow has
            if shipped is None or not self._is_deleted(shipped.run_id):
                raise
            return self._ship(run_dir, entry, driver_ended)  # another shipper saw two runs of it and kept the other

    def summarise_cells(self, *, driver_ended: bool = False) -> None:
        """Bring the runs of the cells up to date with their trials, those in MLflow from other sessions included.

        A cell has the metrics of its best trial (by val/accuracy, among the finished); runtime_hours and gpu_hours
        are what all of its trials took together.

        Args:
            driver_ended: cells with unfinished trials are shown as interrupted.
        """
        for name in sorted(self._groups if driver_ended else self._changed_groups):
            if self._is_deleted(self._groups[name]):
                self._adopt(name)
            if name in self._groups:
                self._summarise(self._groups[name], driver_ended)
            self._changed_groups.discard(name)

    def ship_files(self, folder: Path) -> None:
        """Put a folder's files on the sweep's own run, under the folder's name; those of an earlier call are replaced.

        Raises:
            InputError: there is no such folder.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder of files to ship: give one that exists")
        run_id = self.sweep_run()
        self._client.log_artifacts(run_id, str(folder), folder.name)
        self._client.set_terminated(run_id, "FINISHED")

    def ship_trial_files(self, trial_id: str, files: Iterable[Path], folder: str) -> None:
        """Put files on the run of a trial that was shipped, in a folder; those of the same names are replaced."""
        run_id = self.run_of(trial_id)
        assert run_id is not None
        for file in files:
            self._client.log_artifact(run_id, str(file), folder)

    def sweep_run(self) -> str:
        """Id of the run for what belongs to the whole sweep."""
        sweep = self._tags.get("sweep", "sweep")
        run, _ = self._find_or_create("sweep_run", sweep, self._tags, None, f"{sweep} (sweep)")
        return str(run.info.run_id)

    def run_of(self, trial_id: str) -> str | None:
        """Id of a trial's run, or None if there is none."""
        return next((str(run.info.run_id) for run in self._search("trial_id", trial_id)), None)

    def _ship(self, run_dir: RunDir, entry: Entry, driver_ended: bool) -> Change:
        # The result is read before the journal, which is complete once there is one.
        config, result, trial_id = run_dir.config(), run_dir.result(), run_dir.trial_id
        if config is None:
            return "unchanged"
        lines = run_dir.lines()
        rows = [line for line in lines if "step" in line]
        points = [_points(row, run_dir) for row in rows]
        ended = _milliseconds(lines[-1]["time"]) if lines else None
        outcome = "interrupted"
        if result is not None:
            outcome = result.get("status", "")
            if outcome not in ("finished", "stopped", "failed"):
                raise InputError(f"{run_dir.location}/result.json has the unknown status {outcome!r}: move it away")
        elif not driver_ended and is_running(run_dir):
            outcome = "running"

        change: Change = "unchanged"
        shipped = self._shipped.get(trial_id)
        if shipped is None or shipped.group != entry.group:
            started = _milliseconds(lines[0]["time"]) if lines else None
            shipped, created = self._meet(trial_id, config, entry, started)
            change = "created" if created else "unchanged"
        mark = (len(rows), float(rows[-1]["time"]) if rows else 0.0)
        if shipped.mark == mark and shipped.outcome == outcome:
            self._shipped[trial_id] = shipped
            return change
        first = shipped.mark[0]
        if first > len(rows) or (first and rows[first - 1]["time"] != shipped.mark[1]):
            first = 0
        metrics = [point for row_points in points[first:] for point in row_points]
        if result is not None:
            # MLflow shows the latest point of a step: the result's, such as the speed of the whole run.
            now = (ended or 0) + 1
            metrics += _metrics(result | _difference(result, entry), result["step"], now)
        tags = {"outcome": outcome, "shipped": json.dumps(mark)}
        cause = (result or {}).get("cause", "")
        if cause or shipped.outcome in ("stopped", "failed"):
            tags["cause"] = cause
        self._log(shipped.run_id, metrics, tags)
        self._set_status(shipped.run_id, MLFLOW_STATUS[outcome], ended)
        self._shipped[trial_id] = _Shipped(shipped.run_id, mark, outcome, entry.group)
        if entry.group is not None:
            self._changed_groups.add(entry.group)
        return change if change == "created" else "updated"

    def _meet(
        self, trial_id: str, config: Mapping[str, Any], entry: Entry, started: int | None
    ) -> tuple[_Shipped, bool]:
        """The run of a trial, whoever began it, with all that doesn't change; whether it is new."""
        from mlflow.entities import Param

        tags = {**self._tags, **entry.tags}
        if entry.group is not None:
            tags[PARENT] = self._group_run(entry.group, entry)
        run, created = self._find_or_create("trial_id", trial_id, tags, started, trial_id)
        run_id, data = str(run.info.run_id), run.data
        self._shipped[trial_id] = _Shipped(run_id, (0, 0.0), None, entry.group)
        missing = [Param(key, str(value)) for key, value in config.items() if key not in data.params]
        differing = {key: value for key, value in tags.items() if data.tags.get(key) != value}
        if missing or differing:
            _insist(lambda: self._log(run_id, [], differing, missing))
        if not (run.inputs and run.inputs.dataset_inputs) and "dataset" in config:
            dataset_input = _dataset_input(str(config["dataset"]))
            _insist(lambda: self._client.log_inputs(run_id, [dataset_input]))
        mark = (0, 0.0)
        with suppress(ValueError, TypeError, KeyError):
            count, last = json.loads(data.tags["shipped"])
            mark = (int(count), float(last))
        status = MLFLOW_STATUS.get(data.tags.get("outcome", ""))
        # Whoever shipped last may have died between the tag and the status.
        outcome = data.tags["outcome"] if status == run.info.status else None
        return _Shipped(run_id, mark, outcome, entry.group), created

    def _group_run(self, name: str, entry: Entry) -> str:
        if name not in self._groups:
            run, _ = self._find_or_create("cell_run", name, {**self._tags, **entry.tags}, None, name)
            if entry.published_accuracy is not None and "published/accuracy" not in run.data.metrics:
                self._client.log_metric(run.info.run_id, "published/accuracy", entry.published_accuracy)
            self._groups[name] = str(run.info.run_id)
            self._changed_groups.add(name)
        return self._groups[name]

    def _adopt(self, name: str) -> None:
        """Move the trials of a cell's deleted run to the one that is there instead, if any."""
        deleted = self._groups.pop(name)
        for run in self._search("cell_run", name):
            self._groups[name] = str(run.info.run_id)
            for trial in self._search(PARENT, deleted):
                self._client.set_tag(trial.info.run_id, PARENT, self._groups[name])

    def _summarise(self, run_id: str, driver_ended: bool) -> None:
        run = self._client.get_run(run_id)
        trials = self._search(PARENT, run_id)
        finished = [trial for trial in trials if trial.data.tags.get("outcome") == "finished"]
        outcomes = {trial.data.tags.get("outcome") for trial in trials}
        ended = max((trial.info.end_time or 0 for trial in trials), default=0)
        if finished:
            best = max(finished, key=lambda trial: (trial.data.metrics.get("val/accuracy", 0), trial.info.run_id))
            values = dict(best.data.metrics)
            for name in ("runtime_hours", "gpu_hours"):
                values[name] = sum(trial.data.metrics.get(name, 0.0) for trial in trials)
            values["num_trials"] = float(len(trials))
            changed = {name: value for name, value in values.items() if run.data.metrics.get(name) != value}
            # Time decides between points of a step: it must grow whenever another trial becomes the best.
            self._log(run_id, _metrics(changed, best.data.params.get("total_steps", 0), ended + len(trials)), {})
            if run.data.tags.get("best_trial") != best.data.tags["trial_id"]:
                self._client.set_tag(run_id, "best_trial", best.data.tags["trial_id"])
        if "running" in outcomes or not (driver_ended or outcomes <= {"finished", "stopped", "failed"}):
            status = "RUNNING"
        elif "interrupted" in outcomes:
            status = "KILLED"
        else:
            status = "FINISHED" if finished else "FAILED"
        if status != run.info.status:
            self._set_status(run_id, status, ended or None)

    def _set_status(self, run_id: str, status: str, ended: int | None) -> None:
        if status == "RUNNING":
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, ended)

    def _find_or_create(
        self, key: str, value: str, tags: Mapping[str, str], started: int | None, name: str
    ) -> tuple[Run, bool]:
        """The run with a tag, and whether it is new.

        Where two processes create one at once, at least one of them sees both, and deletes the one that sorts later;
        who had that one finds out when writing to it, and begins again with the other.
        """
        from mlflow.exceptions import MlflowException

        runs = self._search(key, value)
        created = not runs
        if created:
            self._client.create_run(self._experiment_id, start_time=started, tags={**tags, key: value}, run_name=name)
            runs = self._search(key, value)
        first, *others = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        for run in others:
            with suppress(MlflowException):  # the other process was faster with this too
                self._client.delete_run(run.info.run_id)
        return first, created

    def _search(self, key: str, value: str) -> list[Run]:
        quote = '"' if "'" in value else "'"
        runs = self._client.search_runs(
            [self._experiment_id], f"tags.`{key}` = {quote}{value}{quote}", max_results=1000
        )
        return list(runs)

    def _is_deleted(self, run_id: str) -> bool:
        return bool(self._client.get_run(run_id).info.lifecycle_stage == "deleted")

    def _log(self, run_id: str, metrics: list[Metric], tags: Mapping[str, str], params: Iterable[Any] = ()) -> None:
        """The tags go with the last metrics, so that a mark is never ahead of what it marks."""
        from mlflow.entities import RunTag

        while len(metrics) > METRICS_PER_BATCH:
            self._client.log_batch(run_id, metrics=metrics[:METRICS_PER_BATCH])
            metrics = metrics[METRICS_PER_BATCH:]
        run_tags = [RunTag(key, value) for key, value in tags.items()]
        self._client.log_batch(run_id, metrics=metrics, params=list(params), tags=run_tags)


def _insist(call: Callable[[], None]) -> None:
    """Call twice if need be: the store refuses the later of two processes that bring the same, but only at once."""
    from mlflow.exceptions import MlflowException

    try:
        call()
    except MlflowException:
        call()


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _points(row: Row, run_dir: RunDir) -> list[Metric]:
    try:
        return _metrics(row, row["step"], _milliseconds(row["time"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run_dir.location}/journal.jsonl has a row that is none ({error!r}): move it away"
        ) from error


def _metrics(values: Mapping[str, Any], step: int, timestamp: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [
        Metric(key, float(value), timestamp, int(step))
        for key, value in values.items()
        if isinstance(value, int | float) and key not in ("time", "step")
    ]


def _difference(result: Mapping[str, Any], entry: Entry) -> dict[str, float]:
    """The published accuracy beside a finished trial's, and how much better that is: fractions."""
    if result["status"] != "finished" or entry.published_accuracy is None:
        return {}
    difference = result["test/accuracy"] - entry.published_accuracy
    return {"published/accuracy": entry.published_accuracy, "accuracy_difference": difference}


def _dataset_input(dataset: str) -> Any:
    """A data set as MLflow lists it: by name, with the numbers of images that make it what it is."""
    import hashlib

    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import Dataset, DatasetInput, InputTag

    from vit_trainer.data.datasets import DATASETS

    facts = asdict(DATASETS[dataset]) if dataset in DATASETS else {}
    sizes = {key: facts[key] for key in ("num_classes", "num_train", "num_validation", "num_test") if key in facts}
    profile = json.dumps(sizes)
    digest = hashlib.sha256(f"{dataset} {profile}".encode()).hexdigest()[:12]
    values = MetaDataset(
        CodeDatasetSource(tags={"vit_trainer.dataset": dataset}), name=dataset, digest=digest
    ).to_dict()
    described = Dataset(dataset, digest, values["source_type"], values["source"], profile=profile)
    return DatasetInput(described, [InputTag("mlflow.data.context", "training and evaluation")])


class BackgroundShipper:
    """A thread that ships run folders while a sweep goes on; an outage of MLflow delays the view and nothing else."""

    def __init__(self, tracking_uri: str, experiment: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        self._arguments = (tracking_uri, experiment, artifacts, dict(tags))
        self._queue: queue.Queue[tuple[RunDir, Entry] | None] = queue.Queue()
        self._files: Path | None = None
        self.failure: str | None = None
        """The last outage in one line; None if everything was shipped."""
        self._thread = threading.Thread(target=self._work, name="mlflow-shipper", daemon=True)
        self._thread.start()

    def ship(self, run_dir: RunDir, entry: Entry) -> None:
        """Have a run folder shipped soon; returns at once."""
        self._queue.put((run_dir, entry))

    def close(self, *, files: Path | None = None, timeout_seconds: float = 60.0) -> None:
        """Wait until everything is shipped, or the time is up; trials without a result are then shown as interrupted.

        Args:
            files: folder to put on the sweep's own run, such as its report.
        """
        self._files = files
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self.failure = self.failure or f"not done after {timeout_seconds:.0f} s"

    def _work(self) -> None:
        shipper: Shipper | None = None
        waiting: dict[str, tuple[RunDir, Entry]] = {}
        seen: dict[str, tuple[RunDir, Entry]] = {}
        closing = False
        while not closing:
            closing = self._gather(waiting)
            seen |= waiting
            if closing:
                waiting = dict(seen)  # some have ended since, some were left by their driver
            try:
                shipper = shipper or Shipper(*self._arguments)
                for trial_id, (run_dir, entry) in list(waiting.items()):
                    try:
                        shipper.ship(run_dir, entry, driver_ended=closing)
                    except InputError as error:
                        log.warning("MLflow: passed over: %s", error)
                    del waiting[trial_id]
                shipper.summarise_cells(driver_ended=closing)
                if closing and self._files is not None:
                    shipper.ship_files(self._files)
                self.failure = None
            except Exception as error:
                failure = hide_password(cause_of(error))
                if failure != self.failure:
                    log.warning("MLflow: %s", failure)
                self.failure = failure

    def _gather(self, waiting: dict[str, tuple[RunDir, Entry]]) -> bool:
        """Wait for something to ship, after an outage for some time at most; returns whether to close."""
        with suppress(queue.Empty):
            timeout = SECONDS_BETWEEN_ATTEMPTS if self.failure else None
            while True:
                item = self._queue.get(timeout=timeout)
                if item is None:
                    return True
                waiting[item[0].trial_id] = item
                timeout = 0.0
        return False
