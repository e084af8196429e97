"""python -m vit_trainer train: one trial without Ray."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

from vit_trainer.command_line import HOW_RUN, WHERE, TrackingUri, outlive_readers
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.datasets import dataset_info
from vit_trainer.data.earlier_ids import as_known, keep_listing
from vit_trainer.errors import DamagedError, InputError, RunInterruptedError, counted
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.files.schema import row_text
from vit_trainer.files.storage import Storage
from vit_trainer.loop.accelerator import is_first_process, leave_gang
from vit_trainer.loop.interruption import signals_as_request
from vit_trainer.tracking.store import require_store

DEFAULT_EXECUTION = Execution()


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
    storage: Annotated[str, WHERE] = "sweep-results",
    tracking_uri: Annotated[TrackingUri, WHERE] = None,
    execution: Annotated[Execution, HOW_RUN] = DEFAULT_EXECUTION,
) -> None:
    """Run one trial without Ray; what isn't given is the official recipe's.

    For example
      python -m vit_trainer train --model ViT-B_16-mini --dataset digits-even
      python -m vit_trainer train --model ViT-B_16 --dataset cifar10 --dropout 0.1
      accelerate launch -m vit_trainer train --model ViT-L_16 --dataset cifar100

    Parameters
    ----------
    model
        A name such as ViT-B_16, or ViT-B_16-mini.
    dataset
        A name such as cifar10 or digits-even, or the path of a folder with train/ and val/ (or test/) class folders.
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
        Folder in which the run folder is made: a path, or a URI such as s3://bucket/folder.
    tracking_uri
        MLflow server or store that the run is shipped to while it trains; none unless given.
    """
    opened = Storage(storage)
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
        from vit_trainer.weights.npz_files import file_upstream

        if upstream is not None:
            raise InputError(f"upstream {upstream} or checkpoint {execution.checkpoint}: give the one to start from")
        given["upstream"] = file_upstream(execution.checkpoint)
    dataset = as_known(dataset, opened, print if is_first_process() else lambda line: None)
    config = FinetuneConfig.official(model, dataset, dropout=dropout, seed=seed, **given)
    if config.global_batch_size % (execution.micro_batch_size or 1):
        size = config.global_batch_size
        raise InputError(f"micro_batch_size {execution.micro_batch_size} does not divide {size}, the global batch size")
    _require_weights(config, execution.checkpoint)
    if tracking_uri is not None and is_first_process():
        require_store(tracking_uri)
    from vit_trainer.data.load import require_dataset
    from vit_trainer.loop.accelerator import require_environment
    from vit_trainer.train import train as run_trial

    require_environment(execution.precision)
    run_dir = opened.run_dir(config.trial_id)
    try:
        run = run_dir.read()
    except DamagedError as error:
        run = None
        if is_first_process():
            print(f"{error}: its trial runs anew, and what is there is kept", file=sys.stderr)
    if run is None or run.status != "finished":
        require_dataset(config.dataset, skip_unreadable=execution.skip_unreadable)
        outlive_readers()
        if is_first_process():
            print(
                *(f"warning: {each}\n" for each in dataset_info(config.dataset).cautions),
                sep="",
                end="",
                file=sys.stderr,
            )
            keep_listing(config.dataset, opened)
            print(f"{config.trial_id} in {run_dir.location}", flush=True)
        shipping = _shipped(run_dir, opened, tracking_uri) if is_first_process() else nullcontext()
        with signals_as_request(acknowledge=_acknowledge) as interrupted, shipping as report:
            try:
                run_trial(config, run_dir, execution, report, interrupted)
            except KeyboardInterrupt:
                raise RunInterruptedError("left at once; its last checkpoint is kept") from None
    if is_first_process():
        result = run_dir.result() or {}
        accuracy, steps = f"{100 * result['test/accuracy']:.2f}%", counted(result["step"], "step")
        print(f"test/accuracy {accuracy} after {steps}, {run_dir.location}")
    leave_gang()


def _require_weights(config: FinetuneConfig, checkpoint: Path | None) -> None:
    """Raise CheckpointError unless the weights are there; say so if they may be others than they are called."""
    from vit_trainer.weights.fetch import doubt_of
    from vit_trainer.weights.npz_files import check_checkpoint, require_checkpoint

    if checkpoint is not None:
        check_checkpoint(checkpoint, config.model)
        return
    require_checkpoint(config.model, config.upstream)
    if is_first_process() and (doubt := doubt_of(config.model, config.upstream)):
        print(doubt, file=sys.stderr)


def _acknowledge() -> None:
    if is_first_process():
        print("keeping the state; Ctrl-C again to leave at once", file=sys.stderr, flush=True)


@contextmanager
def _shipped(run_dir: RunDir, storage: Storage, tracking_uri: str | None) -> Iterator[Callable[[Row], None]]:
    """What a run reports to, such that MLflow has it too; when the context ends, what MLflow lacks is said."""
    if tracking_uri is None:
        yield _print_row
        return
    from vit_trainer.tracking.background import BackgroundShipper
    from vit_trainer.tracking.catalogue import Membership
    from vit_trainer.tracking.sync import DEFAULT_EXPERIMENT

    shipper = BackgroundShipper(tracking_uri, DEFAULT_EXPERIMENT, storage.mlflow_artifacts, {})

    def report(row: Row) -> None:
        _print_row(row)
        shipper.ship(run_dir, Membership())

    try:
        yield report
    finally:
        shipper.ship(run_dir, Membership())
        shipper.close()
        if shipper.failure:
            rest = f"python -m vit_trainer sync --storage {shlex.quote(storage.location)} --tracking-uri {tracking_uri}"
            print(f"MLflow did not get everything: {shipper.failure}. To ship the rest: {rest}", file=sys.stderr)


def _print_row(row: Row) -> None:
    print(row.get("note") or row_text(row), flush=True)
