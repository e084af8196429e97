"""python -m vit_trainer pretrain-mini: the checkpoints of the miniatures, made anew."""

from pathlib import Path

from vit_trainer.architectures import MODELS
from vit_trainer.errors import InputError, one_of, reason_of


def pretrain_mini(*models: str, output: Path | None = None, total_steps: int | None = None) -> None:
    """Make the miniature checkpoints anew: train on digits that no fine-tuning sees, write official-format .npz files.

    Parameters
    ----------
    models
        Names that end in -mini; all of them unless given.
    output
        Folder for the files; the project's own unless given.
    total_steps
        Optimiser steps of 64 images, at least 10; enough for each unless given.
    """
    miniatures = [name for name, architecture in MODELS.items() if architecture.is_miniature]
    for name in models:
        if name not in miniatures:
            raise one_of("miniature", name, miniatures)
    if total_steps is not None and total_steps < 10:
        raise InputError(f"total-steps {total_steps} is below 10, too few to warm up in: give such as 4000")
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {output} ({reason_of(error)}): give another --output") from error
    from vit_trainer.pretrain import pretrain_miniature
    from vit_trainer.weights.npz_files import MINIATURES

    for name in models or miniatures:
        path = (output or MINIATURES) / f"{name}.npz"
        accuracy = pretrain_miniature(name, path, total_steps=total_steps)
        print(f"{path}: {100 * accuracy:.1f}% of the held-out digits", flush=True)
