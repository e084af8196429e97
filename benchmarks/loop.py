"""How much does our training loop add to a step, compared with a bare loop, raw Accelerate and the HF Trainer?

All train the same model on the same ready batches; ours is the real train(), with its losses, journal and checks.

Command: python benchmarks/loop.py
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
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
Figures = dict[str, dict[str, list[float]]]
"""Lower quartile, median and upper quartile of each loop, by what is measured."""


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
    """Its share of --steps: a step of the larger model takes longer."""


SIZES = {
    "micro": Size("micro ViT, batch 8", "ViT-B_32-mini", 32, 8, 1.0),
    "tiny": Size("ViT-Ti/16 at 64 px, batch 32", "ViT-Ti_16", 64, 32, 0.1),
}


@app.default
def loop(*, steps: int = 2000, sizes: tuple[str, ...] = ("micro", "tiny"), json: Path | None = None) -> int:
    """Train with all loops in turn, a step each.

    Args:
        steps: of each loop with the smaller model, a tenth as many with the larger; at least 100.
        sizes: micro, tiny, or both.
        json: where to write the figures.
    """
    if steps < 100:
        raise InputError(f"steps {steps} is below 100: give a whole number of at least 100")
    for name in sizes:
        if name not in SIZES:
            raise InputError(f"size {name} is unknown: give {' or '.join(SIZES)}")
    console = Console(highlight=False)
    console.print(machine())
    figures = {}
    with patch.dict(MODELS, {"ViT-Ti_16": TINY}):
        for name in sizes:
            figures[name] = summary(measure(SIZES[name], steps))
            console.print(_table(SIZES[name], figures[name]))
            if json is not None:
                write_json(json, {"steps": steps, "load": os.getloadavg()[0], "quartiles": figures})
    return 0


def measure(size: Size, steps: int) -> dict[str, list[float]]:
    """Seconds of each loop's steps."""
    import torch

    from benchmarks.training_loops import Work, step_seconds_in_turn

    config = FinetuneConfig.official(
        size.model,
        "digits-even",
        upstream="scratch",
        resolution=size.resolution,
        global_batch_size=size.batch_size,
        total_steps=NUM_WARMUPS + round(steps * size.share_of_steps),
        warmup_steps=1,
    )
    return step_seconds_in_turn(Work(config, size.batch_size, torch.device("cpu")), NUM_WARMUPS)


def summary(seconds: dict[str, list[float]]) -> Figures:
    """Each loop's steps, their differences from the bare loop's in the same turn, and their speed over its."""
    bare = np.array(seconds["bare loop"])
    quartiles = [25, 50, 75]
    return {
        name: {
            "ms": np.percentile(1000 * np.array(values), quartiles).tolist(),
            "ms over bare": np.percentile(1000 * (np.array(values) - bare), quartiles).tolist(),
            "speed / bare": np.percentile(bare / np.array(values), quartiles).tolist(),
        }
        for name, values in seconds.items()
    }


def _table(size: Size, figures: Figures) -> Table:
    table = Table(title=f"{size.name}: a step", title_justify="left")
    for name in ("", "ms", "over bare", "quartiles", "speed / bare", "target"):
        table.add_column(name, justify="left" if name in ("", "target") else "right", no_wrap=True)
    most = min(MOST_MS_OVER_BARE, figures["raw Accelerate"]["ms over bare"][1] + MOST_MS_OVER_ACCELERATE)
    target = f">= {LEAST_OF_BARE}" if size.model == "ViT-Ti_16" else f"<= {most:+.2f}"
    for name, of_loop in figures.items():
        low, over, high = of_loop["ms over bare"]
        table.add_row(
            name,
            f"{of_loop['ms'][1]:.2f}",
            f"{over:+.2f}",
            f"{low:+.1f} to {high:+.1f}",
            f"{of_loop['speed / bare'][1]:.3f}",
            target if name == "ours" else "",
        )
    return table


if __name__ == "__main__":
    run(app)
