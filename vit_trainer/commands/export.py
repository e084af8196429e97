"""python -m vit_trainer export: weights for other programs."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vit_trainer.weights.choice import WeightsChoice

DEFAULT_CHOICE = WeightsChoice()


def export(*, output: Path, choice: Annotated[WeightsChoice, Parameter(name="*")] = DEFAULT_CHOICE) -> None:
    """Write weights as .safetensors for plain timm, with the same logits, or as an official .npz.

    A .safetensors says of itself which model it is and what its classes are called; an .npz can't. With --resolution
    the position embeddings are resized.

    Parameters
    ----------
    output
        File that ends in .safetensors or .npz.
    """
    with choice.opened() as weights:
        from vit_trainer.weights.export import export_weights

        print(f"{output}: load it with {export_weights(weights, output, resolution=choice.resolution)}")
