"""Views: which columns and charts MLflow's page shows of an experiment, and the note there that leads to them.

A view is a tag of the experiment, whose format is MLflow's own and nowhere described: since 3.17 an envelope around a
packed state, before that the state itself; one value serves both. Where one fails, nothing but the view is missing.
"""

import base64
import json
import re
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

NOTE = "mlflow.note.content"
"""MLflow's tag for what an experiment is, in Markdown; its first line is seen on every page of the experiment."""
VIEW = "mlflow.sharedViewState."
"""MLflow's tags for views begin so; what links call them follows."""
LONGEST = 5_000
"""Characters of an experiment's tag before MLflow 3.17."""
RUN_NAME, CREATED, DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
"""The table's own columns."""
WIDTHS = {"model": 110, "dataset": 96, "dropout": 72, "base_lr": 72, "seed": 56, "chosen_base_lr": 116}
WIDTHS |= {"test/accuracy": 92, "published/accuracy": 94, "accuracy_difference": 94, "verdict": 96}
"""In pixels. Of 1,280, MLflow's page leaves a table 700 as it opens: for the name, which says what a run is, and these.
"""
METRICS = (
    *(
        "test/accuracy",
        "accuracy_difference",
        "published/accuracy",
        "val/accuracy",
        "val/loss",
        "train/loss",
        "test/loss",
        "test/accuracy_deviation",
        "lr",
    ),
    *("images_per_second", "mfu", "input_wait_fraction", "peak_memory_gib", "runtime_hours", "gpu_hours"),
    *("chosen_base_lr", "num_trials", "num_seeds"),
)
"""Of every metric without a chart MLflow makes one, unless it was removed."""

ACCURACY = {"type": "BAR", "metricKey": "test/accuracy"}
DIFFERENCE = {"type": "BAR", "metricKey": "accuracy_difference"}


def _against(metric: str) -> dict[str, Any]:
    axes = {"xaxis": metric, "yaxis": "test/accuracy"}
    return {"type": "SCATTER", **{axis: {"key": key, "type": "METRIC"} for axis, key in axes.items()}}


def _parallel(params: Iterable[str], metrics: Iterable[str]) -> dict[str, Any]:
    return {
        "type": "PARALLEL",
        "selectedParams": list(params),
        "selectedMetrics": list(metrics),
        "showAllRuns": True,
    }


def _lines(metric: str) -> dict[str, Any]:
    axes = {"xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear", "range": {}, "yAxisKey": "metric"}
    common = {"lineSmoothness": 0, "yAxisExpressions": [], "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], **axes, **common}


@dataclass(frozen=True)
class View:
    """A table and charts of runs of one kind, the best on the test images first."""

    name: str
    tag: str
    """Which runs: those that have it."""
    name_width: int
    """Pixels of the column with the runs' names."""
    columns: tuple[str, ...]
    """By kind and name, as `params.model`."""
    charts: tuple[Mapping[str, Any], ...]
    """Cards as MLflow has them, without what all share."""

    def tag_value(self, now: int) -> str:
        """What the experiment's tag holds; now: in milliseconds."""
        columns = ["{}.`{}`".format(*column.split(".", 1)) for column in self.columns]
        shared = {"metricSectionId": "s", "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
        cards = [{"uuid": f"c{i}", **shared, **chart} for i, chart in enumerate(self.charts)]
        section = {"uuid": "s", "name": self.name, "display": True, "isReordered": True, "deleted": False}
        state = {
            "searchFilter": f"tags.{self.tag} LIKE '%'",
            "orderByKey": "metrics.`test/accuracy`",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": columns,
            "runsHiddenMode": "SHOW_ALL",
            "compareRunCharts": cards,
            "compareRunSections": [{**section, "isGenerated": False, "columns": 2, "cardHeight": 340}],
            "isAccordionReordered": True,
            **BEFORE_3_17,
        }
        removed = [
            {"uuid": f"r{i}", "type": "BAR", "metricKey": metric, **shared, "deleted": True, "isGenerated": True}
            for i, metric in enumerate(METRICS)
            if metric not in [chart.get("metricKey") for chart in self.charts]
        ]
        widths = {column: WIDTHS.get(column.split("`")[1], 100) for column in columns} | {
            RUN_NAME: self.name_width,
            CREATED: 40,
        }
        since = {"columnOrder": [RUN_NAME, *columns, CREATED, DURATION], "columnWidths": widths}
        packed = zlib.compress(json.dumps({**state, **since, "compareRunCharts": cards + removed}).encode(), 9)
        envelope = {"name": self.name, "createdAt": now, "updatedAt": now}
        envelope["state"] = "deflate;" + base64.b64encode(packed).decode()
        value = json.dumps({**envelope, **state}, separators=(",", ":"))
        assert len(value) <= LONGEST, len(value)
        return value


BEFORE_3_17 = {
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "viewMaximized": False,
    "runListHidden": True,
    "groupBy": None,
    "groupsExpanded": {},
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}
"""Defaults that MLflow fills in itself since."""

CONSTANTS = ("params.model", "params.dataset", "params.dropout")
RESULTS = ("metrics.test/accuracy", "metrics.published/accuracy", "metrics.accuracy_difference")
HOURS = ("metrics.runtime_hours", "metrics.gpu_hours")
VIEWS = {
    "cells": View(
        "Cells",
        "cell_run",
        216,
        (
            *(*RESULTS, "tags.verdict", "metrics.chosen_base_lr", *HOURS, *CONSTANTS),
            *("metrics.test/accuracy_deviation", "metrics.num_seeds", "metrics.num_trials"),
            *("params.resolution", "params.total_steps", "params.upstream"),
        ),
        (
            *(ACCURACY, DIFFERENCE),
            _parallel(("model", "dataset", "dropout"), ("chosen_base_lr", "test/accuracy")),
            *(_against("gpu_hours"), _against("runtime_hours")),
        ),
    ),
    "trials": View(
        "Trials",
        "trial_id",
        310,
        (*RESULTS, "metrics.val/accuracy", "tags.outcome", "params.base_lr", "params.seed", *HOURS, *CONSTANTS),
        (
            _parallel(("model", "dataset", "dropout", "base_lr"), ("test/accuracy",)),
            *(_lines("val/accuracy"), _lines("train/loss"), _against("runtime_hours")),
        ),
    ),
}
"""By the names that links have for them; the first is above the others in MLflow's menu."""


def link(experiment_id: str, view: str, mode: str = "TABLE") -> str:
    """What follows the address of MLflow's page; mode: TABLE or CHART."""
    query = {"workflowType": "machine_learning", "viewStateShareKey": view, "compareRunsMode": mode}
    return f"#/experiments/{experiment_id}/runs?{urlencode(query)}"


def note(experiment_id: str, sweep: str | None, report_run: str | None = None) -> str:
    """What an experiment is, below a line with all links.

    Args:
        sweep: whose it is; None: of trials that belong to none.
        report_run: id of the run that has the sweep's report; None: there is none yet.
    """
    names = list(VIEWS) if sweep else ["trials"]
    links = [
        f"{name}: [table]({link(experiment_id, name)}), [charts]({link(experiment_id, name, 'CHART')})"
        for name in names
    ]
    if report_run is not None:
        links.append(f"[report](#/experiments/{experiment_id}/runs/{report_run}/artifacts/report/report.html)")
    what = "Fine-tuning of Vision Transformers: a run per trial."
    if sweep:
        what = (
            f"Fine-tuning of Vision Transformers, the sweep {sweep}: a run per cell of its table, which has the "
            "numbers of the candidate that counts, means over its seeds, and within it a run per trial."
        )
    units = "Accuracies are fractions, `accuracy_difference` is achieved minus published: 0.01 is one point."
    return f"Compare the {'; the '.join(links)}\n\n{what} {units}"


def tags_to_set(
    experiment_id: str, present: Mapping[str, str], sweep: str | None, report_run: str | None = None
) -> dict[str, str]:
    """The views and the note of an experiment, but for those that are there; a note of ours learns of a report.

    Args:
        present: its tags; a note with any word of a person's stays.
        sweep, report_run: as for `note`.
    """
    now = int(1000 * time.time())
    views = {VIEW + key: view for key, view in VIEWS.items() if sweep or key == "trials"}
    tags = {key: view.tag_value(now - age) for age, (key, view) in enumerate(views.items()) if key not in present}
    found = present.get(NOTE)
    earlier = re.search("/runs/([0-9a-f]+)/", found or "")
    ours = [note(experiment_id, sweep, run) for run in (None, earlier and earlier[1], report_run)]
    if not found or (found in ours and report_run is not None and found != ours[-1]):
        tags[NOTE] = ours[-1]
    return tags
