"""Official .npz checkpoints as arrays: load them into a model, check that they fit, and make them from one.

The arrays of a file and the parameters of the timm model are the same numbers in other layouts; `tensor_map` lists
the pairs once, and loading, writing and checking all follow it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.checkpoint_files import Arrays
from vit_trainer.errors import CheckpointError

Layout = Literal["same", "flat", "conv", "dense", "heads_in", "heads_in_bias", "heads_out"]

POSITION_EMBEDDING = "Transformer/posembed_input/pos_embedding"


@dataclass(frozen=True)
class Pair:
    """An array of the file and the parameter that holds the same numbers."""

    array: str
    parameter: str
    layout: Layout = "same"
    third: int | None = None
    """Which third of timm's joint query, key and value parameter; None: all of the parameter."""


def tensor_map(architecture: Architecture, *, pre_logits: bool = False, head: bool = True) -> list[Pair]:
    """Every pair of (array in the .npz, parameter of the model), in the order of the forward pass."""
    pairs = []
    if architecture.resnet_stages:
        backbone = "patch_embed.backbone"
        pairs.append(Pair("conv_root/kernel", f"{backbone}.stem.conv.weight", "conv"))
        pairs += _norm("gn_root", f"{backbone}.stem.norm", "flat")
        for stage, num_units in enumerate(architecture.resnet_stages):
            for unit in range(num_units):
                there, here = f"block{stage + 1}/unit{unit + 1}", f"{backbone}.stages.{stage}.blocks.{unit}"
                names = {"conv1": "gn1", "conv2": "gn2", "conv3": "gn3"} | (
                    {"conv_proj": "gn_proj"} if unit == 0 else {}
                )
                for conv, norm in names.items():
                    conv_here = "downsample.conv" if conv == "conv_proj" else conv
                    norm_here = "downsample.norm" if conv == "conv_proj" else conv.replace("conv", "norm")
                    pairs.append(Pair(f"{there}/{conv}/kernel", f"{here}.{conv_here}.weight", "conv"))
                    pairs += _norm(f"{there}/{norm}", f"{here}.{norm_here}", "flat")
    pairs.append(Pair("embedding/kernel", "patch_embed.proj.weight", "conv"))
    pairs.append(Pair("embedding/bias", "patch_embed.proj.bias"))
    pairs.append(Pair("cls", "cls_token"))
    pairs.append(Pair(POSITION_EMBEDDING, "pos_embed"))
    for block in range(architecture.depth):
        there, here = f"Transformer/encoderblock_{block}", f"blocks.{block}"
        attention = f"{there}/MultiHeadDotProductAttention_1"
        pairs += _norm(f"{there}/LayerNorm_0", f"{here}.norm1")
        for third, name in enumerate(("query", "key", "value")):
            pairs.append(Pair(f"{attention}/{name}/kernel", f"{here}.attn.qkv.weight", "heads_in", third))
            pairs.append(Pair(f"{attention}/{name}/bias", f"{here}.attn.qkv.bias", "heads_in_bias", third))
        pairs.append(Pair(f"{attention}/out/kernel", f"{here}.attn.proj.weight", "heads_out"))
        pairs.append(Pair(f"{attention}/out/bias", f"{here}.attn.proj.bias"))
        pairs += _norm(f"{there}/LayerNorm_2", f"{here}.norm2")
        pairs += _dense(f"{there}/MlpBlock_3/Dense_0", f"{here}.mlp.fc1")
        pairs += _dense(f"{there}/MlpBlock_3/Dense_1", f"{here}.mlp.fc2")
    pairs += _norm("Transformer/encoder_norm", "norm")
    if pre_logits:
        pairs += _dense("pre_logits", "head.pre_logits")
    if head:
        pairs += _dense("head", "head.head" if pre_logits else "head")
    return pairs


def _norm(there: str, here: str, layout: Layout = "same") -> list[Pair]:
    return [Pair(f"{there}/scale", f"{here}.weight", layout), Pair(f"{there}/bias", f"{here}.bias", layout)]


def _dense(there: str, here: str) -> list[Pair]:
    return [Pair(f"{there}/kernel", f"{here}.weight", "dense"), Pair(f"{there}/bias", f"{here}.bias")]


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


def export_arrays(model: VisionTransformer, architecture: Architecture) -> Arrays:
    """The model's weights under the released array names and layouts, as float32."""
    parameters = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    arrays: Arrays = {}
    for pair in tensor_map(architecture, pre_logits=isinstance(model.head, nn.Sequential)):
        parameter = parameters[pair.parameter]
        if pair.third is not None:
            parameter = np.split(parameter, 3)[pair.third]
        arrays[pair.array] = np.ascontiguousarray(_to_array(parameter, pair.layout, architecture.num_heads))
    return arrays


def looks_like(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """The name of the model whose file this seems to be, for error messages."""
    kernel = arrays.get("embedding/kernel")
    if kernel is None:
        return "no Vision Transformer"
    depth = sum(name.endswith("/LayerNorm_0/scale") for name in arrays)
    for name, architecture in MODELS.items():
        shape = (architecture.patch_size, architecture.patch_size, architecture.patch_channels, architecture.width)
        if kernel.shape == shape and depth == architecture.depth:
            return name
    return f"a model with patch {kernel.shape[0]}, width {kernel.shape[-1]} and depth {depth}"


def load_arrays(
    model: VisionTransformer,
    architecture: Architecture,
    arrays: Mapping[str, NDArray[np.float32]],
    *,
    keep_head: bool = False,
    source: str = "the checkpoint",
) -> None:
    """Copy official arrays into a model from `build_model`, resizing position embeddings to its resolution.

    Args:
        keep_head: load the file's head (and `pre_logits`, if the model has it); otherwise the head stays zero.
        source: what to call the arrays in errors.

    Raises:
        CheckpointError: an array is missing or has another shape; the model stays as it was.
    """
    pre_logits = isinstance(model.head, nn.Sequential)
    target = model.state_dict()
    loaded: dict[str, list[Tensor]] = {}
    for pair in tensor_map(architecture, pre_logits=pre_logits and keep_head, head=keep_head):
        if pair.array not in arrays:
            raise CheckpointError(
                f"{source} lacks {pair.array}; it looks like {looks_like(arrays)}: give the right file"
            )
        array = arrays[pair.array]
        if array.dtype != np.float32:
            raise CheckpointError(f"{source}: {pair.array} is {array.dtype}, not float32: give an official file")
        expected = target[pair.parameter].shape
        if pair.third is not None:
            expected = torch.Size([expected[0] // 3, *expected[1:]])
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(_to_parameter(array, pair.layout)))
        except ValueError:
            tensor = torch.empty(0)  # too few dimensions for the layout
        if pair.array == POSITION_EMBEDDING and tensor.ndim == 3 and tensor.shape[-1] == architecture.width:
            tensor = resize_position_embedding(tensor, token_grid(expected[1]))
        if tensor.shape != expected:
            raise CheckpointError(
                f"{source}: {pair.array} has shape {array.shape}, which does not fit; "
                f"it looks like {looks_like(arrays)}"
            )
        loaded.setdefault(pair.parameter, []).append(tensor)
    model.load_state_dict({name: torch.cat(parts) for name, parts in loaded.items()}, strict=False)


def token_grid(num_tokens: int) -> int:
    """Side of the square grid of `num_tokens` tokens, one of which is the class token."""
    return math.isqrt(num_tokens - 1)


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
