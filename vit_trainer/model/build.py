"""build_model(): a timm Vision Transformer with the official numerics.

What timm does differently from google-research/vision_transformer is repaired here, always: tanh GELU, weight
standardisation with epsilon outside the root, GroupNorm epsilon 1e-6, dropout at the official places, zero head.
"""

from collections import OrderedDict
from contextlib import nullcontext
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import GroupNormAct, HybridEmbed, StdConv2dSame, pad_same
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils import skip_init

from vit_trainer.architectures import Architecture
from vit_trainer.model.dropout import DropoutKeys, replace_dropout


class OfficialStdConv(StdConv2dSame):  # type: ignore[misc]
    """Convolution with weights standardised as (w - mean) / (std + 1e-5), per output channel, 'SAME' padding.

    timm adds its epsilon to the variance instead. Source: vit_jax/models_resnet.py:27.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        if self.same_pad:
            x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        # Autocast leaves all of this in float32; only the convolution is in lower precision.
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.std((1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / (std + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PatchProjection(nn.Conv2d):
    """A convolution over patches that don't overlap, on GPUs as one matrix product.

    With 3 channels their convolutions aren't channels-last, and leave tokens transposed to how the encoder reads them.
    """

    def forward(self, images: Tensor) -> Tensor:
        """images: (batch, channels, height, width) -> (batch, width of a token, height / patch, width / patch)."""
        return super().forward(images) if images.device.type == "cpu" else self.as_product(images)

    def as_product(self, images: Tensor) -> Tensor:
        """The same, each patch a row and each kernel a column."""
        (rows, columns), (side, _) = images.shape[2:], self.kernel_size
        rows, columns = rows // side, columns // side
        images = images[:, :, : rows * side, : columns * side]  # ViT-H_14 leaves the last pixels at 384
        patches = images.unflatten(2, (rows, side)).unflatten(4, (columns, side)).permute(0, 2, 4, 1, 3, 5)
        tokens = F.linear(patches.flatten(3).flatten(1, 2), self.weight.flatten(1), self.bias)
        by_place: Tensor = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        return by_place


class Float32Linear(nn.Linear):
    """A head whose logits have its weights' precision also under autocast: in bfloat16 many of 1,000 would be equal."""

    def forward(self, features: Tensor) -> Tensor:
        """features: (batch, width) any float type -> (batch, num_classes) float32, as the weights are."""
        shapes_alone = features.is_meta  # which autocast doesn't know
        with nullcontext() if shapes_alone else torch.autocast(features.device.type, enabled=False):
            # A copy: a view would keep every token's features for the backward pass.
            return F.linear(features.to(self.weight.dtype).contiguous(), self.weight, self.bias)


def _resnet(architecture: Architecture) -> ResNetV2:
    stages = architecture.resnet_stages or ()
    root = int(64 * architecture.resnet_width_factor)
    return ResNetV2(
        layers=stages,
        channels=tuple(4 * root * 2**stage for stage in range(len(stages))),
        stem_chs=root,
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=OfficialStdConv,
        norm_layer=partial(GroupNormAct, num_groups=32, eps=1e-6),
    )


def build_model(
    architecture: Architecture,
    *,
    num_classes: int,
    resolution: int,
    dropout: float = 0.0,
    representation_size: int | None = None,
) -> VisionTransformer:
    """A model with random weights and a zero head: images (batch, 3, R, R) in [-1, 1] -> logits (batch, num_classes).

    Args:
        architecture: usually MODELS[name].
        num_classes: outputs of the head.
        resolution: side of the images in pixels.
        dropout: probability in [0, 1), never applied to attention weights or the head.
        representation_size: features of a tanh layer before the head (`pre_logits` of the 21k checkpoints); fine-tuning
            has none.
    """
    options: dict[str, Any] = {
        "img_size": resolution,
        "patch_size": architecture.patch_size,
        "embed_dim": architecture.width,
        "depth": architecture.depth,
        "num_heads": architecture.num_heads,
        "mlp_ratio": architecture.mlp_dim / architecture.width,
        "num_classes": num_classes,
        "act_layer": "gelu_tanh",
        "pos_drop_rate": dropout,
        "proj_drop_rate": dropout,
    }
    if architecture.resnet_stages:
        options["embed_layer"] = partial(HybridEmbed, backbone=_resnet(architecture))
    model = timm.create_model("vit_base_patch16_224", pretrained=False, **options)
    assert isinstance(model, VisionTransformer)
    if not architecture.resnet_stages:
        conv = model.patch_embed.proj
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
        model.patch_embed.proj = skip_init(PatchProjection, *sizes, device=conv.weight.device)
        model.patch_embed.proj.weight, model.patch_embed.proj.bias = conv.weight, conv.bias
    device = model.head.weight.device
    output = model.head = skip_init(Float32Linear, architecture.width, num_classes, device=device)
    if representation_size is not None:
        pre_logits = nn.Linear(architecture.width, representation_size)
        output = skip_init(Float32Linear, representation_size, num_classes, device=device)
        model.head = nn.Sequential(OrderedDict(pre_logits=pre_logits, tanh=nn.Tanh(), head=output))
    nn.init.zeros_(output.weight)
    nn.init.zeros_(output.bias)
    model.dropout_keys = replace_dropout(model, dropout)
    return model


def dropout_keys_of(model: nn.Module) -> DropoutKeys:
    """Where the keys of the current micro-batch are set for a model from `build_model`."""
    keys = model.dropout_keys
    assert isinstance(keys, DropoutKeys)
    return keys
