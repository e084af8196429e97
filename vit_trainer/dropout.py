"""Dropout whose mask is a function of the image's key, so that it doesn't depend on how a batch is divided."""

import torch
from torch import Tensor, nn


class DropoutKeys:
    """The keys of the images in the current micro-batch, shared by every ImageDropout of a model."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None

    def set(self, keys: Tensor) -> None:
        """keys: (batch,) int32 on the model's device; see randomness.dropout_keys."""
        self.keys = keys


class ImageDropout(nn.Module):
    """Drops activations with probability p and scales the rest by 1 / (1 - p), as nn.Dropout does.

    Element j of image i is kept or dropped by a hash of (key of i, site, j), where torch would use the state of a
    generator: the same image gets the same mask on 1, 2 or 8 processes, on CPU and GPU, and after a resume.
    """

    def __init__(self, p: float, site: int, shared: DropoutKeys) -> None:
        super().__init__()
        self.p = p
        self.site = site
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, ...) any float type; returns the same shape and type."""
        if not self.training:
            return x
        keys = self.shared.keys
        assert keys is not None, "set the micro-batch's dropout keys before its forward pass"
        kept = self.kept(keys, x[0].numel()).view(x.shape)
        return torch.where(kept, x / (1 - self.p), torch.zeros((), dtype=x.dtype, device=x.device))

    def kept(self, keys: Tensor, size: int) -> Tensor:
        """(batch, size) bool: which of the `size` activations of each image stay."""
        index = torch.arange(size, dtype=torch.int32, device=keys.device) * -1640531535  # 2654435761, Knuth's
        bits = _mixed((keys + self.site * 40503)[:, None] ^ index)
        return (bits & 0x7FFFFFFF) >= int(self.p * 2**31)

    def extra_repr(self) -> str:
        return f"p={self.p}, site={self.site}"


def _mixed(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int32: each input bit changes each output bit about half the time."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789  # 0x85EBCA6B
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387  # 0xC2B2AE35
    return x ^ ((x >> 16) & 0xFFFF)


def replace_dropout(model: nn.Module, p: float) -> DropoutKeys:
    """Put an ImageDropout in place of every nn.Dropout of `model` that drops something; numbered in module order."""
    shared = DropoutKeys()
    sites = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p > 0
    ]
    for site, (name, module) in enumerate(sites):
        assert module.p == p, f"{name} drops {module.p}, not {p}"
        model.set_submodule(name, ImageDropout(p, site, shared))
    return shared
