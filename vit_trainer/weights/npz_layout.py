"""What is in an official .npz: array names, their shapes, and the timm parameters that hold the same numbers.

Everything follows from the Architecture, so a file can be checked by its headers, before anything large is read or
built. Standard library only.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.errors import CheckpointError

Layout = Literal["same", "flat", "conv", "dense", "heads_in", "heads_in_bias", "heads_out"]

Shape = tuple[int | None, ...]
"""The shape of an array; None where the architecture leaves a size open (tokens, classes, representation)."""

Shapes = Mapping[str, tuple[int, ...]]
"""Array names of a file and the shapes of its arrays."""

POSITION_EMBEDDING = "Transformer/posembed_input/pos_embedding"
MAX_SIZE = 65_535
"""Of what a file may choose: tokens, classes and the width of `pre_logits`."""


@dataclass(frozen=True)
class Pair:
    """An array of the file and the parameter that holds the same numbers."""

    array: str
    shape: Shape
    """Shape of the array."""
    parameter: str
    layout: Layout = "same"
    third: int | None = None
    """Which third of timm's joint query, key and value parameter; None: all of the parameter."""


@dataclass(frozen=True)
class Contents:
    """What a file that fits its architecture still decides."""

    grid: int
    """Tokens along one side in its position embeddings."""
    representation_size: int | None
    """Features of the tanh layer before the head; None where there is no such layer."""
    num_classes: int | None
    """Outputs of the head; None where there is no head."""

    def resolution(self, architecture: Architecture) -> int:
        """Side in pixels of the images that the position embeddings are for."""
        published = [r for r in architecture.published_resolutions if architecture.grid(r) == self.grid]
        return published[0] if published else self.grid * architecture.stride


def tensor_map(architecture: Architecture, *, pre_logits: bool = False, head: bool = True) -> list[Pair]:
    """Every pair of (array in the .npz, parameter of the model), in the order of the forward pass."""
    width, heads, mlp_dim = architecture.width, architecture.num_heads, architecture.mlp_dim
    pairs = list(_resnet_pairs(architecture))
    patch = architecture.patch_size
    embedding = (patch, patch, architecture.patch_channels, width)
    pairs.append(Pair("embedding/kernel", embedding, "patch_embed.proj.weight", "conv"))
    pairs.append(Pair("embedding/bias", (width,), "patch_embed.proj.bias"))
    pairs.append(Pair("cls", (1, 1, width), "cls_token"))
    pairs.append(Pair(POSITION_EMBEDDING, (1, None, width), "pos_embed"))
    features = (heads, width // heads)
    for block in range(architecture.depth):
        there, here = f"Transformer/encoderblock_{block}", f"blocks.{block}"
        attention = f"{there}/MultiHeadDotProductAttention_1"
        pairs += _norm(f"{there}/LayerNorm_0", (width,), f"{here}.norm1")
        for third, name in enumerate(("query", "key", "value")):
            kernel, bias = f"{attention}/{name}/kernel", f"{attention}/{name}/bias"
            pairs.append(Pair(kernel, (width, *features), f"{here}.attn.qkv.weight", "heads_in", third))
            pairs.append(Pair(bias, features, f"{here}.attn.qkv.bias", "heads_in_bias", third))
        pairs.append(Pair(f"{attention}/out/kernel", (*features, width), f"{here}.attn.proj.weight", "heads_out"))
        pairs.append(Pair(f"{attention}/out/bias", (width,), f"{here}.attn.proj.bias"))
        pairs += _norm(f"{there}/LayerNorm_2", (width,), f"{here}.norm2")
        pairs += _dense(f"{there}/MlpBlock_3/Dense_0", width, mlp_dim, f"{here}.mlp.fc1")
        pairs += _dense(f"{there}/MlpBlock_3/Dense_1", mlp_dim, width, f"{here}.mlp.fc2")
    pairs += _norm("Transformer/encoder_norm", (width,), "norm")
    if pre_logits:
        pairs += _dense("pre_logits", width, None, "head.pre_logits")
    if head:
        pairs += _dense("head", None if pre_logits else width, None, "head.head" if pre_logits else "head")
    return pairs


def _resnet_pairs(architecture: Architecture) -> Iterator[Pair]:
    if not architecture.resnet_stages:
        return
    backbone = "patch_embed.backbone"
    root = int(64 * architecture.resnet_width_factor)
    yield Pair("conv_root/kernel", (7, 7, 3, root), f"{backbone}.stem.conv.weight", "conv")
    yield from _norm("gn_root", (1, 1, 1, root), f"{backbone}.stem.norm", "flat")
    units = iter(architecture.resnet_units())
    for stage, num_units in enumerate(architecture.resnet_stages):
        for unit in range(num_units):
            there, here = f"block{stage + 1}/unit{unit + 1}", f"{backbone}.stages.{stage}.blocks.{unit}"
            inputs, bottleneck, outputs, _, projects = next(units)
            layers = [  # array, parameter, side of the kernel, channels in and out
                ("1", "1", 1, inputs, bottleneck),
                ("2", "2", 3, bottleneck, bottleneck),
                ("3", "3", 1, bottleneck, outputs),
            ]
            if projects:
                layers.append(("_proj", "downsample.", 1, inputs, outputs))
            for suffix, part, side, channels_in, channels_out in layers:
                conv, norm = (f"{part}conv", f"{part}norm") if suffix == "_proj" else (f"conv{part}", f"norm{part}")
                kernel = (side, side, channels_in, channels_out)
                yield Pair(f"{there}/conv{suffix}/kernel", kernel, f"{here}.{conv}.weight", "conv")
                yield from _norm(f"{there}/gn{suffix}", (1, 1, 1, channels_out), f"{here}.{norm}", "flat")


def _norm(there: str, shape: Shape, here: str, layout: Layout = "same") -> list[Pair]:
    return [
        Pair(f"{there}/scale", shape, f"{here}.weight", layout),
        Pair(f"{there}/bias", shape, f"{here}.bias", layout),
    ]


def _dense(there: str, inputs: int | None, outputs: int | None, here: str) -> list[Pair]:
    return [
        Pair(f"{there}/kernel", (inputs, outputs), f"{here}.weight", "dense"),
        Pair(f"{there}/bias", (outputs,), f"{here}.bias"),
    ]


def token_grid(num_tokens: int) -> int:
    """Side of the square grid of `num_tokens` tokens, one of which is the class token."""
    return math.isqrt(num_tokens - 1)


def check_fits(shapes: Shapes, architecture: Architecture, *, source: str = "the checkpoint") -> Contents:
    """Check that a file with these arrays holds an architecture's weights, with or without a head.

    Args:
        source: what to call the file in errors.

    Raises:
        CheckpointError: an array is missing, has another shape, or belongs to another model; says which model the
            file looks like.
    """
    problem = _misfit(shapes, architecture)
    if problem is not None:
        wanted = next((name for name, known in MODELS.items() if known == architecture), "this model")
        seen = looks_like(shapes)
        if seen == wanted:
            if problem.startswith("it holds"):
                raise CheckpointError(
                    f"{source} is of another architecture than {wanted}: {problem}; give another file"
                )
            raise CheckpointError(f"{source} is a damaged {wanted} file: {problem}; fetch it again")
        hint = f", or choose model {seen}" if seen in MODELS else ""
        raise CheckpointError(
            f"{source} does not fit {wanted}: {problem}; it looks like {seen}; give a file of {wanted}{hint}"
        )
    head, pre_logits = shapes.get("head/kernel"), shapes.get("pre_logits/kernel")
    return Contents(
        grid=token_grid(shapes[POSITION_EMBEDDING][1]),
        representation_size=pre_logits[1] if head and pre_logits else None,
        num_classes=head[1] if head else None,
    )


def looks_like(shapes: Shapes) -> str:
    """The name of the model whose file this seems to be, or a description of it, for error messages."""
    kernel = shapes.get("embedding/kernel")
    if kernel is None or len(kernel) != 4:
        return "no Vision Transformer"
    for name, architecture in MODELS.items():
        if _misfit(shapes, architecture) is None:
            return name
    depth = sum(name.endswith("/LayerNorm_0/scale") for name in shapes)
    for name, architecture in MODELS.items():  # something is missing, or too much
        patch = architecture.patch_size
        if kernel == (patch, patch, architecture.patch_channels, architecture.width) and depth == architecture.depth:
            return name
    kind = "a hybrid" if "conv_root/kernel" in shapes else "a Vision Transformer"
    return f"{kind} of patch {kernel[0]}, width {kernel[3]} and depth {depth}"


def _misfit(shapes: Shapes, architecture: Architecture) -> str | None:
    """The first thing that tells a file's arrays from an architecture's; None if they agree."""
    has_head = "head/kernel" in shapes or "head/bias" in shapes
    has_pre_logits = has_head and any(name.startswith("pre_logits/") for name in shapes)
    pairs = tensor_map(architecture, pre_logits=has_pre_logits, head=has_head)
    for pair in pairs:
        if pair.array not in shapes:
            return f"it lacks {pair.array}"
        shape = shapes[pair.array]
        if len(shape) != len(pair.shape) or any(
            size != expected and (expected is not None or not 1 <= size <= MAX_SIZE)
            for size, expected in zip(shape, pair.shape, strict=True)
        ):
            return f"{pair.array} has shape {shape}, not {_written(pair.shape)}"
    tokens = shapes[POSITION_EMBEDDING][1]
    if tokens < 2 or token_grid(tokens) ** 2 + 1 != tokens:
        return f"{POSITION_EMBEDDING} has {tokens} tokens, which is no square and a class token"
    if has_head:
        inputs, outputs = shapes["head/kernel"]
        if shapes["head/bias"] != (outputs,):
            return f"head/bias has shape {shapes['head/bias']}, not {(outputs,)}"
        if has_pre_logits and not shapes["pre_logits/kernel"][1:] == shapes["pre_logits/bias"] == (inputs,):
            return f"pre_logits/bias has shape {shapes['pre_logits/bias']}, not {(inputs,)}"
    known = {pair.array for pair in pairs}
    for name in shapes:
        is_timms = "." in name or name.endswith("_token")
        if (is_timms or name.startswith(("Transformer/", "block", "conv_root/", "gn_root/"))) and name not in known:
            return f"it holds {name} as well"
    return None


def _written(shape: Shape) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    return f"({sizes},)" if len(shape) == 1 else f"({sizes})"
