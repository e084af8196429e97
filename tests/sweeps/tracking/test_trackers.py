"""A real sweep that tells everyone: a web address, TensorBoard, MLflow's registry; then its model is served."""

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
        points = scalars(next((tmp_path / "tensorboard").rglob(run_dir.trial_id)))
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

    assert "warn" not in err.lower()
    assert "artifacts" not in err, "no progress bars of MLflow's"
    images, labels = digits(tmp_path)
    answers = served(out, images)
    assert np.mean([answer["class"] == label for answer, label in zip(answers, labels, strict=True)]) > 0.9
    for answer in answers:
        assert sorted(answer["probabilities"]) == list("02468")
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["probability"] == max(answer["probabilities"].values())

    # The same command again registers nothing twice.
    again = Sweep(tmp_path, "--register")
    assert again.finish(200)[0] == 0
    assert len(client.search_model_versions(f"name='{model.name}'")) == 1


def digits(folder: Path) -> tuple[list[Path], list[str]]:
    """Test images of digits-even as files, and what they are."""
    test = load_dataset("digits-even").test
    images, labels = test._images.numpy()[:20], test._labels[:20].tolist()  # type: ignore[attr-defined]
    files = [folder / f"{number:02}.png" for number in range(20)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    return files, ["02468"[label] for label in labels]


def served(out: str, images: list[Path]) -> list[dict[str, Any]]:
    """What the model answers, served and asked word for word as the sweep's end says; a text is a 400."""
    serve, ask = (re.search(f"^To {verb} it: (.*)$", out, re.MULTILINE) for verb in ("serve", "ask"))
    assert serve is not None
    assert ask is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def asked(file: Path) -> Any:
        command = ask[1].replace("5001", port).replace("photo.jpg", str(file))
        return json.loads(subprocess.run(command, shell=True, check=True, capture_output=True, timeout=60).stdout)

    process = subprocess.Popen(serve[1].replace("5001", port), shell=True, start_new_session=True, cwd="/")
    try:
        ping = ["curl", "-sS", "--retry", "100", "--retry-delay", "1", "--retry-connrefused", f"localhost:{port}/ping"]
        subprocess.run(ping, check=True, timeout=120)
        text = images[0].with_name("text.png")
        text.write_text("no image")
        refusal = asked(text)
        assert refusal["error_code"] == "INVALID_PARAMETER_VALUE"
        assert "row 1 of 1 is no image (not an image that Pillow knows): give image files such" in refusal["message"]
        return [asked(file)["predictions"][0] for file in images]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_a_model_without_weights_is_named(tmp_path: Path) -> None:
    from vit_trainer.errors import InputError
    from vit_trainer.inference.served_model import save_served_model

    with pytest.raises(InputError, match="has no weights: run its trial with --save-weights"):
        save_served_model(RunDir(tmp_path / "runs" / "a-trial"), tmp_path / "model")
