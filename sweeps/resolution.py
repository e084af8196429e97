"""Resolution: what do 384 px bring over 224, for a quarter to a third of the speed?

Published: jeonsworld/ViT-pytorch has both for ViT-B_16 and R50+ViT-B_16 and 224 px for ViT-L_32, with its default
dropout of 0.1; at 384 px there are the official figures. ViT-H_14 on CIFAR-100 at 224 px is the row it leaves open;
at 384 px the paper has 93.82%.
The miniature compares 16 with 32 px; the largest model has none.
Command: python sweeps/resolution.py
"""

import sys
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.options import SweepOptions
from sweeps.sweep import choose, run_sweep
from sweeps.table.cells import official_cell
from vit_trainer.command_line import HOW_RUN, command_of, new_app, run
from vit_trainer.config import Execution

PAPER = [
    *(
        official_cell(model, dataset, dropout=0.1, resolution=resolution)
        for model in ("R50+ViT-B_16", "ViT-B_16", "ViT-L_32")
        for dataset in ("cifar10", "cifar100")
        for resolution in (224, 384)
    ),
    official_cell("ViT-H_14", "cifar100", dropout=0.1, resolution=224),
]
MINI = [
    official_cell(model, dataset, dropout=0.1, resolution=resolution)
    for model in ("R50+ViT-B_16-mini", "ViT-B_16-mini", "ViT-L_32-mini")
    for dataset in ("digits-even", "digits-odd")
    for resolution in (16, 32)
]

app = new_app(
    "Fine-tunes at two resolutions, or its miniature.",
    name=command_of("resolution"),
    examples={"--preset paper --plan": "what it would cost", "--preset mini": "a minute on a laptop"},
)

DEFAULTS, DEFAULT_EXECUTION = SweepOptions(), Execution()


@app.default
def resolution(
    *,
    options: SweepOptions = DEFAULTS,
    execution: Annotated[Execution, HOW_RUN] = DEFAULT_EXECUTION,
) -> int:
    """Run three models on the CIFARs at 224 and 384 px, and ViT-H_14 on CIFAR-100 at 224 px."""
    name, cells = choose(options, "resolution", paper=PAPER, mini=MINI)
    return run_sweep(name, cells, options, execution)


if __name__ == "__main__":
    run(app)
