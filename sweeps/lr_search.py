"""Learning rate: how good is the official rate, and how wide is the region that does as well?

A study of Optuna's per cell proposes rates around the paper's, the official one first; ASHA stops those that fall
behind. --search-over base_lr dropout warmup_steps searches these too. The report draws accuracy over rate.
Command: python sweeps/lr_search.py --cells ViT-B_16/cifar10/0.1 ViT-L_32/cifar100/0.1/224px
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.options import SEVERAL, SweepOptions
from sweeps.sweep import choose, run_sweep
from sweeps.table.cells import PAPER as TABLE
from sweeps.table.cells import cells_of, official_cell
from vit_trainer.command_line import HOW_RUN, WHAT, command_of, new_app, run
from vit_trainer.config import Execution

PAPER = cells_of(TABLE)
MINI = [official_cell("ViT-B_16-mini", dataset) for dataset in ("digits-even", "digits-odd")]

app = new_app(
    "Searches for learning rates with Optuna, a study per cell, or its miniature.",
    name=command_of("lr_search"),
    examples={
        "--cells ViT-B_16/cifar10/0.1 --num-trials 16": "a study of one cell",
        "--preset paper --plan": "what it would cost",
    },
)


@dataclass(frozen=True)
class SearchOptions(SweepOptions):
    """The flags of every sweep, but that Optuna searches."""

    search: Literal["grid", "optuna"] = "optuna"
    """optuna: a study per cell proposes trials, between two --base-lrs if given. grid: each of the --base-lrs."""


DEFAULTS, DEFAULT_EXECUTION = SearchOptions(), Execution()


@app.default
def lr_search(
    *,
    cells: Annotated[tuple[str, ...], SEVERAL, WHAT] = (),
    options: SearchOptions = DEFAULTS,
    execution: Annotated[Execution, HOW_RUN] = DEFAULT_EXECUTION,
) -> int:
    """Search the learning rate of cells.

    Args:
        cells: Cells such as ViT-B_16/cifar10/0.1, as reports name them; those of the paper's grid unless given.
    """
    name, chosen = choose(options, "lr_search", paper=PAPER, mini=MINI, named=cells)
    return run_sweep(name, chosen, options, execution)


if __name__ == "__main__":
    run(app)
