"""python -m vit_trainer probe: how fast a model is on this machine."""

import json
import math
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from vit_trainer.config import Execution, FinetuneConfig, Precision
from vit_trainer.errors import InputError


def probe(
    *,
    model: str,
    dataset: str,
    resolution: int | None = None,
    dropout: float = 0.0,
    global_batch_size: int | None = None,
    seconds: float = 60.0,
    micro_batch_size: int | None = None,
    precision: Precision = "auto",
    require_gpu: Annotated[bool, Parameter(negative=())] = False,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Measure how fast a model trains and evaluates here, on random images: needs neither weights nor data.

    Parameters
    ----------
    model
        A name such as ViT-B_16, or ViT-B_16-mini.
    dataset
        Whose classes and image sizes: a name such as cifar10.
    resolution
        Side of the input image in pixels; the official recipe's unless given.
    dropout
        Probability in [0, 1).
    global_batch_size
        Images per optimiser step; the official recipe's unless given.
    seconds
        How long to measure; at least one step and one evaluation batch are, however long they take.
    micro_batch_size
        Images per forward and backward; halved until it fits.
    precision
        Numbers in matrix products; auto is bfloat16 on GPUs that have it, else float32.
    require_gpu
        Fail where there is no GPU, instead of measuring the CPU.
    json_
        Print the result as JSON instead of a line for people.
    """
    from vit_trainer.loop.probe import probe as measure

    overrides = {"resolution": resolution, "global_batch_size": global_batch_size}
    given = {name: value for name, value in overrides.items() if value is not None}
    config = FinetuneConfig.official(model, dataset, dropout=dropout, **given)
    execution = Execution(micro_batch_size=micro_batch_size, precision=precision)
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds {seconds:g} is not a positive number: give a time such as 60")
    if require_gpu:
        import torch

        if not torch.cuda.is_available():
            raise InputError("there is no GPU on this machine to measure: go to one that has it")
    result = measure(config, execution, seconds=seconds)
    memory = "" if result.peak_memory_bytes is None else f", {result.peak_memory_bytes / 2**30:.1f} GiB"
    line = (
        f"{model} at {config.resolution} px, dropout {dropout:g}, on {result.device_name}: "
        f"{result.train_images_per_second:.0f} training and {result.evaluation_images_per_second:.0f} evaluation "
        f"images/s with micro-batch {result.micro_batch_size}{memory}; {result.num_steps} steps"
    )
    print(json.dumps(asdict(result)) if json_ else line)
