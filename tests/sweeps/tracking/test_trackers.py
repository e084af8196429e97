"""A real sweep that tells everyone: a web address, TensorBoard, MLflow's registry; then its model is served."""

import base64
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from tests.sweeps.sweep_process import Sweep
from tests.sweeps.tracking.test_to_tensorboard import scalars
from tests.sweeps.tracking.test_to_webhook import server  # noqa: F401
from vit_trainer.data.load import load_dataset
from vit_trainer.files.run_dir import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_everyone_is_told_and_the_best_model_is_served(
    tmp_path: Path,
    two_slots: str,
    server: tuple,  # type: ignore[type-arg]  # noqa: F811
) -> None:
    url, told = server
    flags = ["--notify", url, "--tensorboard", "--register", "--system-metrics"]
    sweep = Sweep(tmp_path, *flags, address=two_slots)
    code, out, err = sweep.finish(400)
    assert code == 0, err

    assert [each["event"] for each in told] == ["finished"]
    assert told[0]["trials"] == {"finished": 2}

    for run_dir in sweep.run_dirs():
        points = scalars(tmp_path / "tensorboard" / run_dir.trial_id)
        rows = run_dir.journal()
        assert {step for name, step in points if name == "train/loss"} == {row["step"] for row in rows}
        assert all(row["system/memory_gb"] > 0.1 for row in rows)

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (model,) = client.search_registered_models()
    (version,) = client.search_model_versions(f"name='{model.name}'")
    validations = {run_dir.trial_id: (run_dir.result() or {})["val/accuracy"] for run_dir in sweep.run_dirs()}
    assert validations[version.tags["trial_id"]] == max(validations.values())
    assert f"registered: models:/{model.name}/1" in out
    experiment = client.get_experiment_by_name("paper_grid-mini")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.sweep_run LIKE '%'")
    shipped = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    assert {"report/report.html", "report/report.md", "report/table.csv"} <= shipped
    trial_run = client.get_run(version.run_id or "")
    assert "system/memory_gb" in trial_run.data.metrics

    served = predictions(f"models:/{model.name}/1", tmp_path)
    assert np.mean(served["class"] == served["label"]) > 0.9
    assert np.allclose([sum(each) for each in served["probabilities"]], 1)
    assert {len(each) for each in served["probabilities"]} == {5}

    # The same command again registers nothing twice.
    again = Sweep(tmp_path, "--register")
    assert again.finish(200)[0] == 0
    assert len(client.search_model_versions(f"name='{model.name}'")) == 1


def predictions(model_uri: str, storage: Path) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """What `mlflow models predict` makes of test images, as PNG files, beside their labels."""
    test = load_dataset("digits-even").test
    ((images, labels, _),) = test.evaluation_batches(np.arange(30), 30, resolution=32, device=torch.device("cpu"))
    encoded = []
    for image in images:
        pixels = ((image.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append([base64.b64encode(buffer.getvalue()).decode()])
    given, made = storage / "given.json", storage / "made.json"
    given.write_text(json.dumps({"dataframe_split": {"columns": ["image"], "data": encoded}}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", model_uri, "--env-manager", "local"]
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{storage}/mlflow.db"}
    subprocess.run(
        [*command, "-i", str(given), "-o", str(made), "-t", "json"],
        check=True,
        env=os.environ | environment,
        timeout=300,
    )
    rows = json.loads(made.read_text())["predictions"]
    return {
        "class": np.array([row["class"] for row in rows]),
        "label": labels.numpy(),
        "probabilities": np.array([row["probabilities"] for row in rows]),
    }


def test_a_model_without_weights_is_named(tmp_path: Path) -> None:
    from vit_trainer.errors import InputError
    from vit_trainer.inference.served_model import save_served_model

    with pytest.raises(InputError, match="has no weights: run its trial with --save-weights"):
        save_served_model(RunDir(tmp_path / "runs" / "a-trial"), tmp_path / "model")
