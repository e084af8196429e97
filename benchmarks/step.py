"""How many images per second does each model train with, and what share of the card's peak is that?

Against eager timm with autocast, the same model in a bare compiled loop, and the Hugging Face Trainer with compile.
Rivals get ready batches; ours does too, and once more crops images of CIFAR's size as a real run does. Where the time
of a step goes is told by `python -m vit_trainer train --profile`.

Command: python benchmarks/step.py, hours; python benchmarks/step.py quick, ours alone in ten minutes at most
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.probes import Probed, probe_all, probed_text
from benchmarks.provenance import machine, write_json
from vit_trainer.architectures import MODELS
from vit_trainer.command_line import new_app, run
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.datasets import DATASETS, dataset_info
from vit_trainer.errors import InputError, one_of

if TYPE_CHECKING:
    from torch import nn

    from benchmarks.training_loops import AfterStep, Work

app = new_app("Measures training steps of every model.", name="step.py")

FULL_SIZE = tuple(name for name, architecture in MODELS.items() if not architecture.is_miniature)
IN_ORDER = ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "R50+ViT-B_16")
"""The models of the published table, in the order in which one wants to know them."""
NUM_WARMUPS = 3


@dataclass(frozen=True)
class Measured:
    """One model at one resolution."""

    model: str
    resolution: int
    """Side of the images in pixels."""
    micro_batch_size: int
    images_per_second: dict[str, list[float]]
    """Speed by loop, one for each repeat; empty where memory didn't suffice."""
    share_of_peak: float | None
    """What ours reaches, crops included; None where the device's peak isn't known."""
    evaluation_images_per_second: float
    evaluation_shares: dict[str, float]
    """Evaluation's share of a run's time, by data set, if its images come as fast as random ones."""


@app.default
def step(
    *,
    models: tuple[str, ...] = FULL_SIZE,
    resolutions: tuple[int, ...] = (224, 384),
    dataset: str = "cifar10",
    steps: int = 10,
    repeats: int = 3,
    global_batch_size: int = 512,
    micro_batch_size: int | None = None,
    compile: bool | None = None,
    json: Path | None = None,
) -> int:
    """Train each model at each resolution with each loop in turn, again and again.

    Args:
        models: names such as ViT-B_16.
        resolutions: sides of the images in pixels.
        dataset: whose number of classes, and size of images that ours crops.
        steps: of each loop and repeat, beside three that aren't counted.
        repeats: the order of the loops turns by one each time; the median counts.
        global_batch_size: images per step.
        micro_batch_size: images per forward and backward, of all loops; the trainer's choice unless given.
        compile: whether ours, the bare loop and the Trainer compile; only on a GPU unless given.
        json: where to write the figures.
    """
    for name in models:
        if name not in MODELS:
            raise one_of("model", name, list(MODELS))
    for name, value in (("steps", steps), ("repeats", repeats), ("global_batch_size", global_batch_size)):
        if value < 1:
            raise InputError(f"{name} {value} is below 1: give a whole number of at least 1")
    # One GPU: of several, the Hugging Face Trainer would take all.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    import torch

    execution = Execution(micro_batch_size=micro_batch_size, compile=compile)
    console = Console(highlight=False)
    console.print(machine())
    done = []
    for model in models:
        for resolution in resolutions:
            config = FinetuneConfig.official(
                model,
                dataset,
                upstream="scratch",
                resolution=resolution,
                global_batch_size=global_batch_size,
                total_steps=NUM_WARMUPS + steps,
                warmup_steps=1,
            )
            try:
                done.append(measure(config, execution, repeats))
            except torch.OutOfMemoryError:
                console.print(f"{model} at {resolution} px: out of memory")
                continue
            if json is not None:
                write_json(json, {"load": os.getloadavg()[0], "measured": [asdict(measured) for measured in done]})
            console.print(_table(done[-1]))
    return 0


@app.command
def quick(
    *,
    models: tuple[str, ...] = IN_ORDER,
    resolution: int = 384,
    dropouts: tuple[float, ...] = (0.0, 0.1),
    dataset: str = "cifar10",
    global_batch_size: int = 512,
    seconds: float = 10.0,
    minutes: float = 10.0,
    json: Path | None = None,
) -> int:
    """Measure ours alone, one model after the other, without dropout first, for as long as there is time.

    Args:
        models: names such as ViT-B_16.
        resolution: side of the images in pixels.
        dropouts: probabilities in [0, 1).
        dataset: whose classes and image sizes.
        global_batch_size: images per step.
        seconds: to measure each, beside its start and compilation.
        minutes: for all together.
        json: where to write the figures, after each model.
    """
    for name in models:
        if name not in MODELS:
            raise one_of("model", name, list(MODELS))
    if not (seconds > 0 and minutes > 0):
        raise InputError(f"seconds {seconds:g} and minutes {minutes:g}: give positive numbers")
    console = Console(highlight=False)
    console.print(machine())
    configs = [
        FinetuneConfig.official(
            model, dataset, resolution=resolution, dropout=dropout, global_batch_size=global_batch_size
        )
        for dropout in dropouts
        for model in models
    ]
    done: list[Probed] = []
    for done in probe_all(configs, seconds, time.monotonic() + 60 * minutes):
        console.print(probed_text(done[-1]), soft_wrap=True)
        if json is not None:
            write_json(json, {"probed": [asdict(each) for each in done]})
    return 0 if all(each.problem is None for each in done) else 1


def measure(config: FinetuneConfig, execution: Execution, repeats: int) -> Measured:
    """All loops in turn, then evaluations.

    Raises:
        torch.OutOfMemoryError: one of ours never got through; that of a rival leaves it without a figure.
    """
    import torch

    from benchmarks.training_loops import Work, bare, hf_trainer, ours, step_seconds
    from vit_trainer.loop.accelerator import start_accelerator
    from vit_trainer.loop.probe import probe, random_images
    from vit_trainer.loop.speed import mfu
    from vit_trainer.loop.step import choose_micro_batch_size
    from vit_trainer.machine import device_name
    from vit_trainer.model.compiled import compiles

    accelerator = start_accelerator(execution.precision)
    work = Work(
        config,
        choose_micro_batch_size(config, execution, accelerator),
        accelerator.device,
        bfloat16=accelerator.mixed_precision == "bf16",
        compile=compiles(execution, accelerator.device),
    )
    images = random_images(config, 2 * config.global_batch_size)
    how = ", compiled" if work.compile else ""
    loops: dict[str, Callable[[Work, AfterStep], None]] = {
        "ours, crops included": partial(ours, train_split=images),
        "ours": ours,
        f"bare loop{how}": bare,
        f"HF Trainer{how}": hf_trainer,
        "timm, eager": eager_timm,
    }
    names = list(loops)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            torch.compiler.reset()  # else the loops' graphs count as recompilations of one another
            try:
                seconds = step_seconds(loops[name], work, NUM_WARMUPS)
            except torch.OutOfMemoryError:
                continue
            finally:
                _free_memory()
            rates[name].append(config.global_batch_size * len(seconds) / sum(seconds))
    if not (rates["ours"] and rates["ours, crops included"]):
        raise torch.OutOfMemoryError("ours")
    probed = probe(config, execution, seconds=2.0)
    ours_median = median(rates["ours, crops included"])
    return Measured(
        config.model,
        config.resolution,
        work.micro_batch_size,
        rates,
        mfu(config, ours_median, device_name()),
        probed.evaluation_images_per_second,
        {
            name: evaluation_share(name, ours_median, probed.evaluation_images_per_second)
            for name, info in DATASETS.items()
            if not info.is_miniature
        },
    )


def eager_timm(work: Work, after_step: AfterStep) -> None:
    """A bare loop around timm's own model; our model where timm has none of that shape."""
    import timm

    from benchmarks.training_loops import bare

    name = MODELS[work.config.model].timm_name
    model: nn.Module | None = None
    if name is not None:
        size = {"img_size": work.config.resolution, "num_classes": work.num_classes}
        model = timm.create_model(name, pretrained=False, **size).to(work.device)
    bare(replace(work, compile=False), after_step, model)


def evaluation_share(dataset: str, train_rate: float, evaluation_rate: float) -> float:
    """What part of a run by the data set's recipe validations and the test take; rates in images per second."""
    info = dataset_info(dataset)
    evaluation = (info.num_evaluations * info.num_validation + info.num_test) / evaluation_rate
    return evaluation / (evaluation + info.total_steps * info.global_batch_size / train_rate)


def _free_memory() -> None:
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def _table(measured: Measured) -> Table:
    share = f", {measured.share_of_peak:.1%} of the card's peak" if measured.share_of_peak is not None else ""
    evaluations = ", ".join(f"{name} {share:.1%}" for name, share in measured.evaluation_shares.items())
    table = Table(
        title=f"{measured.model} at {measured.resolution} px, micro-batch {measured.micro_batch_size}{share}",
        title_justify="left",
        caption=f"evaluations: {measured.evaluation_images_per_second:.0f} images/s; of a run: {evaluations}",
        caption_justify="left",
    )
    for name in ("", "images/s", "ours / this"):
        table.add_column(name, justify="left" if not name else "right")
    own = median(measured.images_per_second["ours"])
    for name, rates in measured.images_per_second.items():
        table.add_row(
            name, f"{median(rates):.1f}" if rates else "out of memory", f"{own / median(rates):.2f}" if rates else ""
        )
    return table


if __name__ == "__main__":
    run(app)
