"""Experiment: the runs of one MLflow experiment, found by their tags. Knows MLflow's client, and nothing of trials."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_trainer.data.datasets import DATASETS
from vit_trainer.errors import StoreError
from vit_trainer.tracking.database import database_of, make_database, require_database
from vit_trainer.tracking.moved import follow
from vit_trainer.tracking.store import be_impatient

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run

log = logging.getLogger(__name__)

TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment that has the UI open on the table of runs, where it would show pages for language models."""
PARENT = "mlflow.parentRunId"
"""MLflow's tag that shows a run within another."""
METRICS_PER_BATCH = 1000
"""MLflow's limit for one log_batch call."""


class Experiment:
    """One experiment, and what is done to its runs."""

    def __init__(self, tracking_uri: str, name: str, artifacts: Path) -> None:
        """Connects, and creates the store and the experiment if need be.

        Args:
            artifacts: folder for a new experiment's artifacts, where the store itself is a local file.

        Raises:
            StoreError: the experiment was deleted in MLflow, or its file is none that can be used.
            Exception: whatever MLflow raises where the store can't be reached or refuses.
        """
        be_impatient()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)  # creating a store is no news
        path = database_of(tracking_uri)
        if path is not None:
            require_database(path)
            make_database(path)
        self.client: MlflowClient = MlflowClient(tracking_uri)
        location = None if path is None else artifacts.resolve().as_uri()
        found = self.client.get_experiment_by_name(name)
        if found is None:
            with suppress(MlflowException):  # another process was faster; or the store refuses, which shows next
                self.client.create_experiment(name, artifact_location=location, tags=TAGS)
            found = self.client.get_experiment_by_name(name)
        if found is None:
            raise StoreError(f"MLflow at {tracking_uri} makes no experiment {name!r}: ask who runs it")
        if found.lifecycle_stage != "active":
            raise StoreError(
                f"experiment {name!r} was deleted in MLflow at {tracking_uri}; `MLFLOW_TRACKING_URI={tracking_uri} "
                f"mlflow experiments restore --experiment-id {found.experiment_id}` restores it"
            )
        for variable in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            if os.environ.get(variable) not in (None, "", name, found.experiment_id):
                log.warning("MLflow: %s is not used: runs go to experiment %s", variable, name)
        self.id: str = found.experiment_id
        if path is not None:
            follow(path, artifacts, found.artifact_location)

    def runs(self, key: str, value: str) -> list[Run]:
        """The runs with a tag."""
        quote = '"' if "'" in value else "'"
        return list(self.client.search_runs([self.id], f"tags.`{key}` = {quote}{value}{quote}", max_results=1000))

    def find_or_create(
        self, key: str, value: str, tags: Mapping[str, str], started: int | None, name: str
    ) -> tuple[Run, bool]:
        """The run with a tag, and whether it is new.

        Where two processes create one at once, at least one of them sees both, and deletes the one that sorts later;
        who had that one finds out when writing to it, and begins again with the other.

        Args:
            tags: put on a new run, as `started` (in milliseconds) and `name` are.
        """
        from mlflow.exceptions import MlflowException

        runs = self.runs(key, value)
        created = not runs
        if created:
            self.client.create_run(self.id, start_time=started, tags={**tags, key: value}, run_name=name)
            runs = self.runs(key, value)
        first, *others = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        for run in others:
            with suppress(MlflowException):  # the other process was faster with this too
                self.client.delete_run(run.info.run_id)
        return first, created

    @property
    def tags(self) -> Mapping[str, str]:
        """The experiment's own, as MLflow has them now."""
        return dict(self.client.get_experiment(self.id).tags)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Put tags on the experiment itself."""
        for key, value in tags.items():
            self.client.set_experiment_tag(self.id, key, value)

    def log_dataset(self, run: Run, dataset: str) -> None:
        """Name the data set of a run as its input, unless it is named already."""
        if not (run.inputs and run.inputs.dataset_inputs):
            found = _dataset_input(dataset)
            insist(lambda: self.client.log_inputs(run.info.run_id, [found]))

    def is_deleted(self, run_id: str) -> bool:
        """Whether a run was deleted; it can be read nevertheless."""
        return bool(self.client.get_run(run_id).info.lifecycle_stage == "deleted")

    def log(self, run_id: str, metrics: list[Metric], tags: Mapping[str, str], params: Iterable[Any] = ()) -> None:
        """Put metrics, tags and params on a run; the tags last, so that a mark is never ahead of what it marks."""
        from mlflow.entities import RunTag

        while len(metrics) > METRICS_PER_BATCH:
            self.client.log_batch(run_id, metrics=metrics[:METRICS_PER_BATCH])
            metrics = metrics[METRICS_PER_BATCH:]
        run_tags = [RunTag(key, value) for key, value in tags.items()]
        self.client.log_batch(run_id, metrics=metrics, params=list(params), tags=run_tags)

    def set_status(self, run_id: str, status: str, ended: int | None) -> None:
        """Show a run as running or ended, in MLflow's own words; ended: in milliseconds."""
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, ended)


def metrics_of(values: Mapping[str, Any], step: int, timestamp: int) -> list[Metric]:
    """The numbers among some values as metrics of a step, at a time in milliseconds."""
    from mlflow.entities import Metric

    return [
        Metric(key, float(value), timestamp, int(step))
        for key, value in values.items()
        if isinstance(value, int | float) and key not in ("time", "step")
    ]


def _dataset_input(dataset: str) -> DatasetInput:
    """A data set as MLflow lists it: by name, with the numbers of images that make it what it is."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import Dataset, DatasetInput, InputTag

    facts = asdict(DATASETS[dataset]) if dataset in DATASETS else {}
    sizes = {key: facts[key] for key in ("num_classes", "num_train", "num_validation", "num_test") if key in facts}
    profile = json.dumps(sizes)
    digest = hashlib.sha256(f"{dataset} {profile}".encode()).hexdigest()[:12]
    values = MetaDataset(
        CodeDatasetSource(tags={"vit_trainer.dataset": dataset}), name=dataset, digest=digest
    ).to_dict()
    described = Dataset(dataset, digest, values["source_type"], values["source"], profile=profile)
    return DatasetInput(described, [InputTag("mlflow.data.context", "training and evaluation")])


def insist(call: Callable[[], None]) -> None:
    """Call twice if need be: the store refuses the later of two processes that bring the same, but only at once."""
    from mlflow.exceptions import MlflowException

    try:
        call()
    except MlflowException:
        call()
