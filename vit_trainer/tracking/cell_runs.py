"""CellRuns: a run in MLflow for each cell of a sweep, which holds the runs of its trials and shows the best of them."""

from collections.abc import Mapping

from vit_trainer.tracking.catalogue import Membership
from vit_trainer.tracking.experiment import PARENT, Experiment, metrics_of


class CellRuns:
    """The runs of the cells that were asked for, and which of them are behind their trials."""

    def __init__(self, experiment: Experiment, tags: Mapping[str, str]) -> None:
        """tags: put on every run."""
        self._experiment, self._tags = experiment, dict(tags)
        self._run_ids: dict[str, str] = {}
        self._changed: set[str] = set()

    def run_of(self, cell: str, membership: Membership) -> str:
        """Id of a cell's run, made if need be; membership: of one of its trials."""
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

        A cell has the metrics of its best trial (by val/accuracy, among the finished); runtime_hours and gpu_hours
        are what all of its trials took together.

        Args:
            driver_ended: cells with unfinished trials are shown as interrupted.
        """
        for cell in sorted(self._run_ids if driver_ended else self._changed):
            if self._experiment.is_deleted(self._run_ids[cell]):
                self._adopt(cell)
            if cell in self._run_ids:
                self._summarise(self._run_ids[cell], driver_ended)
            self._changed.discard(cell)

    def _adopt(self, cell: str) -> None:
        """Move the trials of a cell's deleted run to the one that is there instead, if any."""
        deleted = self._run_ids.pop(cell)
        for run in self._experiment.runs("cell_run", cell):
            self._run_ids[cell] = str(run.info.run_id)
            for trial in self._experiment.runs(PARENT, deleted):
                self._experiment.client.set_tag(trial.info.run_id, PARENT, self._run_ids[cell])

    def _summarise(self, run_id: str, driver_ended: bool) -> None:
        run = self._experiment.client.get_run(run_id)
        trials = self._experiment.runs(PARENT, run_id)
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
            metrics = metrics_of(changed, best.data.params.get("total_steps", 0), ended + len(trials))
            self._experiment.log(run_id, metrics, {})
            if run.data.tags.get("best_trial") != best.data.tags["trial_id"]:
                self._experiment.client.set_tag(run_id, "best_trial", best.data.tags["trial_id"])
        if "running" in outcomes or not (driver_ended or outcomes <= {"finished", "stopped", "failed"}):
            status = "RUNNING"
        elif "interrupted" in outcomes:
            status = "KILLED"
        else:
            status = "FINISHED" if finished else "FAILED"
        if status != run.info.status:
            self._experiment.set_status(run_id, status, ended or None)
