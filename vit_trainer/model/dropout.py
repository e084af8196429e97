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
        # Two products: only the bits are kept for the backward pass, and bfloat16 is rounded once.
        return x * self.kept(keys, x[0].numel()).view(x.shape) * (1 / (1 - self.p))

    def kept(self, keys: Tensor, size: int) -> Tensor:
        """(batch, size) bool: which of the `size` activations of each image stay.

        One hash serves two elements, j by its upper and j + size/2 by its lower 16 bits, so p is met to 2**-17. It is
        written in place and compared as signed, which makes it cheaper than nn.Dropout on a CPU.
        """
        if keys.device.type != "cpu":
            return self.kept_by_place(keys, size)
        half = (size + 1) // 2
        bits = self._bits(keys, torch.arange(half, dtype=torch.int32))
        return torch.cat([bits >= self._bound, (bits << 16)[:, : size - half] >= self._bound], dim=1)

    def kept_by_place(self, keys: Tensor, size: int) -> Tensor:
        """The same masks on a GPU, where one kernel computes each place by itself.

        Inductor computes both parts of a concatenation at every place, which would cost two hashes.
        """
        half = (size + 1) // 2
        place = torch.arange(size, dtype=torch.int32, device=keys.device)
        is_second = place >= half
        bits = self._bits(keys, torch.where(is_second, place - half, place))
        return torch.where(is_second, bits << 16, bits) >= self._bound

    @property
    def _bound(self) -> int:
        """The least signed hash whose activation stays."""
        return min(round(self.p * 2**16), 2**16 - 1) * 2**16 - 2**31

    def _bits(self, keys: Tensor, index: Tensor) -> Tensor:
        """(batch, len(index)) int32: the hashes of (key, site, index)."""
        return _mix_((keys + self.site * 40503)[:, None] ^ (index * -1640531535))  # 2654435761, Knuth's

    def extra_repr(self) -> str:
        return f"p={self.p}, site={self.site}"


def _mix_(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int32, in place: each input bit changes each output bit half the time."""
    x ^= (x >> 16).bitwise_and_(0xFFFF)  # int32 shifts its sign in
    x *= -2048144789  # 0x85EBCA6B
    x ^= (x >> 13).bitwise_and_(0x7FFFF)
    x *= -1028477387  # 0xC2B2AE35
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x


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
