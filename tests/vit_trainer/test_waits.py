"""Between two rows of the journal nothing asks the device for a value, so that it never runs out of work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.loop.ledger import Ledger
from vit_trainer.loop.step import Gradients
from vit_trainer.train import train

ASKING = ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__")
ASKING_BELOW = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


class Watch(TorchDispatchMode):
    """Notes what asks a tensor for its values while the loop is between two rows."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.between_rows = False
        self.asked: list[str] = []
        self.num_steps = 0
        for name in ASKING:
            patch.setattr(torch.Tensor, name, self._noted(name, getattr(torch.Tensor, name)))
        compute, mean_loss = Gradients.compute, Ledger.mean_loss

        def step_begins(gradients: Gradients, step: int) -> torch.Tensor | None:
            self.between_rows = True
            self.num_steps += 1
            return compute(gradients, step)

        def row_begins(ledger: Ledger) -> float:
            self.between_rows = False
            return mean_loss(ledger)

        patch.setattr(Gradients, "compute", step_begins)
        patch.setattr(Ledger, "mean_loss", row_begins)

    def _noted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            if self.between_rows:
                self.asked.append(name)
            return method(*args, **kwargs)

        return noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.between_rows and func.overloadpacket.__name__ in ASKING_BELOW:
            self.asked.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def train_watched(tmp_path: Path, patch: pytest.MonkeyPatch) -> Watch:
    config = FinetuneConfig.official(
        "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=6, warmup_steps=2, global_batch_size=16
    )
    execution = Execution(micro_batch_size=8, num_evaluations=1, log_every_steps=3, compile=False)
    watch = Watch(patch)
    with watch:
        train(config, RunDir(tmp_path), execution)
    assert [row["step"] for row in RunDir(tmp_path).rows()] == [3, 6]
    assert watch.num_steps == 6
    return watch


def test_nothing_waits_for_the_device_between_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_watched(tmp_path, monkeypatch).asked == []


def test_a_look_at_each_loss_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_step = Ledger.add_step

    def curious(ledger: Ledger, loss: torch.Tensor) -> None:
        add_step(ledger, loss)
        if loss > 100:
            print("that is much")

    monkeypatch.setattr(Ledger, "add_step", curious)
    asked = train_watched(tmp_path, monkeypatch).asked
    assert asked.count("__bool__") == 6
    assert asked.count("_local_scalar_dense") == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks CUDA itself")
def test_cuda_sees_no_wait_in_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Gradients.compute

    def strict(gradients: Gradients, step: int) -> torch.Tensor | None:
        torch.cuda.set_sync_debug_mode("error" if step > 0 else "default")
        try:
            return compute(gradients, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Gradients, "compute", strict)
    train_watched(tmp_path, monkeypatch)
