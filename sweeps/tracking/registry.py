"""Each cell's chosen candidate as a registered MLflow model, which `mlflow models predict` and `serve` understand."""

import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.running.session import Session
from sweeps.table.cells import Cell
from vit_trainer.data.datasets import dataset_id
from vit_trainer.errors import InputError
from vit_trainer.inference.served_model import save_served_model
from vit_trainer.tracking.trial_runs import Shipper

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRIAL_ID = "trial_id"
"""Tag of a model version: which trial's weights it holds."""


def register_best(session: Session, tracking_uri: str) -> list[str]:
    """Register each cell's chosen candidate (as the table has it; of several seeds the first) unless it is already.

    Returns:
        A line per cell: under which URI it is, or why it isn't; then how to serve and to ask the last one.

    Raises:
        Exception: whatever MLflow raises in an outage.
    """
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    shipper = Shipper(tracking_uri, session.name, session.options.opened_storage.mlflow_artifacts, {})
    uri, lines, standing = None, [], session.display.standing()
    for cell in session.cells:
        chosen = standing.chosen(cell)
        if chosen is None:
            lines.append(f"not registered: {cell.name}: no trial is finished")
            continue
        trial_id = chosen.trials[0].trial_id
        run_id = shipper.run_of(trial_id)
        try:
            if run_id is None:
                raise InputError(f"MLflow has no run of {trial_id} yet: give the same command again")
            version = _registered(client, session, cell, trial_id, run_id)
            uri = f"models:/{model_name(cell)}/{version}"
            lines.append(f"registered: {uri}")
        except InputError as error:
            lines.append(f"not registered: {cell.name}: {error}")
    return lines if uri is None else [*lines, *_how_to_serve(uri, tracking_uri)]


def _how_to_serve(uri: str, tracking_uri: str) -> tuple[str, str]:
    programs = Path(sys.executable).parent
    found = Path(shutil.which("uvicorn") or "").parent == programs  # MLflow starts it by its name
    path = "" if found else f'PATH={shlex.quote(str(programs))}:"$PATH" '
    return (
        f"To serve it: {path}MLFLOW_TRACKING_URI={shlex.quote(tracking_uri)} {sys.executable} -m mlflow models serve "
        f"--env-manager local --port 5001 --model-uri {shlex.quote(uri)}",
        """To ask it: printf '{"dataframe_records": [{"image": "%s"}]}' "$(base64 < photo.jpg)" | """
        "curl localhost:5001/invocations -H 'Content-Type: application/json' -d @-",
    )


def model_name(cell: Cell) -> str:
    """A cell's name in the registry, which takes neither / nor :, and where a name may go into a URI."""
    return re.sub(r"[/:\s]+", "-", cell.name.replace(cell.dataset, dataset_id(cell.dataset)))


def _registered(client: "MlflowClient", session: Session, cell: Cell, trial_id: str, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    name = model_name(cell)
    try:
        client.create_registered_model(name, tags={"sweep": session.name})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in _newest_first(client, name):
        if version.tags.get(TRIAL_ID) == trial_id:
            return str(version.version)
    with tempfile.TemporaryDirectory() as folder:
        save_served_model(session.options.opened_storage.run_dir(trial_id), Path(folder) / "model")
        client.log_artifacts(run_id, str(Path(folder) / "model"), "model")
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    version = client.create_model_version(name, source, run_id, tags={TRIAL_ID: trial_id})
    return str(version.version)


def _newest_first(client: "MlflowClient", name: str) -> Iterable:  # type: ignore[type-arg]
    versions = client.search_model_versions(f"name='{name}'")
    return sorted(versions, key=lambda version: -int(version.version))
