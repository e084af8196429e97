"""Seeds: is a cell's result the published one, or chance? Repeats cells, so that the verdict can tell.

Only the learning rate that the storage's finished trials found best on the validation images is repeated, and that of
the published figure, which the verdict is about; without either the official one. No seed is stopped early: those left
would be the better ones.
Command: python sweeps/seeds.py --cells ViT-B_16/cifar10/0.1 ViT-B_16/cifar100/0.1
"""

import sys
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.options import SEVERAL
from sweeps.selection.repeats import RepeatOptions
from sweeps.sweep import choose, run_sweep
from sweeps.table.cells import PAPER as TABLE
from sweeps.table.cells import cells_of, official_cell
from vit_trainer.command_line import HOW_RUN, WHAT, command_of, new_app, run
from vit_trainer.config import Execution

PAPER = cells_of(TABLE)
MINI = [official_cell("ViT-B_16-mini", dataset) for dataset in ("digits-even", "digits-odd")]

app = new_app(
    "Repeats cells over seeds, or its miniature.",
    name=command_of("seeds"),
    examples={
        "--cells ViT-B_16/cifar10/0.1": "seeds 0, 1 and 2",
        "--seeds 0 1 2 3 4 --preset mini": "five, in miniature",
    },
)

DEFAULTS, DEFAULT_EXECUTION = RepeatOptions(), Execution()


@app.default
def seeds(
    *,
    cells: Annotated[tuple[str, ...], SEVERAL, WHAT] = (),
    options: RepeatOptions = DEFAULTS,
    execution: Annotated[Execution, HOW_RUN] = DEFAULT_EXECUTION,
) -> int:
    """Repeat cells over seeds.

    Args:
        cells: Cells such as ViT-B_16/cifar10/0.1, as reports name them; those of the paper's grid unless given.
    """
    name, chosen = choose(options, "seeds", paper=PAPER, mini=MINI, named=cells)
    print("\n".join(options.explained(chosen)))
    return run_sweep(name, chosen, options, execution)


if __name__ == "__main__":
    run(app)
