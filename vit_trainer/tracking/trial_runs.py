"""Shipper: run folders as MLflow runs. The journal is the truth and MLflow a view of it, which may lag or be rebuilt.

Shipping reads what the folders hold, as often as one likes. What has been shipped is marked on the run itself, and
MLflow ignores a metric that it already has (same key, step, time and value), so sending again is harmless.

In an experiment there is one run per trial, found by its tag `trial_id`; with a sweep, its parent is the run of its
cell (tag `cell_run`), which shows what the cell came to; and one run of the sweep itself (tag `sweep_run`) with what
belongs to the whole. Accuracies and `accuracy_difference` (achieved minus published) are fractions: 0.01 is one point.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vit_trainer.errors import DamagedError, InputError
from vit_trainer.files.outgoing import hide_secrets
from vit_trainer.files.run_dir import RunDir
from vit_trainer.tracking.catalogue import Membership
from vit_trainer.tracking.cell_runs import DIFFERENCE, DIGITS, PUBLISHED, CellRuns
from vit_trainer.tracking.experiment import PARENT, Experiment, insist, metrics_of
from vit_trainer.tracking.views import tags_to_set

MLFLOW_STATUS = {
    "running": "RUNNING",
    "paused": "SCHEDULED",
    "finished": "FINISHED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}
"""MLflow's status by our outcome, which is on the run as a tag: MLflow has one word for stopped and interrupted."""

Change = Literal["created", "updated", "unchanged"]
"""What shipping a folder did to MLflow."""


@dataclass
class _Shipped:
    """What MLflow has of a trial."""

    run_id: str
    mark: tuple[int, float]
    """How many rows, and the time of the last, by which a journal that was begun anew is recognised."""
    outcome: str | None
    """A key of MLFLOW_STATUS; None: not known."""
    group: str | None
    """Its cell, as `Membership.group`."""
    cause: str = ""
    """Why it isn't finished."""


class Shipper:
    """Sends run folders to one MLflow experiment."""

    def __init__(self, tracking_uri: str, experiment: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        """Connects, and creates the store and the experiment if need be.

        Args:
            artifacts: folder for a new experiment's artifacts, where the store itself is a local file.
            tags: put on every run.

        Raises:
            StoreError: the experiment was deleted in MLflow, or its file is none that can be used.
            Exception: whatever MLflow raises where the store can't be reached or refuses.
        """
        self._experiment = Experiment(tracking_uri, experiment, artifacts)
        self._tags = dict(tags)
        self._cells = CellRuns(self._experiment, self._tags)
        self._shipped: dict[str, _Shipped] = {}
        self._show()

    @property
    def experiment_id(self) -> str:
        return self._experiment.id

    def ship(self, run_dir: RunDir, membership: Membership, *, driver_ended: bool = False) -> Change:
        """Bring MLflow up to date with a run folder: one run per trial id, for ever.

        Args:
            membership: what to say beside what the folder holds.
            driver_ended: nobody goes on with a trial that has no result, even if a lease was left behind.

        Raises:
            DamagedError: the folder is damaged or another trial's, and what MLflow has of the trial counts no more.
            Exception: whatever MLflow raises in an outage.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._ship(run_dir, membership, driver_ended)
        except DamagedError as error:
            self.discount(run_dir.trial_id, membership, str(error))
            raise
        except MlflowException:
            shipped = self._shipped.pop(run_dir.trial_id, None)  # the next attempt looks at what MLflow has
            if shipped is None or not self._experiment.is_deleted(shipped.run_id):
                raise
            return self._ship(run_dir, membership, driver_ended)  # another shipper saw two and kept the other

    def discount(self, trial_id: str, membership: Membership, cause: str) -> None:
        """Show what MLflow has of a trial whose folder can't be counted as interrupted, until it has run anew."""
        self._shipped.pop(trial_id, None)
        for run in self._experiment.runs("trial_id", trial_id):
            if run.data.tags.get("cause") != cause:
                self._experiment.log(run.info.run_id, [], {"outcome": "interrupted", "cause": cause})
                self._experiment.set_status(run.info.run_id, MLFLOW_STATUS["interrupted"], None)
                if membership.group is not None:
                    self._cells.run_of(membership.group, membership, run.info.start_time)
                    self._cells.note_change(membership.group)

    def summarise_cells(self, *, driver_ended: bool = False, report: Iterable[Mapping[str, Any]] = ()) -> None:
        """Bring the runs of the cells up to date with their trials, see `CellRuns.summarise`."""
        self._cells.summarise(driver_ended=driver_ended, report=report)

    def ship_files(self, folder: Path) -> None:
        """Put a folder's files on the sweep's own run, under the folder's name; those of an earlier call are replaced.

        Raises:
            InputError: there is no such folder.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder of files to ship: give one that exists")
        run_id = self.sweep_run()
        self._experiment.client.log_artifacts(run_id, str(folder), folder.name)
        self._experiment.client.set_terminated(run_id, "FINISHED")
        self._show(run_id)

    def _show(self, report_run: str | None = None) -> None:
        """Have MLflow's page show the views, and the note that leads to them; without them nothing is missing."""
        with suppress(Exception):
            tags = tags_to_set(self.experiment_id, self._experiment.tags, self._tags.get("sweep"), report_run)
            self._experiment.tag(tags)

    def ship_trial_files(self, trial_id: str, files: Iterable[Path], folder: str) -> None:
        """Put files on the run of a trial that was shipped, in a folder; those of the same names are replaced."""
        run_id = self.run_of(trial_id)
        assert run_id is not None
        for file in files:
            self._experiment.client.log_artifact(run_id, str(file), folder)

    def sweep_run(self) -> str:
        """Id of the run for what belongs to the whole sweep."""
        sweep = self._tags.get("sweep", "sweep")
        run, _ = self._experiment.find_or_create("sweep_run", sweep, self._tags, None, f"{sweep} (sweep)")
        return str(run.info.run_id)

    def tag_sweep(self, tags: Mapping[str, str]) -> None:
        """Put tags on the run of the sweep."""
        run_id = self.sweep_run()
        self._experiment.log(run_id, [], tags)
        self._experiment.client.set_terminated(run_id, "FINISHED")

    def run_of(self, trial_id: str) -> str | None:
        """Id of a trial's run, or None if there is none."""
        return next((str(run.info.run_id) for run in self._experiment.runs("trial_id", trial_id)), None)

    def _ship(self, run_dir: RunDir, membership: Membership, driver_ended: bool) -> Change:
        run = run_dir.read()
        if run is None:
            return "unchanged"
        config, lines, result, trial_id = run.config, run.lines, run.result, run.trial_id
        rows = [line for line in lines if "step" in line]
        ended = _milliseconds(lines[-1]["time"]) if lines else None
        outcome = "interrupted"
        if result is not None:
            outcome = result["status"]
        elif not driver_ended and run_dir.has_writer():
            outcome = "running"
        elif lines and "paused" in lines[-1]:
            outcome = "paused"

        change: Change = "unchanged"
        shipped = self._shipped.get(trial_id)
        if shipped is None or shipped.group != membership.group:
            started = _milliseconds(lines[0]["time"]) if lines else None
            shipped, created = self._meet(trial_id, config, membership, started)
            change = "created" if created else "unchanged"
        mark = (len(rows), float(rows[-1]["time"]) if rows else 0.0)
        if shipped.mark == mark and shipped.outcome == outcome:
            self._shipped[trial_id] = shipped
            return change
        first = shipped.mark[0]
        if first > len(rows) or (first and rows[first - 1]["time"] != shipped.mark[1]):
            first = 0
        metrics = [point for row in rows[first:] for point in metrics_of(row, row["step"], _milliseconds(row["time"]))]
        if result is not None:
            # MLflow shows the latest point of a step: the result's, such as the speed of the whole run.
            now = (ended or 0) + 1
            metrics += metrics_of({**result, **_difference(config, result, membership)}, result["step"], now)
        tags = {"outcome": outcome, "shipped": json.dumps(mark)}
        cause = hide_secrets((result or {}).get("cause") or "")
        if cause != shipped.cause:
            tags["cause"] = cause
        self._experiment.log(shipped.run_id, metrics, tags)
        self._experiment.set_status(shipped.run_id, MLFLOW_STATUS[outcome], ended)
        self._shipped[trial_id] = _Shipped(shipped.run_id, mark, outcome, membership.group, cause)
        if membership.group is not None:
            self._cells.note_change(membership.group)
        return change if change == "created" else "updated"

    def _meet(
        self, trial_id: str, config: Mapping[str, Any], membership: Membership, started: int | None
    ) -> tuple[_Shipped, bool]:
        """The run of a trial, whoever began it, with all that doesn't change; whether it is new."""
        from mlflow.entities import Param

        tags = {**self._tags, **membership.tags}
        if membership.group is not None:
            tags[PARENT] = self._cells.run_of(membership.group, membership, started)
        run, created = self._experiment.find_or_create("trial_id", trial_id, tags, started, trial_id)
        run_id, data = str(run.info.run_id), run.data
        self._shipped[trial_id] = _Shipped(run_id, (0, 0.0), None, membership.group)
        missing = [Param(key, str(value)) for key, value in config.items() if key not in data.params]
        differing = {key: value for key, value in tags.items() if data.tags.get(key) != value}
        if missing or differing:
            insist(lambda: self._experiment.log(run_id, [], differing, missing))
        self._experiment.log_dataset(run, str(config["dataset"]))
        mark = (0, 0.0)
        with suppress(ValueError, TypeError, KeyError):
            count, last = json.loads(data.tags["shipped"])
            mark = (int(count), float(last))
        status = MLFLOW_STATUS.get(data.tags.get("outcome", ""))
        # Whoever shipped last may have died between the tag and the status.
        outcome = data.tags["outcome"] if status == run.info.status else None
        return _Shipped(run_id, mark, outcome, membership.group, data.tags.get("cause", "")), created


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _difference(config: Mapping[str, Any], result: Mapping[str, Any], membership: Membership) -> dict[str, float]:
    """The published accuracy beside a finished trial's, and how much better that is, if it has its rate: fractions."""
    published = membership.published_accuracy
    if result["status"] != "finished" or published is None:
        return {}
    if membership.published_base_lr not in (None, config["base_lr"]):
        return {PUBLISHED: published}
    return {PUBLISHED: published, DIFFERENCE: round(result["test/accuracy"] - published, DIGITS)}
