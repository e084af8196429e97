"""train(): fine-tunes one Vision Transformer by the official protocol, on one process or several."""

import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vit_trainer.architectures import MODELS
from vit_trainer.checkpoint_files import require_checkpoint
from vit_trainer.checkpoints import pretrained_model
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data import dataset_info, load_dataset
from vit_trainer.data.splits import MicroBatch
from vit_trainer.errors import InputError, LeaseLostError, NonFiniteLossError
from vit_trainer.evaluate import evaluate
from vit_trainer.models import build_model, dropout_keys_of
from vit_trainer.optim import OfficialSGD, learning_rate
from vit_trainer.processes import start_accelerator
from vit_trainer.randomness import dropout_keys, image_order
from vit_trainer.run_dir import Row, RunDir, write_atomically
from vit_trainer.state import TrainState

Report = Callable[[Row], None]
"""Gets the journal's row after each validation; the only seam towards whoever started the run."""

MAX_MICRO_BATCH_SIZE = 128
"""Images per forward and backward unless told otherwise."""


@dataclass(frozen=True)
class TrainResult:
    """What result.json holds."""

    status: str
    """`finished`, `stopped` or `failed`."""
    step: int
    """Optimiser steps taken."""
    metrics: dict[str, float]
    """Final metrics under their own names; `test/accuracy` among them when finished."""
    cause: str | None = None
    """The rule that stopped the run, or the one-line reason of its failure."""

    def to_dict(self) -> dict[str, object]:
        """As written to result.json."""
        return {"status": self.status, "step": self.step, **self.metrics} | (
            {"cause": self.cause} if self.cause else {}
        )


def train(
    config: FinetuneConfig, run_dir: RunDir, execution: Execution | None = None, report: Report | None = None
) -> TrainResult:
    """Run one trial to its end, from its last checkpoint if there is one.

    Every process of a gang calls this; RANK, WORLD_SIZE and so on tell Accelerate who is who, and the first writes.

    Args:
        report: called in the first process after each validation.

    Raises:
        InputError: weights or data are missing, or the batch can't be divided among the processes.
        NonFiniteLossError: training diverged. Like any other failure it is recorded in result.json.
        LeaseLostError: another process took the run over; nothing is recorded.
    """
    execution = execution or Execution()
    accelerator = start_accelerator(execution.precision)
    writes = accelerator.is_main_process
    if writes:
        run_dir.open_for_writing(config.to_dict())
    accelerator.wait_for_everyone()
    try:
        result = _train(config, run_dir, execution, accelerator, report)
    except LeaseLostError:
        raise
    except Exception as error:
        if writes:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            rows = run_dir.journal()
            result = TrainResult("failed", rows[-1]["step"] if rows else 0, {}, cause)
            run_dir.write_result(result.to_dict() | {"traceback": traceback.format_exc()})
        raise
    if writes:
        run_dir.write_result(result.to_dict())
        run_dir.checkpoint_path.unlink(missing_ok=True)
    return result


def _train(
    config: FinetuneConfig,
    run_dir: RunDir,
    execution: Execution,
    accelerator: Accelerator,
    report: Report | None,
) -> TrainResult:
    device, writes = accelerator.device, accelerator.is_main_process

    # Seed: only random weights draw from it; data and dropout are functions of (seed, step, position).
    torch.manual_seed(config.seed)

    # Data.
    data = load_dataset(config.dataset, num_workers=execution.num_workers, skip_unreadable=execution.skip_unreadable)
    evaluated = partial(
        evaluate,
        accelerator=accelerator,
        resolution=config.resolution,
        batch_size=execution.evaluation_batch_size,
    )

    # Model.
    raw_model = initial_model(config, execution)
    keys = dropout_keys_of(raw_model)
    model: nn.Module = accelerator.prepare(raw_model)
    model.train()

    # Optimiser.
    optimizer = OfficialSGD(model.parameters())

    # Restore.
    state = TrainState(raw_model, optimizer)
    if state.restore(run_dir.checkpoint_path) and writes:
        _complete_journal(run_dir, state.progress.row)
    progress = state.progress

    # Loop.
    stopwatch = _Stopwatch(progress.seconds)
    num_gpus = accelerator.num_processes if device.type == "cuda" else 0
    evaluation_steps = steps_of_evaluations(config, execution)
    share = config.global_batch_size // accelerator.num_processes
    micro_batch_size = _micro_batch_size(config, execution, accelerator)
    batches = data.train.train_batches(
        _micro_batches(
            config, progress.step, accelerator.process_index * share, share, micro_batch_size, len(data.train)
        ),
        seed=config.seed,
        resolution=config.resolution,
        device=device,
    )
    accumulation_steps = share // micro_batch_size
    loss_sum = torch.zeros((), device=device)
    first_bad_step = torch.full((), math.inf, device=device)
    num_logged_steps, seconds_at_log = 0, stopwatch.seconds
    for step in range(progress.step, config.total_steps):
        lr = learning_rate(
            step, base_lr=config.base_lr, warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )
        first = accelerator.process_index * share
        step_keys = dropout_keys(config.seed, step, slice(first, first + share)) if config.dropout else None
        step_loss = torch.zeros((), device=device)
        for micro in range(accumulation_steps):
            images, labels = next(batches)
            if step_keys is not None:
                mine = step_keys[micro * micro_batch_size : (micro + 1) * micro_batch_size]
                keys.set(torch.from_numpy(mine).to(device, non_blocking=True))
            step_loss += backward(accelerator, model, images, labels, micro == accumulation_steps - 1, share)
        optimizer.step(lr)
        optimizer.zero_grad()
        loss_sum += step_loss
        first_bad_step = torch.where(step_loss.isfinite(), first_bad_step, first_bad_step.clamp(max=step + 1))
        progress.step = step + 1
        num_logged_steps += 1

        evaluates = progress.step in evaluation_steps
        if not (evaluates or progress.step % execution.log_every_steps == 0):
            continue
        # Log: the first wait for the device since the last row.
        loss = accelerator.reduce(loss_sum, reduction="mean").item() / num_logged_steps
        if not math.isfinite(loss):
            bad_step = accelerator.gather(first_bad_step[None]).min().item()
            raise NonFiniteLossError(f"the training loss is {loss} at step {bad_step:.0f}: try a lower base_lr")
        elapsed = stopwatch.seconds - seconds_at_log
        row: Row = {
            "step": progress.step,
            "train/loss": loss,
            "lr": lr,
            "images_per_second": num_logged_steps * config.global_batch_size / elapsed,
        }
        if evaluates:
            validation = evaluated(model, data.validation)
            row |= {"val/accuracy": validation.accuracy, "val/loss": validation.loss}
        seconds = stopwatch.seconds
        progress.gpu_seconds += (seconds - progress.seconds) * num_gpus
        progress.seconds = seconds
        row |= {"runtime_hours": progress.seconds / 3600, "gpu_hours": progress.gpu_seconds / 3600}
        progress.row = row
        if writes and evaluates:
            run_dir.check_lease()
            state.save(run_dir.checkpoint_path)
        if writes:
            run_dir.append(row)
        if writes and evaluates and report is not None:
            report(row)
        loss_sum.zero_()
        num_logged_steps, seconds_at_log = 0, stopwatch.seconds

    # Final evaluation.
    test = evaluated(model, data.test)
    last = progress.row or {}
    seconds = stopwatch.seconds
    metrics = {
        "test/accuracy": test.accuracy,
        "test/loss": test.loss,
        "val/accuracy": last["val/accuracy"],
        "train/loss": last["train/loss"],
        "runtime_hours": seconds / 3600,
        "gpu_hours": (progress.gpu_seconds + (seconds - progress.seconds) * num_gpus) / 3600,
        "images_per_second": progress.step * config.global_batch_size / seconds,
    }

    # Result.
    if writes and execution.save_weights:
        weights = {name: tensor.cpu().contiguous() for name, tensor in raw_model.state_dict().items()}
        write_atomically(run_dir.weights_path, save(weights))
    return TrainResult("finished", progress.step, metrics)


def _micro_batch_size(config: FinetuneConfig, execution: Execution, accelerator: Accelerator) -> int:
    """Images per forward and backward, such that micro-batch * processes * accumulation is the global batch."""
    processes = accelerator.num_processes
    if config.global_batch_size % processes:
        raise InputError(
            f"global_batch_size {config.global_batch_size} is not divisible by {processes} processes: "
            "the global batch never changes, so give another number of GPUs"
        )
    share = config.global_batch_size // processes
    if execution.micro_batch_size is None:
        return next(size for size in range(min(share, MAX_MICRO_BATCH_SIZE), 0, -1) if share % size == 0)
    if share % execution.micro_batch_size:
        raise InputError(f"micro_batch_size {execution.micro_batch_size} does not divide {share}, a process's share")
    return execution.micro_batch_size


def initial_model(config: FinetuneConfig, execution: Execution) -> VisionTransformer:
    """The model of a trial at step 0: upstream weights, position embeddings resized, a zero head."""
    num_classes = dataset_info(config.dataset).num_classes
    path = Path(execution.checkpoint) if execution.checkpoint else require_checkpoint(config.model, config.upstream)
    if path is None:
        architecture = MODELS[config.model]
        return build_model(architecture, num_classes=num_classes, resolution=config.resolution, dropout=config.dropout)
    return pretrained_model(
        config.model, path, resolution=config.resolution, num_classes=num_classes, dropout=config.dropout
    )


def steps_of_evaluations(config: FinetuneConfig, execution: Execution) -> set[int]:
    """After which steps to validate: evenly spaced, the last step among them."""
    count = min(execution.num_evaluations or dataset_info(config.dataset).num_evaluations, config.total_steps)
    return {config.total_steps * (i + 1) // count for i in range(count)}


def _micro_batches(
    config: FinetuneConfig, first_step: int, first: int, share: int, size: int, num_images: int
) -> Iterator[MicroBatch]:
    """This process's micro-batches, step after step: positions first .. first+share-1 of each global batch."""
    for step in range(first_step, config.total_steps):
        order = image_order(config.seed, step * config.global_batch_size, config.global_batch_size, num_images)
        for start in range(first, first + share, size):
            yield MicroBatch(step, slice(start, start + size), order[start : start + size])


def backward(
    accelerator: Accelerator, model: nn.Module, images: Tensor, labels: Tensor, last: bool, share: int
) -> Tensor:
    """Add one micro-batch's part of the gradient of the mean loss; returns its part of the loss, on the device.

    Processes exchange gradients only with the last micro-batch of a step.
    """
    with accelerator.no_sync(model) if not last else nullcontext():
        loss = F.cross_entropy(model(images).float(), labels, reduction="sum") / share
        accelerator.backward(loss)
    return loss.detach()


def _complete_journal(run_dir: RunDir, row: Row | None) -> None:
    """Write the checkpoint's own row if the crash came between the two."""
    journal = run_dir.journal()
    if row is not None and (not journal or journal[-1]["step"] < row["step"]):
        run_dir.append(row)


class _Stopwatch:
    """Seconds of all attempts of a run together."""

    def __init__(self, seconds: float) -> None:
        self._start = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start
