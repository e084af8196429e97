"""How much does our training loop add to a step, compared with a bare loop, raw Accelerate and the HF Trainer?

All train the same model on the same ready batches; ours is the real train(), with its losses, journal and checks.

Command: python benchmarks/loop.py
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.provenance import machine, write_json
from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.command_line import new_app, run
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError

app = new_app("Measures what the training loop adds to a step.", name="loop.py")

TINY = Architecture(16, 192, 12, 3, 768)
"""ViT-Ti/16, which no published table has."""
NUM_WARMUPS = 5
MOST_MS_OVER_BARE, MOST_MS_OVER_ACCELERATE, LEAST_OF_BARE = 1.0, 0.5, 0.97


@dataclass(frozen=True)
class Size:
    """A model and what it is trained on."""

    name: str
    model: str
    resolution: int
    """Side of the images in pixels."""
    batch_size: int
    """Images per step, in one micro-batch."""
    share_of_steps: float
    """Of --steps: a step of the larger model takes longer."""


SIZES = {
    "micro": Size("micro ViT, batch 8", "ViT-B_32-mini", 32, 8, 1.0),
    "tiny": Size("ViT-Ti/16 at 64 px, batch 32", "ViT-Ti_16", 64, 32, 0.1),
}


@app.default
def loop(
    *, steps: int = 400, repeats: int = 7, sizes: tuple[str, ...] = ("micro", "tiny"), json: Path | None = None
) -> int:
    """Train with each loop in turn, again and again.

    Args:
        steps: of each loop and repeat with the smaller model, a tenth as many with the larger; at least 100.
        repeats: the order of the loops turns by one each time; the median counts.
        sizes: micro, tiny, or both.
        json: where to write the figures.
    """
    if steps < 100:
        raise InputError(f"steps {steps} is below 100: give a whole number of at least 100")
    if repeats < 1:
        raise InputError(f"repeats {repeats} is below 1: give a whole number of at least 1")
    console = Console(highlight=False)
    console.print(machine())
    figures = {}
    with patch.dict(MODELS, {"ViT-Ti_16": TINY}):
        for name in sizes:
            if name not in SIZES:
                raise InputError(f"size {name} is unknown: give {' or '.join(SIZES)}")
            measured = measure(SIZES[name], steps, repeats)
            figures[name] = measured
            console.print(_table(SIZES[name], measured))
            if json is not None:
                write_json(json, {"steps": steps, "load": os.getloadavg()[0], "milliseconds": figures})
    return 0


def measure(size: Size, steps: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each loop's median step, one for each repeat."""
    import torch

    from benchmarks.training_loops import LOOPS, Work, step_seconds

    config = FinetuneConfig.official(
        size.model,
        "digits-even",
        upstream="scratch",
        resolution=size.resolution,
        global_batch_size=size.batch_size,
        total_steps=NUM_WARMUPS + round(steps * size.share_of_steps),
        warmup_steps=1,
    )
    work = Work(config, size.batch_size, torch.device("cpu"))
    names = list(LOOPS)
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            milliseconds[name].append(1000 * median(step_seconds(LOOPS[name], work, NUM_WARMUPS)))
    return milliseconds


def _table(size: Size, milliseconds: dict[str, list[float]]) -> Table:
    """Differences are of the same repeat, then their median."""
    bare, accelerate = milliseconds["bare loop"], milliseconds["raw Accelerate"]
    table = Table(title=f"{size.name}: a step", title_justify="left")
    for name in ("", "ms", "ms over bare", "speed / bare", "target"):
        table.add_column(name, justify="left" if name in ("", "target") else "right")
    for name, values in milliseconds.items():
        over = median(value - other for value, other in zip(values, bare, strict=True))
        speed = median(other / value for value, other in zip(values, bare, strict=True))
        most = median(value - other for value, other in zip(accelerate, bare, strict=True)) + MOST_MS_OVER_ACCELERATE
        target = ""
        if name == "ours":
            target = f"at most {min(MOST_MS_OVER_BARE, most):.2f} over"
            if size.model == "ViT-Ti_16":
                target = f"at least {LEAST_OF_BARE} of bare"
        table.add_row(name, f"{median(values):.2f}", f"{over:+.2f}", f"{speed:.3f}", target)
    return table


if __name__ == "__main__":
    run(app)
