"""ServedModel: a fine-tuned model in MLflow's form, for `mlflow models predict` and `mlflow models serve`."""

import base64
import json
import logging
import os
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import CONFIG, RunDir

if TYPE_CHECKING:
    from PIL.Image import Image

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")  # about its own types
    import mlflow.pyfunc
from mlflow.exceptions import MlflowException

WEIGHTS = "model.safetensors"
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "pillow", "safetensors", "scikit-learn")
"""What a model needs where it is served, at the versions that are installed here."""
MODEL_CODE = """
from mlflow.models import set_model

from vit_trainer.inference.served_model import ServedModel

set_model(ServedModel())
"""
"""How MLflow makes the model: by running this, not from a pickle."""


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Classifies images as the evaluation does: the whole image, resized to the model's resolution, in float32."""

    def load_context(self, context: Any) -> None:
        """Load the weights, to a GPU if there is one."""
        from vit_trainer.inference.classifier import Classifier
        from vit_trainer.weights.choice import Weights, class_names_of

        config = json.loads(Path(context.artifacts["config"]).read_text())
        path = Path(context.artifacts["weights"])
        names = class_names_of(path, config["dataset"])
        weights = Weights(config["model"], path, path.name, int(config["resolution"]), config["dataset"], names)
        self._classifier = Classifier.load(weights)
        self._names = self._classifier.names(weights)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The most probable class of each image, and the probabilities of all.

        Args:
            model_input: a column `image` with image files (JPEG, PNG, ...), base64-encoded or as `data:` URLs.

        Returns:
            `class`, the name of the most probable one, its `probability`, and `probabilities`, name -> probability of
            every class, falling; a row per image.

        Raises:
            MlflowException: an entry is no image; which and why is its message, which the server answers with 400.
        """
        import torch

        from vit_trainer.inference.classifier import top

        inputs, problems = [], []
        for row, encoded in enumerate(model_input["image"], 1):
            try:
                inputs.append(self._classifier.input_of(_decoded(encoded)))
            except InputError as error:
                problems.append(f"row {row} of {len(model_input)} is no image ({error})")
        if problems:
            advice = "give image files such as JPEG or PNG, base64-encoded or as data: URLs"
            message = f"{'; '.join(problems[:5])}{'; …' if problems[5:] else ''}: {advice}"
            raise MlflowException.invalid_parameter_value(message)
        size = self._classifier.batch_size
        batches = (torch.cat(inputs[first : first + size]) for first in range(0, len(inputs), size))
        rows = []
        for probabilities in (each for batch in batches for each in self._classifier.probabilities(batch)):
            best = top(probabilities, self._names, len(self._names))
            rows.append({"class": best[0][0], "probability": best[0][1], "probabilities": dict(best)})
        return pd.DataFrame(rows, columns=["class", "probability", "probabilities"])


def save_served_model(run_dir: RunDir, folder: Path) -> None:
    """Write a trial's final weights as an MLflow model, which brings this package's code with it.

    Args:
        folder: to be made.

    Raises:
        InputError: the run folder holds no weights.
    """
    import vit_trainer

    working = folder.with_name(f"{folder.name}-files")
    working.mkdir(parents=True)
    with run_dir.weights() as path:
        if path is None:
            raise InputError(f"{run_dir.location} has no weights: run its trial with --save-weights")
        shutil.copyfile(path, working / WEIGHTS)
    (working / CONFIG).write_text(json.dumps(run_dir.config() or {}))
    (working / "served.py").write_text(MODEL_CODE)
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # that it looks at the example is no news
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(working / "served.py"),
        artifacts={"weights": str(working / WEIGHTS), "config": str(working / CONFIG)},
        code_paths=[str(Path(vit_trainer.__file__).parent)],
        pip_requirements=["mlflow", *(f"{name}=={version(name)}" for name in PACKAGES)],
        signature=_signature(),
        input_example=_example(),
    )
    shutil.rmtree(working)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Map

    outputs = {"class": DataType.string, "probability": DataType.double, "probabilities": Map(DataType.double)}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
    )


def _example() -> pd.DataFrame:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (32, 32), "grey").save(file, "PNG")
    return pd.DataFrame({"image": [base64.b64encode(file.getvalue()).decode()]})


def _decoded(encoded: Any) -> "Image":
    """The image of a base64-encoded file, with line breaks or not, or of a `data:` URL; InputError: why it is none."""
    from vit_trainer.data.decoding import decode_image

    if not isinstance(encoded, str):
        raise InputError("no text")
    header, comma, content = encoded.partition(",") if encoded.lstrip().startswith("data:") else ("", "", encoded)
    if comma and not header.rstrip().endswith(";base64"):
        raise InputError("its data: URL isn't base64-encoded")
    try:
        file = base64.b64decode("".join(content.split()), validate=True)
    except ValueError as error:
        raise InputError(f"not base64: {error}") from error
    return decode_image(file)
