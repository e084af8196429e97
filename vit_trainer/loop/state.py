"""TrainState: exactly what must survive a restart, in one safetensors file that is whole or not there.

A checksum over all of it guards against accidents: a disk that zeroes what it lost, a file of another trial.
Image order, augmentation, dropout and learning rate are functions of the step, so they are not here.
"""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vit_trainer.errors import CheckpointError
from vit_trainer.files.run_dir import Row
from vit_trainer.loop.optim import OfficialSGD

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
"""What safetensors calls them."""
NO_CHECKSUM = b"crc32 00000000"
CHUNK = 2**24


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimiser steps taken."""
    seconds: float = 0.0
    """Time spent in training and evaluation, over all attempts."""
    gpu_seconds: float = 0.0
    """`seconds` times the number of GPUs."""
    row: Row | None = None
    """The journal's latest row, so that a crash between checkpoint and journal loses nothing."""
    row_seconds: float = 0.0
    """`seconds` when that row was written."""
    loss_sum: float = 0.0
    """Sum of the losses of the steps since that row."""
    num_summed_steps: int = 0
    """Optimiser steps since that row."""


class TrainState:
    """A run's model, optimiser and progress."""

    def __init__(self, model: nn.Module, optimizer: OfficialSGD, trial_id: str = "", total_steps: int = 2**62) -> None:
        """trial_id, total_steps: of the trial whose state it is; another's isn't taken for it."""
        self._trial_id, self._total_steps = trial_id, total_steps
        self.model = model
        self.optimizer = optimizer
        self.progress = Progress()
        self._copies: dict[str, Tensor] = {}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        return tensors | {f"momentum/{i}": tensor for i, tensor in enumerate(self.optimizer.momentum)}

    def copied(self) -> list[bytes | memoryview]:
        """The whole state as it is now, as the content of a file in parts, to be `sealed`.

        Their bytes lie in one copy in host memory, which the next call overwrites. A GPU's is pinned: it is filled at
        the speed of the bus, and writing it to a file later doesn't concern the GPU.
        """
        tensors = self._tensors()
        if not self._copies:
            # Longer elements first, so that each begins at a multiple of its size.
            for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
                self._copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        metadata = {"trial_id": self._trial_id, "progress": json.dumps(asdict(self.progress))}
        header: dict[str, object] = {"__metadata__": metadata | {"checksum": NO_CHECKSUM.decode()}}
        start = 0
        for name, copy in self._copies.items():
            copy.copy_(tensors[name], non_blocking=True)
            end = start + copy.nbytes
            header[name] = {"dtype": DTYPES[copy.dtype], "shape": list(copy.shape), "data_offsets": [start, end]}
            start = end
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        contents = [copy.view(-1).view(torch.uint8).numpy().data for copy in self._copies.values()]
        return [len(text).to_bytes(8, "little") + text, *contents]

    def restore(self, path: Path) -> None:
        """Take over the state in a file; nothing is changed if that fails.

        Raises:
            CheckpointError: the file is damaged, or of another run.
        """
        tensors = self._tensors()
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                _require_whole(path, metadata.get("checksum"))
                loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            progress = Progress(**json.loads(metadata["progress"]))
            numbers = [value for name, value in vars(progress).items() if name != "row"]
            if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in numbers):
                raise ValueError(f"progress {numbers}")
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint is damaged: {error}") from error
        if (own := metadata.get("trial_id", self._trial_id)) != self._trial_id:
            raise CheckpointError(f"the checkpoint is of {own}")
        if not isinstance(progress.step, int) or progress.step > self._total_steps:
            raise CheckpointError(f"the checkpoint is of step {progress.step}, beyond {self._total_steps}")
        if {name: tensor.shape for name, tensor in loaded.items()} != {
            n: tensor.shape for n, tensor in tensors.items()
        }:
            raise CheckpointError("the checkpoint is of another model")
        for name, tensor in tensors.items():
            tensor.data.copy_(loaded[name])
        self.progress = progress


def sealed(parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """What `TrainState.copied` gave, with its checksum: of all bytes, with zeros in its own place."""
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    header = bytes(parts[0]).replace(NO_CHECKSUM, b"crc32 %08x" % checksum, 1)
    return [header, *parts[1:]]


def _require_whole(path: Path, checksum: str | None) -> None:
    """Raise ValueError unless a file has its checksum; those of earlier versions have none."""
    if checksum is None:
        return
    found = 0
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        found = zlib.crc32(length + header.replace(checksum.encode(), NO_CHECKSUM, 1))
        while chunk := file.read(CHUNK):
            found = zlib.crc32(chunk, found)
    if checksum != f"crc32 {found:08x}":
        raise ValueError("its checksum is another")
