"""python -m vit_trainer train | pretrain-mini | verify"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vit_trainer.command_line import new_app, run
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.run_dir import Row, RunDir

app = new_app("Fine-tunes one Vision Transformer by the official protocol.", name="python -m vit_trainer")

DEFAULT_EXECUTION = Execution()


@app.command
def train(
    *,
    model: str,
    dataset: str,
    upstream: str | None = None,
    resolution: int | None = None,
    dropout: float = 0.0,
    base_lr: float | None = None,
    total_steps: int | None = None,
    warmup_steps: int | None = None,
    global_batch_size: int | None = None,
    seed: int = 0,
    storage: Path = Path("sweep-results"),
    execution: Annotated[Execution, Parameter(name="*")] = DEFAULT_EXECUTION,
) -> None:
    """Run one trial without Ray; what isn't given is the official recipe's.

    Parameters
    ----------
    model
        A name such as ViT-B_16, or ViT-B_16-mini.
    dataset
        A name such as cifar10, or digits-even.
    upstream
        What to start from: imagenet21k, imagenet21k+imagenet2012, digits, scratch.
    resolution
        Side of the input image in pixels.
    dropout
        Probability in [0, 1).
    base_lr
        Learning rate after warm-up.
    total_steps
        Optimiser steps, warm-up included.
    warmup_steps
        Optimiser steps of linear warm-up.
    global_batch_size
        Images per optimiser step.
    seed
        Decides image order, crops, flips and dropout masks.
    storage
        Folder in which the run folder is made.
    """
    from vit_trainer.checkpoint_files import file_upstream, require_checkpoint

    overrides = {
        "upstream": upstream,
        "resolution": resolution,
        "base_lr": base_lr,
        "total_steps": total_steps,
        "warmup_steps": warmup_steps,
        "global_batch_size": global_batch_size,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    if execution.checkpoint is not None:
        given["upstream"] = file_upstream(Path(execution.checkpoint))
    config = FinetuneConfig.official(model, dataset, dropout=dropout, seed=seed, **given)
    if execution.checkpoint is None:
        require_checkpoint(config.model, config.upstream)

    from vit_trainer.train import train as run_trial

    run_dir = RunDir(storage / "runs" / config.trial_id)
    finished = run_dir.result()
    if finished is None or finished["status"] != "finished":
        print(f"{config.trial_id} in {run_dir.path}")
        run_trial(config, run_dir, execution, _print_row)
    result = run_dir.result() or {}
    print(f"test/accuracy {100 * result['test/accuracy']:.2f}% after {result['step']} steps, {run_dir.result_path}")


def _print_row(row: Row) -> None:
    print(
        f"step {row['step']}: train/loss {row['train/loss']:.3f}, val/accuracy {100 * row['val/accuracy']:.2f}%, "
        f"{row['images_per_second']:.0f} images/s",
        flush=True,
    )


@app.command
def pretrain_mini(*models: str, output: Path | None = None, total_steps: int = 6000) -> None:
    """Make the miniature checkpoints anew: train on digits that no fine-tuning sees, write official-format .npz files.

    Parameters
    ----------
    models
        Names that end in -mini; all of them unless given.
    output
        Folder for the files; the project's own unless given.
    total_steps
        Optimiser steps of 64 images.
    """
    from vit_trainer.architectures import MODELS
    from vit_trainer.checkpoint_files import MINIATURES
    from vit_trainer.errors import one_of
    from vit_trainer.pretrain import pretrain_miniature

    miniatures = [name for name in MODELS if name.endswith("-mini")]
    for name in models:
        if name not in miniatures:
            raise one_of("miniature", name, miniatures)
    for name in models or miniatures:
        path = (output or MINIATURES) / f"{name}.npz"
        accuracy = pretrain_miniature(name, path, total_steps=total_steps)
        print(f"{path}: {100 * accuracy:.1f}% of the held-out digits", flush=True)


@app.command
def verify(*, golden: Path | None = None, full: bool = True) -> int:
    """Prove parity: compare every number that matters with what the official code computed.

    Exits with 0 if all hold, 1 if one doesn't.

    Parameters
    ----------
    golden
        Folder of golden values; the one that comes with the project unless given.
    full
        Whether to run the full-size models too, most of the time that this takes.
    """
    from vit_trainer.golden import SHIPPED, GoldenFolder

    folder = GoldenFolder(golden or SHIPPED)
    from vit_trainer.verify import print_ladder

    return 0 if print_ladder(folder, full=full) else 1


if __name__ == "__main__":
    run(app)
