"""Short schedules: how much of the accuracy do a twentieth and a tenth of the steps reach?

500 steps (warm-up 50 as the official page has it, 100 as the PyTorch reimplementation has it) and 1,000 steps.
Published: ViT-B_16 on CIFAR-10 98.59, 98.86 and on CIFAR-100 89.17, 91.15 (official, resolution not stated); 98.59,
98.78 and 90.72, 92.16 (jeonsworld/ViT-pytorch, 224 px). Dropout 0.1 is the latter's default.
Command: python sweeps/short_schedule.py
"""

import sys
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.options import SweepOptions
from sweeps.sweep import choose, run_sweep
from sweeps.table.cells import Schedule, official_cell
from vit_trainer.command_line import HOW_RUN, command_of, new_app, run
from vit_trainer.config import Execution

PAPER = [
    official_cell("ViT-B_16", dataset, dropout=0.1, resolution=resolution, schedule=schedule)
    for dataset in ("cifar10", "cifar100")
    for resolution in (224, 384)
    for schedule in (Schedule(500, 50), Schedule(500, 100), Schedule(1_000, 100))
]
MINI = [
    official_cell("ViT-B_16-mini", dataset, dropout=0.1, resolution=resolution, schedule=schedule)
    for dataset in ("digits-even", "digits-odd")
    for resolution in (16, 32)
    for schedule in (Schedule(20, 2, 64), Schedule(20, 4, 64), Schedule(40, 4, 64))
]

app = new_app(
    "Fine-tunes with a twentieth and a tenth of the steps, or its miniature.",
    name=command_of("short_schedule"),
    examples={"--preset paper --plan": "what it would cost", "--preset mini": "a minute on a laptop"},
)

DEFAULTS, DEFAULT_EXECUTION = SweepOptions(), Execution()


@app.default
def short_schedule(
    *,
    options: SweepOptions = DEFAULTS,
    execution: Annotated[Execution, HOW_RUN] = DEFAULT_EXECUTION,
) -> int:
    """Run 500 and 1,000 steps of ViT-B_16 on the CIFARs at 224 and 384 px."""
    name, cells = choose(options, "short_schedule", paper=PAPER, mini=MINI)
    return run_sweep(name, cells, options, execution)


if __name__ == "__main__":
    run(app)
