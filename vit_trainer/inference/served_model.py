"""ServedModel: a fine-tuned model in MLflow's form, for `mlflow models predict` and `mlflow models serve`."""

import base64
import json
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

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")  # about its own types
    import mlflow.pyfunc

WEIGHTS = "model.safetensors"
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "pillow", "safetensors", "scikit-learn")
"""What a model needs where it is served, at the versions that are installed here."""


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Classifies images as the evaluation does: the whole image, resized to the model's resolution, in float32."""

    def load_context(self, context: Any) -> None:
        """Load the weights, to a GPU if there is one."""
        from vit_trainer.inference.classifier import Classifier
        from vit_trainer.weights.choice import Weights

        config = json.loads(Path(context.artifacts["config"]).read_text())
        path = Path(context.artifacts["weights"])
        self._classifier = Classifier.load(Weights(config["model"], path, path.name, int(config["resolution"])))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Class and class probabilities of each image.

        Args:
            model_input: a column `image` with image files (JPEG, PNG, ...), base64-encoded.

        Returns:
            `class`, the number of the most probable one, and `probabilities`, a list over the classes; a row per image.

        Raises:
            InputError: the column is missing, or an entry is no image.
        """
        if "image" not in model_input:
            raise InputError(f"columns {list(model_input)} without `image`: give images there, base64-encoded")
        rows = []
        for encoded in model_input["image"]:
            probabilities = self._classifier.probabilities(self._classifier.input_of(_decoded(encoded)))[0]
            rows.append({"class": int(probabilities.argmax()), "probabilities": probabilities.tolist()})
        return pd.DataFrame(rows, columns=["class", "probabilities"])


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
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=ServedModel(),
        artifacts={"weights": str(working / WEIGHTS), "config": str(working / CONFIG)},
        code_paths=[str(Path(vit_trainer.__file__).parent)],
        pip_requirements=["mlflow", *(f"{name}=={version(name)}" for name in PACKAGES)],
        signature=_signature(),
    )
    shutil.rmtree(working)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        outputs=Schema([ColSpec(DataType.long, "class"), ColSpec(Array(DataType.double), "probabilities")]),
    )


def _decoded(encoded: str) -> "Image":
    from vit_trainer.data.decoding import decode_image

    try:
        return decode_image(base64.b64decode(encoded, validate=True))
    except (ValueError, TypeError) as error:
        raise InputError(f"{str(encoded)[:40]!r} is no image: give a JPEG or PNG file, base64-encoded") from error
