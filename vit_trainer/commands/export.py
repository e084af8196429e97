"""python -m vit_trainer export: weights for other programs."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vit_trainer.errors import InputError
from vit_trainer.weights.choice import WeightsChoice

DEFAULT_CHOICE = WeightsChoice()


def export(
    *,
    output: Path | None = None,
    onnx: Annotated[bool, Parameter(negative=())] = False,
    choice: Annotated[WeightsChoice, Parameter(name="*")] = DEFAULT_CHOICE,
) -> None:
    """Write weights as .safetensors for plain timm, as ONNX for any other program, or as an official .npz.

    The first two say of themselves which model it is and what its classes are called; an .npz can't. An ONNX model
    takes batches of any size; it is written only if onnxruntime's logits are ours. With --resolution the position
    embeddings are resized.

    Parameters
    ----------
    output
        File that ends in .safetensors, .onnx or .npz.
    onnx
        Write ONNX; without --output to <trial, checkpoint or model>.onnx in this folder.
    """
    if output is None:
        if not onnx:
            raise InputError("give --output with a name that ends in .safetensors, .onnx or .npz, or --onnx")
        output = Path(f"{Path(choice.trial or '').name or (choice.checkpoint or Path()).stem or choice.model}.onnx")
    if onnx and output.suffix != ".onnx":
        raise InputError(f"cannot write {output}: give a name that ends in .onnx, or leave --onnx out")
    if output.suffix == ".onnx":
        from vit_trainer.inference.onnx_file import require_packages, write_onnx

        require_packages()
        with choice.opened() as weights:
            print(f"{output}: {write_onnx(weights, output)}")
        return
    with choice.opened() as weights:
        from vit_trainer.weights.export import export_weights

        print(f"{output}: load it with {export_weights(weights, output, resolution=choice.resolution)}")
