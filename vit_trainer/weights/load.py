"""Official arrays into a model, and from one; position embeddings resized."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.errors import CheckpointError
from vit_trainer.model.build import build_model
from vit_trainer.weights.kinds import kind_of
from vit_trainer.weights.layouts import Arrays, to_arrays, to_parameters
from vit_trainer.weights.npz_files import check_checkpoint, read_npz
from vit_trainer.weights.npz_layout import check_fits, tensor_map, token_grid
from vit_trainer.weights.safetensors_files import opened


def export_arrays(model: VisionTransformer, architecture: Architecture) -> Arrays:
    """The model's weights under the released array names and layouts, as float32."""
    parameters = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    return to_arrays(parameters, architecture)


def load_arrays(
    model: VisionTransformer,
    architecture: Architecture,
    arrays: Arrays,
    *,
    keep_head: bool = False,
    source: str = "the checkpoint",
) -> None:
    """Copy official arrays into a model from `build_model`, resizing position embeddings to its resolution.

    Args:
        keep_head: load the file's head, and `pre_logits`; the model must have the same. Otherwise the head stays zero.
        source: what to call the arrays in errors.

    Raises:
        CheckpointError: an array is missing or has another shape; the model stays as it was.
    """
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise CheckpointError(f"{source}: {name} is {array.dtype}, not float32: give an official file")
    contents = check_fits({name: array.shape for name, array in arrays.items()}, architecture, source=source)
    if keep_head:
        pre_logits = model.state_dict().get("head.pre_logits.weight")
        expected = (None if pre_logits is None else len(pre_logits), model.num_classes)
        if (contents.representation_size, contents.num_classes) != expected:
            raise CheckpointError(
                f"the head of {source} cannot be kept: it has {contents.num_classes or 'no'} classes and "
                f"{contents.representation_size or 'no'} pre_logits, the model {expected[1]} and {expected[0] or 'no'}"
            )
    parameters = to_parameters(arrays, architecture, head=keep_head)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in parameters.items()}
    tensors["pos_embed"] = resize_position_embedding(tensors["pos_embed"], token_grid(model.pos_embed.shape[1]))
    model.load_state_dict(tensors, strict=False)


def read_weights(path: Path, model_name: str) -> Arrays:
    """Official arrays from an official .npz, or from a .safetensors of timm's names such as a run folder's.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, another model's or of another kind.
    """
    architecture = MODELS[model_name]
    check_checkpoint(path, model_name)
    if kind_of(path) == "npz":
        arrays = read_npz(path, {pair.array for pair in tensor_map(architecture, pre_logits=True, head=True)})
    else:
        with opened(path) as file:
            arrays = to_arrays({name: file.get_tensor(name) for name in file.keys()}, architecture)  # noqa: SIM118
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite: give another file")
    return arrays


def pretrained_model(
    model_name: str, path: Path, *, resolution: int, num_classes: int | None = None, dropout: float = 0.0
) -> VisionTransformer:
    """A model with the weights of a file as `read_weights` takes, its position embeddings resized.

    Args:
        model_name: a key of MODELS.
        resolution: side of the images in pixels.
        num_classes: outputs of a new head, which is zero; None keeps the file's head, with `pre_logits` if it has it.
        dropout: probability in [0, 1) at the official places.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, another model's, or has no head to keep.
    """
    architecture = MODELS[model_name]
    contents = check_checkpoint(path, model_name)
    keep_head = num_classes is None
    num_outputs = contents.num_classes if num_classes is None else num_classes
    if num_outputs is None:
        raise CheckpointError(f"{path} has no head to keep: give a file with head/kernel and head/bias")
    model = build_model(
        architecture,
        num_classes=num_outputs,
        resolution=resolution,
        dropout=dropout,
        representation_size=contents.representation_size if keep_head else None,
    )
    load_arrays(model, architecture, read_weights(path, model_name), keep_head=keep_head, source=str(path))
    return model


def reorder_classes(model: VisionTransformer, order: Sequence[int]) -> None:
    """Give a model's outputs another order: output i becomes what output order[i] was."""
    head = model.head.head if isinstance(model.head, nn.Sequential) else model.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(head.weight[list(order)])
        head.bias.copy_(head.bias[list(order)])


def resize_position_embedding(table: Tensor, grid: int) -> Tensor:
    """(1, 1 + g*g, width) -> (1, 1 + grid*grid, width): linear with the corners kept, the class token as it is.

    Equal to the official scipy.ndimage.zoom(order=1) (vit_jax/checkpoint.py:208) to 2e-6.
    """
    old = token_grid(table.shape[1])
    if old == grid:
        return table
    image = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(grid, grid), mode="bilinear", align_corners=True, antialias=False)
    return torch.cat([table[:, :1], image.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)], dim=1)
