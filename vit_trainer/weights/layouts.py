"""Official arrays as timm's parameters, and back. NumPy alone.

They are the same numbers in other layouts; `tensor_map` lists the pairs once, and loading, writing and checking all
follow it.
"""

from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.weights.npz_layout import Layout, Shapes, tensor_map

Arrays = dict[str, NDArray[np.float32]]
"""Array names of the released files, such as `embedding/kernel`, and their values."""


def _to_parameter(array: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    if layout == "conv":
        return array.transpose(3, 2, 0, 1)  # height, width, in, out -> out, in, height, width
    if layout == "dense":
        return array.T
    if layout in ("flat", "heads_in_bias"):
        return array.reshape(-1)
    if layout == "heads_in":
        return array.reshape(len(array), -1).T  # width, heads, features -> heads * features, width
    if layout == "heads_out":
        return array.reshape(-1, array.shape[-1]).T  # heads, features, width -> width, heads * features
    return array


def _to_array(parameter: NDArray[np.float32], layout: Layout, num_heads: int) -> NDArray[np.float32]:
    if layout == "conv":
        return parameter.transpose(2, 3, 1, 0)
    if layout == "dense":
        return parameter.T
    if layout == "flat":
        return parameter.reshape(1, 1, 1, -1)
    if layout == "heads_in_bias":
        return parameter.reshape(num_heads, -1)
    if layout == "heads_in":
        return parameter.T.reshape(parameter.shape[1], num_heads, -1)
    if layout == "heads_out":
        return parameter.T.reshape(num_heads, -1, len(parameter))
    return parameter


def to_parameters(arrays: Arrays, architecture: Architecture, *, head: bool = True) -> Arrays:
    """Official arrays that fit the architecture as timm's parameters; views of them where possible.

    Args:
        head: whether the head, and `pre_logits` if there is one, is among them.
    """
    pre_logits = head and "pre_logits/kernel" in arrays
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for pair in tensor_map(architecture, pre_logits=pre_logits, head=head):
        parts.setdefault(pair.parameter, []).append(_to_parameter(arrays[pair.array], pair.layout))
    return {name: np.concatenate(part) if len(part) > 1 else part[0] for name, part in parts.items()}


def to_arrays(parameters: Arrays, architecture: Architecture) -> Arrays:
    """timm's parameters as official arrays: the reverse of `to_parameters`, bit for bit."""
    return {name: np.ascontiguousarray(array) for name, array in _arrays(parameters, architecture).items()}


def array_shapes(parameters: Shapes, architecture: Architecture | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes that the official arrays of timm's parameters have; what belongs to none keeps its name and shape.

    Args:
        architecture: None: unknown; shapes of attention's arrays then mean nothing, the others are for `looks_like`.
    """
    if architecture is None:
        base = "R50+ViT-B_16" if "patch_embed.backbone.stem.conv.weight" in parameters else "ViT-B_16"
        depth = len({name.split(".")[1] for name in parameters if name.startswith("blocks.")})
        architecture = replace(MODELS[base], depth=depth)
    stand_ins = {name: np.broadcast_to(np.float32(0), shape) for name, shape in parameters.items()}
    return {name: array.shape for name, array in _arrays(stand_ins, architecture).items()}


def _arrays(parameters: Arrays, architecture: Architecture) -> Arrays:
    """Official arrays as views, as far as their parameters are there and have such shapes; the others as they are."""
    arrays = dict(parameters)
    pre_logits = "head.pre_logits.weight" in parameters
    for pair in tensor_map(architecture, pre_logits=pre_logits, head=pre_logits or "head.weight" in parameters):
        if pair.parameter in parameters:
            arrays.pop(pair.parameter, None)
            parameter = parameters[pair.parameter]
            with suppress(ValueError, IndexError):
                part = parameter if pair.third is None else np.split(parameter, 3)[pair.third]
                parameter = _to_array(part, pair.layout, architecture.num_heads)
            arrays[pair.array] = parameter
    return arrays
