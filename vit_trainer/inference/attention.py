"""Attention of a Vision Transformer: the weights of every head and layer, and their rollout over all layers.

The model itself computes attention in one fused operation that never has the weights. Here they are computed from
what each block really received, by the same projections: softmax(q k^T / sqrt(features of a head)).
"""

from dataclasses import dataclass
from functools import partial

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vit_trainer.weights.npz_layout import token_grid


@dataclass(frozen=True)
class Attended:
    """What a model made of one image."""

    maps: Tensor
    """(layers, heads, tokens, tokens) float32: how much each token (row) takes of each (column); rows sum to 1.

    The first token is the class token, the others are the patches from left to right and top to bottom. A full-size
    image takes up to 1.1 GB: 32 layers, 16 heads and 730 tokens of ViT-H_14 at 384 px.
    """
    logits: Tensor
    """(num_classes,)"""

    def class_maps(self) -> Tensor:
        """What the class token takes of each patch: (layers, heads, grid, grid)."""
        return on_grid(self.maps[:, :, 0])


@torch.inference_mode()
def attend(model: VisionTransformer, image: Tensor) -> Attended:
    """Run a model in evaluation mode on an image (1, 3, R, R) and keep its attention."""
    blocks: list[Attention] = [block.attn for block in model.blocks]
    received: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor]) -> None:
        received.append(inputs[0])

    hooks = [block.register_forward_pre_hook(keep) for block in blocks]
    try:
        logits = model(image)
    finally:
        for hook in hooks:
            hook.remove()
    maps = [attention_weights(block, tokens)[0] for block, tokens in zip(blocks, received, strict=True)]
    return Attended(torch.stack(maps), logits[0])


def attention_weights(attention: Attention, tokens: Tensor) -> Tensor:
    """(batch, tokens, width) as a block's attention receives them -> (batch, heads, tokens, tokens), rows of sum 1."""
    batch, count, _ = tokens.shape
    split = partial(torch.reshape, shape=(batch, count, attention.num_heads, attention.head_dim))
    queries, keys, _ = (split(part).transpose(1, 2) for part in attention.qkv(tokens).chunk(3, dim=-1))
    scores: Tensor = attention.q_norm(queries) * attention.scale @ attention.k_norm(keys).transpose(-2, -1)
    return scores.softmax(-1)


def rollout(maps: Tensor) -> Tensor:
    """How much of each input token (column) reaches each token of the last layer (row), along all paths.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020: per layer, the mean over the heads and as
    much of the residual connection, 0.5 A + 0.5 I; then the product of all layers, the last one on the left.

    Args:
        maps: (layers, heads, tokens, tokens).

    Returns:
        (tokens, tokens) float64, rows of sum 1.
    """
    identity = torch.eye(maps.shape[-1], dtype=torch.float64, device=maps.device)
    flow = identity
    for layer in maps:
        step = 0.5 * layer.double().mean(0) + 0.5 * identity
        flow = step / step.sum(-1, keepdim=True) @ flow  # float32 rows have a sum of 1 but for rounding
    return flow


def on_grid(tokens: Tensor) -> Tensor:
    """Values of all tokens (..., tokens) -> those of the patches as they lie in the image (..., grid, grid)."""
    grid = token_grid(tokens.shape[-1])
    return tokens[..., 1:].reshape(*tokens.shape[:-1], grid, grid)
