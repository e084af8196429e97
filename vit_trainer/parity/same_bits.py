"""Rungs of equal bits, which need no golden values: dropout masks on any device, and a run that was interrupted."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.randomness import dropout_keys
from vit_trainer.errors import InputError, RunInterruptedError
from vit_trainer.files.run_dir import RunDir
from vit_trainer.model.dropout import DropoutKeys, ImageDropout
from vit_trainer.parity.rung import CPU, Rung, Setting
from vit_trainer.train import train

MASK_SIZES = (577 * 768, 145 * 3072, 1001)
"""Activations of an image: those of B_16's residual stream at 384 px, of B_32's MLP, and an odd number."""
NUM_STEPS, LAST_STEP = 6, 3
"""Optimiser steps of the run, and the one after which it is interrupted."""


def dropout_masks(setting: Setting = CPU) -> Iterator[Rung]:
    """Each mask as GPUs compute it, on the device, against the CPU's; the error counts the places that differ."""
    keys = torch.from_numpy(dropout_keys(0, 3, slice(0, 16)).copy())
    error = 0
    for site, size in enumerate(MASK_SIZES):
        dropout = ImageDropout(0.1, site, DropoutKeys())
        compute = torch.compile(dropout.kept_by_place, dynamic=False) if setting.compiled else dropout.kept_by_place
        error += int((compute(keys.to(setting.device), size).cpu() != dropout.kept(keys, size)).sum())
    yield Rung(f"{'compiled ' if setting.compiled else ''}dropout masks: as on the CPU", error, 0)


def resume() -> Iterator[Rung]:
    """A miniature trained with `deterministic`, whole and interrupted, on the GPU if this process may use one.

    The error is the largest difference of a loss or a final weight.
    """
    config = FinetuneConfig.official(
        "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=NUM_STEPS, warmup_steps=2, global_batch_size=16
    )
    execution = Execution(deterministic=True, compile=False, num_evaluations=1, log_every_steps=1, save_weights=True)
    with TemporaryDirectory() as folder:
        whole, broken = RunDir(Path(folder) / "whole"), RunDir(Path(folder) / "broken")
        asked = 0

        def interrupted() -> bool:
            nonlocal asked
            asked += 1
            return asked == LAST_STEP

        try:
            train(config, whole, execution)
            try:
                train(config, broken, execution, interrupted=interrupted)
            except RunInterruptedError:
                train(config, RunDir(broken.location), execution)
        except InputError as refused:
            yield Rung("resume: the bits of an uninterrupted run", np.inf, 0, note=str(refused))
            return
        one, other = _end(whole), _end(broken)
        error = float(np.max([float((one[name] - other[name]).abs().max()) for name in one]))
    yield Rung("resume: the bits of an uninterrupted run", error, 0)


def _end(run_dir: RunDir) -> dict[str, Tensor]:
    """Final weights, and the losses of all steps."""
    with run_dir.weights() as path:
        assert path is not None
        weights = load_file(path)
    return weights | {"losses": torch.tensor([row["train/loss"] for row in run_dir.journal()], dtype=torch.float64)}
