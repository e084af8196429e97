"""TrainState: exactly what must survive a restart, in one file that is whole or not there.

Image order, augmentation, dropout and learning rate are functions of the step, so they are not here.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vit_trainer.errors import CheckpointError
from vit_trainer.files.run_dir import Row
from vit_trainer.loop.optim import OfficialSGD


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

    def __init__(self, model: nn.Module, optimizer: OfficialSGD) -> None:
        self.model = model
        self.optimizer = optimizer
        self.progress = Progress()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        return tensors | {f"momentum/{i}": tensor for i, tensor in enumerate(self.optimizer.momentum)}

    def to_bytes(self) -> bytes:
        """The whole state as the content of a safetensors file."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        return save(tensors, metadata={"progress": json.dumps(asdict(self.progress))})

    def restore(self, path: Path) -> None:
        """Take over the state in a file; nothing is changed if that fails.

        Raises:
            CheckpointError: the file is damaged, or of another run.
        """
        tensors = self._tensors()
        try:
            with safe_open(path, framework="pt") as file:
                loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
                progress = Progress(**json.loads(file.metadata()["progress"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint is damaged: {error}") from error
        if {name: tensor.shape for name, tensor in loaded.items()} != {
            n: tensor.shape for n, tensor in tensors.items()
        }:
            raise CheckpointError("the checkpoint is of another model")
        for name, tensor in tensors.items():
            tensor.data.copy_(loaded[name])
        self.progress = progress
