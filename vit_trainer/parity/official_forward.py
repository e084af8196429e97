"""The official forward pass in float64, layer by layer from a checkpoint's arrays: finds where a model leaves it.

Written from vit_jax/models_vit.py and models_resnet.py at google-research/vision_transformer c6de1e5, and meant to
share nothing with model/build.py but the names. In float64 rounding is far below any difference in what is computed.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vit_trainer.architectures import Architecture
from vit_trainer.weights.npz_layout import POSITION_EMBEDDING, tensor_map

EPSILON = 1e-6
"""Epsilon of layer and group normalisation alike."""

TOLERANCE = 1e-9
"""Largest error of a layer that computes the same, relative to its largest value."""

RESIZED_TOLERANCE = 1e-6
"""Largest such error where the model has resized its position embeddings, which it does in float32."""

Layers = Iterator[tuple[str, Tensor]]


def official_layers(
    architecture: Architecture, arrays: Mapping[str, NDArray[np.float32]], images: NDArray[np.float32]
) -> Layers:
    """Official layer names and what they give, in order; the last is `head`, and `gelu` and `relu` are named too.

    Args:
        arrays: of a released checkpoint; `pre_logits` is used where it is there.
        images: (batch, 3, R, R) in [-1, 1].
    """
    weights = {name: torch.from_numpy(array).double() for name, array in arrays.items()}
    x = torch.from_numpy(images).double()
    if architecture.resnet_stages:
        for name, features in _resnet(architecture, weights, x):
            yield name, features
        x = features
    x = _conv(x, weights["embedding/kernel"], architecture.patch_size, padding="VALID")
    x = x + weights["embedding/bias"][:, None, None]
    yield "embedding", x
    positions = weights[POSITION_EMBEDDING]
    x = torch.cat([weights["cls"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    x = x + torch.cat([positions[:, :1], _zoomed(positions[:, 1:], x.shape[1] - 1)], dim=1)
    yield "Transformer/posembed_input", x
    for block in range(architecture.depth):
        name = f"Transformer/encoderblock_{block}"
        y = _layer_norm(x, weights, f"{name}/LayerNorm_0")
        yield f"{name}/LayerNorm_0", y
        y = _attention(y, weights, f"{name}/MultiHeadDotProductAttention_1")
        yield f"{name}/MultiHeadDotProductAttention_1/out", y
        x = x + y
        y = _layer_norm(x, weights, f"{name}/LayerNorm_2")
        yield f"{name}/LayerNorm_2", y
        y = _dense(y, weights, f"{name}/MlpBlock_3/Dense_0")
        yield f"{name}/MlpBlock_3/Dense_0", y
        y = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
        yield f"{name}/MlpBlock_3/gelu", y
        y = _dense(y, weights, f"{name}/MlpBlock_3/Dense_1")
        yield f"{name}/MlpBlock_3/Dense_1", y
        x = x + y
        yield name, x
    x = _layer_norm(x, weights, "Transformer/encoder_norm")
    yield "Transformer/encoder_norm", x
    x = x[:, 0]
    if "pre_logits/kernel" in weights:
        x = _dense(x, weights, "pre_logits")
        yield "pre_logits", x
        x = torch.tanh(x)
    yield "head", _dense(x, weights, "head")


def _resnet(architecture: Architecture, weights: dict[str, Tensor], x: Tensor) -> Layers:
    x = _conv(x, _standardised(weights["conv_root/kernel"]), 2)
    yield "conv_root", x
    x = _group_norm(x, weights, "gn_root").relu()
    yield "gn_root", x
    x = F.max_pool2d(_same_padded(x, 3, 2, value=-torch.inf), 3, 2)
    for stage, num_units in enumerate(architecture.resnet_stages or ()):
        for unit in range(num_units):
            name, stride = f"block{stage + 1}/unit{unit + 1}", 2 if stage > 0 and unit == 0 else 1
            y, shortcut = x, x
            for i, step in ((1, 1), (2, stride), (3, 1)):
                y = _conv(y, _standardised(weights[f"{name}/conv{i}/kernel"]), step)
                yield f"{name}/conv{i}", y
                y = _group_norm(y, weights, f"{name}/gn{i}")
                y = y.relu() if i < 3 else y
                yield f"{name}/gn{i}", y
            if f"{name}/conv_proj/kernel" in weights:
                shortcut = _conv(x, _standardised(weights[f"{name}/conv_proj/kernel"]), stride)
                yield f"{name}/conv_proj", shortcut
                shortcut = _group_norm(shortcut, weights, f"{name}/gn_proj")
                yield f"{name}/gn_proj", shortcut
            x = (shortcut + y).relu()
            yield name, x


def _standardised(kernel: Tensor) -> Tensor:
    """kernel: (height, width, in, out); mean 0 and deviation 1 per output channel."""
    mean, std = kernel.mean((0, 1, 2)), kernel.std((0, 1, 2), correction=0)
    return (kernel - mean) / (std + 1e-5)


def _same_padded(x: Tensor, size: int, stride: int, value: float = 0.0) -> Tensor:
    """x: (batch, channels, side, side), padded as TensorFlow's SAME: the odd row goes below and to the right."""
    side = x.shape[-1]
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    before, after = total // 2, total - total // 2
    return F.pad(x, (before, after, before, after), value=value)


def _conv(x: Tensor, kernel: Tensor, stride: int, padding: str = "SAME") -> Tensor:
    x = _same_padded(x, len(kernel), stride) if padding == "SAME" else x
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)


def _group_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    groups = x.unflatten(1, (32, -1))
    mean, variance = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, correction=0)
    scale, bias = (weights[f"{name}/{part}"].reshape(-1, 1, 1) for part in ("scale", "bias"))
    normalised: Tensor = (groups - mean) / (variance + EPSILON).sqrt()
    return normalised.flatten(1, 2) * scale + bias


def _layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / (variance + EPSILON).sqrt() * weights[f"{name}/scale"] + weights[f"{name}/bias"]


def _dense(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def _attention(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    query, key, value = (
        torch.einsum("btd,dhf->bhtf", x, weights[f"{name}/{part}/kernel"]) + weights[f"{name}/{part}/bias"][:, None]
        for part in ("query", "key", "value")
    )
    shares = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    out: Tensor = torch.einsum("bhtf,hfd->btd", shares @ value, weights[f"{name}/out/kernel"])
    return out + weights[f"{name}/out/bias"]


def _zoomed(table: Tensor, num_tokens: int) -> Tensor:
    """table: (1, old * old, width) -> (1, num_tokens, width): linear between the old grid's points, corners kept."""
    old, new = round(table.shape[1] ** 0.5), round(num_tokens**0.5)
    distance = torch.linspace(0, old - 1, new, dtype=torch.float64)[:, None] - torch.arange(old)
    shares = (1 - distance.abs()).clamp(min=0)
    zoomed: Tensor = torch.einsum("io,jp,nopd->nijd", shares, shares, table.unflatten(1, (old, old)))
    return zoomed.flatten(1, 2)


@dataclass(frozen=True)
class LayerError:
    """How far a layer of a model is from the official one."""

    layer: str
    error: float
    """Largest difference relative to the layer's largest value; infinite if it isn't there or has another shape."""
    tolerance: float

    @property
    def differs(self) -> bool:
        return not self.error <= self.tolerance  # so that NaN differs


def layer_errors(
    model: VisionTransformer,
    architecture: Architecture,
    arrays: Mapping[str, NDArray[np.float32]],
    images: NDArray[np.float32],
) -> Iterator[LayerError]:
    """The error of each layer of a model in evaluation mode, in float64 and in the order of the forward pass.

    Small differences that float32 logits hide are seen too, such as a GroupNorm epsilon of 1e-5.
    """
    exact = copy.deepcopy(model).double().eval()
    outputs: dict[str, Tensor] = {}
    for name, module in _modules_of_layers(exact, architecture).items():
        if name == "Transformer/posembed_input":
            module.register_forward_pre_hook(_recorder(outputs, name))
        else:
            module.register_forward_hook(_recorder(outputs, name))
    resized = model.pos_embed.shape != arrays[POSITION_EMBEDDING].shape
    with torch.no_grad():
        exact(torch.from_numpy(images).double().to(model.pos_embed.device))
        for name, expected in official_layers(architecture, arrays, images):
            output = outputs.get(name)
            error = torch.inf
            if output is not None and output.shape == expected.shape:
                error = float((output - expected).abs().max() / expected.abs().max())
            yield LayerError(name, error, RESIZED_TOLERANCE if resized else TOLERANCE)


def _recorder(outputs: dict[str, Tensor], name: str) -> Callable[..., None]:
    def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        outputs[name] = (inputs[0] if output is None else output).cpu()

    return record


def _modules_of_layers(model: VisionTransformer, architecture: Architecture) -> dict[str, nn.Module]:
    """Official layer names and the modules that give the same; `posembed_input` is what the first block is given."""
    pre_logits = isinstance(model.head, nn.Sequential)
    names = {
        pair.array.rpartition("/")[0]: pair.parameter.rpartition(".")[0]
        for pair in tensor_map(architecture, pre_logits=pre_logits)
        if pair.third is None and pair.parameter.endswith((".weight", ".bias"))
    }
    names["Transformer/posembed_input"] = "blocks.0"
    for block in range(architecture.depth):
        names[f"Transformer/encoderblock_{block}/MlpBlock_3/gelu"] = f"blocks.{block}.mlp.act"
        names[f"Transformer/encoderblock_{block}"] = f"blocks.{block}"
    for stage, num_units in enumerate(architecture.resnet_stages or ()):
        for unit in range(num_units):
            names[f"block{stage + 1}/unit{unit + 1}"] = f"patch_embed.backbone.stages.{stage}.blocks.{unit}"
    return {layer: model.get_submodule(module) for layer, module in names.items()}
