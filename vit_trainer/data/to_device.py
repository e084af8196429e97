"""to_device(): small arrays from NumPy to where a model is."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor on the device, which isn't waited for.

    A GPU copies by itself only from pinned memory; for any other, the driver may first wait for what is queued.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
