"""train(): fine-tunes one Vision Transformer by the official protocol, on one process or several."""

import math
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vit_trainer.architectures import MODELS
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.class_names import class_names
from vit_trainer.data.datasets import dataset_info
from vit_trainer.data.load import load_dataset
from vit_trainer.errors import GangRestartError, InputError, LeaseLostError, RunInterruptedError, cause_of
from vit_trainer.evaluate import evaluate
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.loop.accelerator import start_accelerator
from vit_trainer.loop.ledger import Ledger, Report
from vit_trainer.loop.liveness import START_SECONDS, expect, wait_for_all
from vit_trainer.loop.optim import OfficialSGD, learning_rate_of
from vit_trainer.loop.profiling import profiled_steps, require_enough_steps
from vit_trainer.loop.repeatable import attempt_before, kernel_switches, require_same
from vit_trainer.loop.speed import speed, system_metrics
from vit_trainer.loop.state import TrainState
from vit_trainer.loop.step import Gradients, choose_micro_batch_size
from vit_trainer.machine import device_name
from vit_trainer.model.attention_backend import fastest_attention
from vit_trainer.model.build import build_model, dropout_keys_of
from vit_trainer.model.compiled import compile_forward, compiles
from vit_trainer.weights.load import pretrained_model
from vit_trainer.weights.npz_files import require_checkpoint
from vit_trainer.weights.safetensors_files import in_order, metadata_of


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
        """The result as written to result.json."""
        return {"status": self.status, "step": self.step, **self.metrics} | (
            {"cause": self.cause} if self.cause else {}
        )


def train(
    config: FinetuneConfig,
    run_dir: RunDir,
    execution: Execution | None = None,
    report: Report | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Run one trial to its end, from its last checkpoint if there is one.

    Every process of a gang calls this; RANK, WORLD_SIZE and so on tell Accelerate who is who, and the first writes.

    Args:
        report: called in the first process after each validation.
        interrupted: asked in the first process after each step and each batch of an evaluation; once it is true, the
            state is kept and the run ends. The others end when they are ended.

    Raises:
        InputError: weights or data are missing, or the batch can't be divided among the processes; with
            `deterministic`, the run began otherwise, or an operation has no such form.
        NonFiniteLossError: training diverged. Like any other failure of a single process it is recorded in
            result.json; of a gang, only who started it knows which process was the first to fail.
        RunInterruptedError: `interrupted` was true.
        GangRestartError: all processes must start again.
        LeaseLostError: another process took the run over; nothing is recorded.
    """
    execution = execution or Execution()
    with kernel_switches(execution, MODELS[config.model]) as switches:
        return _attempt(config, run_dir, execution, switches, report, interrupted)


def _attempt(
    config: FinetuneConfig,
    run_dir: RunDir,
    execution: Execution,
    switches: Row,
    report: Report | None,
    interrupted: Callable[[], bool],
) -> TrainResult:
    if execution.profile:
        require_enough_steps(config.total_steps)
    accelerator = start_accelerator(execution.precision)
    run, device, writes = run_dir.read_intact(), device_name(), accelerator.is_main_process
    lines = () if run is None else run.lines  # what is damaged is set aside below
    before = attempt_before(lines, deterministic=execution.deterministic, device=device)
    made_with: Row = {
        "precision": "bfloat16" if accelerator.mixed_precision == "bf16" else "float32",
        "compiled": compiles(execution, accelerator.device),
        **switches,
    }
    if execution.deterministic:
        execution = replace(execution, micro_batch_size=execution.micro_batch_size or before.get("micro_batch_size"))
        chosen = {"num_processes": accelerator.num_processes, "micro_batch_size": execution.micro_batch_size}
        require_same(lines, made_with | chosen, device=device)
    if writes:
        run_dir.open_for_writing(config.to_dict())
    wait_for_all(accelerator.num_processes)
    try:
        made_with["micro_batch_size"] = micro_batch_size = choose_micro_batch_size(config, execution, accelerator)
        shape = (MODELS[config.model], config.resolution, micro_batch_size)
        profiled = profiled_steps(run_dir if execution.profile and writes else None, accelerator.device, report)
        with (
            fastest_attention(*shape, accelerator, before.get("attention_backend")) as attention,
            profiled as step_done,
        ):
            made_with["attention_backend"] = attention
            result = _train(config, run_dir, execution, accelerator, made_with, report, interrupted, step_done)
        if writes:
            run_dir.write_result(result.to_dict())
            run_dir.remove_checkpoint()
    except (LeaseLostError, RunInterruptedError, GangRestartError):
        raise
    except Exception as error:
        if accelerator.num_processes == 1:
            with suppress(OSError):  # of a full disk: the error is still to be told
                run_dir.write_result(failure(error, run_dir))
        raise
    finally:
        if writes:
            run_dir.close()
    return result


def failure(error: Exception, run_dir: RunDir) -> dict[str, object]:
    """What result.json says of a run that raised."""
    run = run_dir.read_intact()
    result = TrainResult("failed", run.step if run else 0, {}, cause_of(error))
    return result.to_dict() | {"traceback": "".join(traceback.format_exception(error))}


def _train(
    config: FinetuneConfig,
    run_dir: RunDir,
    execution: Execution,
    accelerator: Accelerator,
    made_with: Row,
    report: Report | None,
    interrupted: Callable[[], bool],
    step_done: Callable[[], None],
) -> TrainResult:
    # Seed: only random weights draw from it; data and dropout are functions of (seed, step, position).
    torch.manual_seed(config.seed)

    # Data.
    data = load_dataset(
        config.dataset,
        num_workers=execution.num_workers,
        skip_unreadable=execution.skip_unreadable,
        compiled=made_with["compiled"],
    )
    names = class_names(config.dataset)

    # Model.
    raw_model = initial_model(config, execution)
    keys = dropout_keys_of(raw_model)
    if made_with["compiled"]:
        compile_forward(raw_model)
    wait_for_all(accelerator.num_processes)
    model: nn.Module = accelerator.prepare(raw_model)
    model.train()

    # Optimiser.
    optimizer = OfficialSGD(model.parameters())

    # Restore.
    ledger = Ledger(
        TrainState(raw_model, optimizer, config.trial_id, config.total_steps),
        run_dir,
        execution,
        accelerator,
        report,
        interrupted,
    )
    ledger.begin(made_with, initial_weights(config, execution))
    progress = ledger.state.progress

    # Loop.
    evaluated = partial(
        ledger.kept_in_outage()(evaluate),
        model,
        accelerator=accelerator,
        resolution=config.resolution,
        batch_size=execution.evaluation_batch_size,
        after_batch=ledger.end_if_interrupted,
    )
    evaluation_steps = steps_of_evaluations(config, execution)
    parts = (made_with["micro_batch_size"], progress.step)
    gradients = Gradients(config, accelerator, model, keys, data.train, *parts, compiled=made_with["compiled"])
    while True:
        # Log, evaluate, checkpoint, report.
        if ledger.row_is_due(evaluation_steps):
            row: Row = {
                "step": progress.step,
                "train/loss": ledger.mean_loss(),
                "lr": learning_rate_of(config, progress.step - 1),
            }
            seconds = ledger.seconds - progress.row_seconds
            row |= speed(config, accelerator, progress.num_summed_steps, seconds, gradients.input_wait)
            if progress.step in evaluation_steps:
                validation = evaluated(data.validation)
                row |= {"val/accuracy": validation.accuracy, "val/loss": validation.loss}
            if execution.system_metrics:
                row |= system_metrics()
            ledger.write_row(row, is_last=progress.step == config.total_steps)
        if progress.step == config.total_steps:
            break

        # Step.
        with ledger.kept_in_outage():
            loss = gradients.compute(progress.step)
        if loss is None:  # out of memory: the same step again
            if execution.deterministic and progress.step > 0:
                raise InputError(
                    f"out of memory with micro_batch_size {gradients.micro_batch_size}, which --deterministic keeps: "
                    "free the GPU's memory and go on, or start anew with a smaller --micro-batch-size"
                )
            ledger.note(gradients.shrink(progress.step), micro_batch_size=gradients.micro_batch_size)
            continue
        optimizer.step(learning_rate_of(config, progress.step))
        optimizer.zero_grad()
        ledger.add_step(loss)
        ledger.end_if_interrupted()
        ledger.save_if_due()
        step_done()

    # Final evaluation.
    test = evaluated(data.test, keeps_predictions=True)
    assert test.predictions is not None
    ledger.count_time()
    last = progress.row or {}
    metrics = {
        "test/accuracy": test.accuracy,
        "test/loss": test.loss,
        "val/accuracy": last["val/accuracy"],
        "train/loss": last["train/loss"],
        "runtime_hours": progress.seconds / 3600,
        "gpu_hours": progress.gpu_seconds / 3600,
        "images_per_second": progress.step * config.global_batch_size / progress.seconds,
    }

    # Result.
    expect(START_SECONDS)
    if accelerator.is_main_process:
        run_dir.write_predictions(replace(test.predictions, class_names=np.array(names)).to_bytes())
        if execution.save_weights:
            weights = {name: tensor.cpu().contiguous() for name, tensor in raw_model.state_dict().items()}
            run_dir.write_weights(in_order(save(weights, metadata_of(config.to_dict(), names))))
    return TrainResult("finished", progress.step, metrics)


def initial_model(config: FinetuneConfig, execution: Execution) -> VisionTransformer:
    """The model of a trial at step 0: upstream weights, position embeddings resized, a zero head."""
    num_classes = dataset_info(config.dataset).num_classes
    path = initial_weights(config, execution)
    if path is None:
        architecture = MODELS[config.model]
        return build_model(architecture, num_classes=num_classes, resolution=config.resolution, dropout=config.dropout)
    return pretrained_model(
        config.model, path, resolution=config.resolution, num_classes=num_classes, dropout=config.dropout
    )


def initial_weights(config: FinetuneConfig, execution: Execution) -> Path | None:
    """The file with the weights that a trial starts from, or None where it starts from random ones."""
    return execution.checkpoint or require_checkpoint(config.model, config.upstream)


def steps_of_evaluations(config: FinetuneConfig, execution: Execution) -> set[int]:
    """The steps after which a run validates: evenly spaced, the last step among them."""
    count = min(execution.num_evaluations or config.num_evaluations, config.total_steps)
    return {math.ceil(config.total_steps * (i + 1) / count) for i in range(count)}  # rungs are rounded up too
