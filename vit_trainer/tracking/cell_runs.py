"""CellRuns: a run in MLflow for each cell of a sweep, which holds the runs of its trials and shows what counts."""

import math
import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vit_trainer.tracking.catalogue import Membership
from vit_trainer.tracking.chosen import Finished, choose
from vit_trainer.tracking.experiment import PARENT, Experiment, metrics_of

if TYPE_CHECKING:
    from mlflow.entities import Run

DIFFERENCE = "accuracy_difference"
"""Achieved minus published; of trials that may be compared with what was published."""


class CellRuns:
    """The runs of the cells that were asked for, and which of them are behind their trials."""

    def __init__(self, experiment: Experiment, tags: Mapping[str, str]) -> None:
        """tags: put on every run."""
        self._experiment, self._tags = experiment, dict(tags)
        self._run_ids: dict[str, str] = {}
        self._published_base_lrs: dict[str, float | None] = {}
        self._changed: set[str] = set()

    def run_of(self, cell: str, membership: Membership) -> str:
        """Id of a cell's run, made if need be; membership: of one of its trials."""
        self._published_base_lrs[cell] = membership.published_base_lr
        if cell not in self._run_ids:
            tags = {**self._tags, **membership.tags}
            run, _ = self._experiment.find_or_create("cell_run", cell, tags, None, cell)
            if membership.published_accuracy is not None and "published/accuracy" not in run.data.metrics:
                self._experiment.client.log_metric(run.info.run_id, "published/accuracy", membership.published_accuracy)
            self._run_ids[cell] = str(run.info.run_id)
            self._changed.add(cell)
        return self._run_ids[cell]

    def note_change(self, cell: str) -> None:
        """A trial of the cell has changed."""
        self._changed.add(cell)

    def summarise(self, *, driver_ended: bool = False) -> None:
        """Bring the cells up to date with their trials, those in MLflow from other sessions included.

        A cell has the metrics of the candidate that counts (see `choose`), means over its seeds; num_seeds says of
        how many, test/accuracy_deviation is their standard deviation, and the tag best_trial names the first of them.
        accuracy_difference is that of the runs with the published learning rate, where others don't have it;
        runtime_hours and gpu_hours are what all of its trials took together.

        Args:
            driver_ended: cells with unfinished trials are shown as interrupted.
        """
        for cell in sorted(self._run_ids if driver_ended else self._changed):
            if self._experiment.is_deleted(self._run_ids[cell]):
                self._adopt(cell)
            if cell in self._run_ids:
                self._summarise(cell, driver_ended)
            self._changed.discard(cell)

    def _adopt(self, cell: str) -> None:
        """Move the trials of a cell's deleted run to the one that is there instead, if any."""
        deleted = self._run_ids.pop(cell)
        for run in self._experiment.runs("cell_run", cell):
            self._run_ids[cell] = str(run.info.run_id)
            for trial in self._experiment.runs(PARENT, deleted):
                self._experiment.client.set_tag(trial.info.run_id, PARENT, self._run_ids[cell])

    def _summarise(self, cell: str, driver_ended: bool) -> None:
        run_id, published = self._run_ids[cell], self._published_base_lrs.get(cell)
        run = self._experiment.client.get_run(run_id)
        trials = self._experiment.runs(PARENT, run_id)
        finished = {each.trial_id: (each, trial) for trial in trials if (each := _finished(trial)) is not None}
        chosen = choose(each for each, _ in finished.values())
        outcomes = {trial.data.tags.get("outcome") for trial in trials}
        ended = max((trial.info.end_time or 0 for trial in trials), default=0)
        if chosen is not None:
            seeds = [finished[each.trial_id][1].data.metrics for each in chosen.trials]
            names = set.intersection(*map(set, seeds))
            values = {name: statistics.fmean(metrics[name] for metrics in seeds) for name in names}
            for name in ("runtime_hours", "gpu_hours"):
                values[name] = sum(trial.data.metrics.get(name, 0.0) for trial in trials)
            compared = [
                trial.data.metrics
                for each, trial in finished.values()
                if DIFFERENCE in trial.data.metrics and published in (None, each.recipe[0])  # earlier versions: of all
            ]
            if compared and len(compared) < len(finished):  # those of the published rate, whichever was chosen
                values[DIFFERENCE] = statistics.fmean(metrics[DIFFERENCE] for metrics in compared)
            elif published is not None and not compared:
                values.pop(DIFFERENCE, None)
            values |= {"num_trials": float(len(trials)), "num_seeds": float(len(seeds))}
            if chosen.deviation is not None or "test/accuracy_deviation" in run.data.metrics:
                values["test/accuracy_deviation"] = math.nan if chosen.deviation is None else chosen.deviation
            changed = {name: value for name, value in values.items() if not _is_same(run.data.metrics.get(name), value)}
            # Time decides between points of a step: it grows, whoever counts now.
            step = finished[chosen.trials[0].trial_id][1].data.params.get("total_steps", 0)
            self._experiment.log(run_id, metrics_of(changed, step, int(1000 * time.time())), {})
            if run.data.tags.get("best_trial") != chosen.trials[0].trial_id:
                self._experiment.client.set_tag(run_id, "best_trial", chosen.trials[0].trial_id)
        if "running" in outcomes or not (driver_ended or outcomes <= {"finished", "stopped", "failed"}):
            status = "RUNNING"
        elif "interrupted" in outcomes:
            status = "KILLED"
        else:
            status = "FINISHED" if finished else "FAILED"
        if status != run.info.status:
            self._experiment.set_status(run_id, status, ended or None)


def _finished(run: "Run") -> Finished | None:
    """What MLflow has of a finished trial; None for any other."""
    if run.data.tags.get("outcome") != "finished":
        return None
    try:
        return Finished.of(run.data.tags["trial_id"], run.data.params, run.data.metrics)
    except (KeyError, ValueError):  # none that we have shipped
        return None


def _is_same(before: float | None, value: float) -> bool:
    return before == value or (before is not None and math.isnan(before) and math.isnan(value))
