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
from vit_trainer.optim import OfficialSGD
from vit_trainer.run_dir import Row, write_atomically


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimiser steps taken."""
    seconds: float = 0.0
    """Time spent in training and evaluation, over all attempts."""
    gpu_seconds: float = 0.0
    """The same times the number of GPUs."""
    row: Row | None = None
    """The journal's row of this step, so that a crash between checkpoint and journal loses nothing."""


class TrainState:
    """A run's model, optimiser and progress."""

    def __init__(self, model: nn.Module, optimizer: OfficialSGD) -> None:
        self.model = model
        self.optimizer = optimizer
        self.progress = Progress()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        return tensors | {f"momentum/{i}": tensor for i, tensor in enumerate(self.optimizer.momentum)}

    def save(self, path: Path) -> None:
        """Put the state in place, replacing an older one."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, save(tensors, metadata={"progress": json.dumps(asdict(self.progress))}))

    def restore(self, path: Path) -> bool:
        """Take over the state at `path`; False if there is none.

        Raises:
            CheckpointError: the file is damaged, or of another run.
        """
        if not path.is_file():
            return False
        tensors = self._tensors()
        try:
            with safe_open(path, framework="pt") as file:
                if set(file.keys()) != set(tensors):
                    raise CheckpointError(f"{path} is the state of another model: move it away")
                loaded = {name: file.get_tensor(name) for name in tensors}
                progress = Progress(**json.loads(file.metadata()["progress"]))
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged ({error}): move it away to start the trial anew") from error
        for name, tensor in tensors.items():
            tensor.data.copy_(loaded[name])
        self.progress = progress
        return True
