"""write_onnx(): a model with its head as an .onnx file, checked with onnxruntime."""

import json
import os
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vit_trainer.errors import InputError, VitTrainerError, reason_of
from vit_trainer.inference.classifier import Classifier
from vit_trainer.weights.choice import Weights

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-4
"""Between onnxruntime's logits and ours, of logits up to 1; of larger ones this share of the largest."""


def require_packages() -> None:
    """Raise InputError unless everything that writes and checks ONNX is installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(
            f"ONNX needs {' and '.join(missing)}: {sys.executable} -m pip install {' '.join(missing)}, then again"
        )


def write_onnx(weights: Weights, output: Path) -> str:
    """Write weights with their head as ONNX: images (batch, 3, R, R) float32 in [-1, 1] -> logits (batch, num_classes).

    What the classes are called, the model and the resolution are in its metadata. Weights above 1.5 GB lie beside it,
    in a file named `<output>.data`.

    Returns:
        What it takes and gives, and how well it was found to agree.

    Raises:
        InputError: the weights can't be read or have no head, the file can't be written, or a package is missing.
        VitTrainerError: onnxruntime computes other logits; nothing is written.
    """
    require_packages()
    classifier = Classifier.load(weights)
    classifier.require_head(weights.source)
    model, side = classifier.model.cpu(), classifier.resolution
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = model(images).numpy()
    about = {"model": weights.model, "resolution": str(side), "class_names": json.dumps(classifier.names(weights))}
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".onnx-") as folder:
            made = Path(folder) / output.name
            _export(model, images, about, made)
            difference = max(np.abs(_logits(made, images[:n].numpy()) - expected[:n]).max() for n in (1, 3))
            bound = LARGEST_DIFFERENCE * max(1.0, float(np.abs(expected).max()))
            if not difference <= bound:
                raise VitTrainerError(
                    f"{output} isn't written: onnxruntime's logits are up to {difference:.1e} from ours, more than "
                    f"{bound:.1e}; try other versions of {', '.join(PACKAGES)}"
                )
            for file in sorted(Path(folder).iterdir(), reverse=True):  # the .data first
                os.replace(file, output.with_name(file.name))
    except OSError as error:
        raise InputError(f"cannot write {output} ({reason_of(error)}): give another place") from error
    shape = f"(batch, 3, {side}, {side})"
    return (
        f"images {shape} float32 in [-1, 1] -> logits (batch, {model.num_classes}), class names in its metadata; "
        f"onnxruntime's are {difference:.1e} from ours at most"
    )


def _export(model: torch.nn.Module, images: torch.Tensor, about: dict[str, str], file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(about)
    program.save(file)


def _logits(file: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images})
    found: NDArray[np.float32] = logits
    return found
