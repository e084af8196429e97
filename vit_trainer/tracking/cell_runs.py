"""CellRuns: a run in MLflow for each cell of a sweep, which holds the runs of its trials and shows what counts."""

import math
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vit_trainer.tracking.catalogue import Membership
from vit_trainer.tracking.chosen import Chosen, Finished, choose
from vit_trainer.tracking.experiment import PARENT, Experiment, insist, metrics_of

if TYPE_CHECKING:
    from mlflow.entities import Run

DIFFERENCE = "accuracy_difference"
"""Achieved minus published; of trials that may be compared with what was published."""
PUBLISHED = "published/accuracy"
DEVIATION = "test/accuracy_deviation"
DIGITS = 6
"""After the point of a cell's numbers, for MLflow's page shows all there are, as of 0.0005000000000000004."""
NAME = "mlflow.runName"
"""MLflow's tag for what a run is called."""
CONSTANTS = (
    *("upstream", "model", "dataset", "resolution", "dropout"),
    *("total_steps", "warmup_steps", "global_batch_size"),
)
"""Params of a cell, all of them; dropout is missing where it is searched."""
RECIPE = ("base_lr", "dropout", "warmup_steps")
"""As in `Recipe`."""


class CellRuns:
    """The runs of the cells that were asked for, and which of them are behind their trials."""

    def __init__(self, experiment: Experiment, tags: Mapping[str, str]) -> None:
        """tags: put on every run."""
        self._experiment, self._tags = experiment, dict(tags)
        self._run_ids: dict[str, str] = {}
        self._memberships: dict[str, Membership] = {}
        self._changed: set[str] = set()

    def run_of(self, cell: str, membership: Membership, started: int | None) -> str:
        """Id of a cell's run, made if need be.

        Args:
            membership: of one of its trials.
            started: when that one began, in milliseconds.
        """
        self._memberships[cell] = membership
        if cell not in self._run_ids:
            tags = {**self._tags, **membership.tags}
            name = membership.name or cell
            run, _ = self._experiment.find_or_create("cell_run", cell, tags, started, name)
            self._complete(run, membership, {NAME: name} if run.info.run_name == cell != name else {})
            self._run_ids[cell] = str(run.info.run_id)
            self._changed.add(cell)
        return self._run_ids[cell]

    def _complete(self, run: "Run", membership: Membership, tags: Mapping[str, str]) -> None:
        """Give a cell's run what it lacks of all that doesn't change, which was less in earlier versions."""
        from mlflow.entities import Param

        run_id, data, published = str(run.info.run_id), run.data, membership.published_accuracy
        missing = [Param(key, value) for key, value in membership.params.items() if key not in data.params]
        new = published is not None and PUBLISHED not in data.metrics
        metrics = metrics_of({PUBLISHED: published} if new else {}, 0, int(1000 * time.time()))
        if missing or metrics or tags:
            insist(lambda: self._experiment.log(run_id, metrics, tags, missing))
        if "dataset" in membership.params:
            self._experiment.log_dataset(run, membership.params["dataset"])

    def note_change(self, cell: str) -> None:
        """A trial of the cell has changed."""
        self._changed.add(cell)

    def summarise(self, *, driver_ended: bool = False, report: Iterable[Mapping[str, Any]] = ()) -> None:
        """Bring the cells up to date with their trials, those in MLflow from other sessions included.

        A cell has the metrics of the candidate that counts (see `choose`), means over its seeds; num_seeds says of
        how many, test/accuracy_deviation is their standard deviation, and the tag best_trial names the first of them.
        accuracy_difference is that of the runs with the published learning rate, where others don't have it;
        runtime_hours and gpu_hours are what all of its trials took together; the tag verdict is the report's, as long
        as that is about this difference.

        Args:
            driver_ended: cells with unfinished trials are shown as interrupted.
            report: rows of the sweep's table.json.
        """
        verdicts = {_constants(row): row for row in report if row.get("verdict")}
        for cell in sorted(self._run_ids if driver_ended else self._changed):
            run = self._experiment.client.get_run(self._run_ids[cell])
            if run.info.lifecycle_stage == "deleted":
                self._adopt(cell)
                run = self._experiment.client.get_run(self._run_ids[cell]) if cell in self._run_ids else None
            if run is not None:
                self._summarise(cell, run, driver_ended, verdicts.get(_constants(self._memberships[cell].params), {}))
            self._changed.discard(cell)

    def _adopt(self, cell: str) -> None:
        """Move the trials of a cell's deleted run to the one that is there instead, if any."""
        deleted = self._run_ids.pop(cell)
        for run in self._experiment.runs("cell_run", cell):
            self._run_ids[cell] = str(run.info.run_id)
            for trial in self._experiment.runs(PARENT, deleted):
                self._experiment.client.set_tag(trial.info.run_id, PARENT, self._run_ids[cell])

    def _summarise(self, cell: str, run: "Run", driver_ended: bool, judged: Mapping[str, Any]) -> None:
        """judged: the report's row of the cell, if it has a verdict."""
        run_id = self._run_ids[cell]
        trials = self._experiment.runs(PARENT, run_id)
        finished = {each.trial_id: (each, trial) for trial in trials if (each := _finished(trial)) is not None}
        chosen = choose(each for each, _ in finished.values())
        outcomes = {trial.data.tags.get("outcome") for trial in trials}
        ended = max((trial.info.end_time or 0 for trial in trials), default=0)
        if chosen is not None:
            values = _values(self._memberships[cell], trials, finished, chosen)
            if chosen.deviation is not None or DEVIATION in run.data.metrics:
                values[DEVIATION] = math.nan if chosen.deviation is None else chosen.deviation
            changed = {name: value for name, value in values.items() if not _is_same(run.data.metrics.get(name), value)}
            tags = {"best_trial": chosen.trials[0].trial_id} | ({"verdict": ""} if DIFFERENCE in changed else {})
            if math.isclose(judged.get("difference", math.nan), values.get(DIFFERENCE, math.nan), abs_tol=1e-6):
                tags["verdict"] = str(judged["verdict"])
            tags = {key: value for key, value in tags.items() if value != run.data.tags.get(key, "")}
            if changed or tags:
                # Time decides between points of a step: it grows, whoever counts now.
                step = finished[chosen.trials[0].trial_id][1].data.params.get("total_steps", 0)
                self._experiment.log(run_id, metrics_of(changed, step, int(1000 * time.time())), tags)
        if "running" in outcomes or not (driver_ended or outcomes <= {"finished", "stopped", "failed"}):
            status = "RUNNING"
        elif "interrupted" in outcomes:
            status = "KILLED"
        else:
            status = "FINISHED" if finished else "FAILED"
        # Earlier versions took the time of shipping for the beginning, which can't be put right.
        ended = max(ended, run.info.start_time) if ended else 0
        if status != run.info.status or (status != "RUNNING" and ended not in (0, run.info.end_time)):
            self._experiment.set_status(run_id, status, ended or None)


def _values(
    membership: Membership, trials: list["Run"], finished: Mapping[str, tuple[Finished, "Run"]], chosen: Chosen
) -> dict[str, float]:
    """What a cell has come to, as `CellRuns.summarise` says."""
    published = membership.published_base_lr
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
    recipe = zip(RECIPE, chosen.trials[0].recipe, strict=True)
    values |= {f"chosen_{name}": value for name, value in recipe if name not in membership.params}
    values |= {"num_trials": len(trials), "num_seeds": len(seeds)}
    return {name: round(float(value), DIGITS) for name, value in values.items()}


def _finished(run: "Run") -> Finished | None:
    """What MLflow has of a finished trial; None for any other."""
    if run.data.tags.get("outcome") != "finished":
        return None
    try:
        return Finished.of(run.data.tags["trial_id"], run.data.params, run.data.metrics)
    except (KeyError, ValueError):  # none that we have shipped
        return None


def _constants(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes a cell, of a row of table.json or of a membership's params."""
    return tuple(str(values.get(name)) for name in CONSTANTS)


def _is_same(before: float | None, value: float) -> bool:
    return before == value or (before is not None and math.isnan(before) and math.isnan(value))
