"""The table: how accurate is each model on each data set, with and without dropout?

Paper: An Image is Worth 16x16 Words (arXiv 2010.11929); figures from google-research/vision_transformer.
Command: python sweeps/paper_grid.py
"""

import sys
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.options import SEVERAL, SweepOptions
from sweeps.planning.candidates import cells_asked_for
from sweeps.sweep import choose, choose_preset, run_sweep
from vit_trainer.command_line import HOW_RUN, WHAT, command_of, new_app, run
from vit_trainer.config import Execution

app = new_app(
    "Runs the paper's fine-tuning table, or its miniature where there is no GPU.",
    name=command_of("paper_grid"),
    examples={
        "--preset mini": "a minute or two on a laptop",
        "--preset paper --plan": "what it would cost",
        "--models ViT-B_16 --datasets cifar10": "two cells",
        "--datasets ./my-photos": "a folder of classes",
        "--max-dollars 500": "ends in good order there",
    },
)

DEFAULTS, DEFAULT_EXECUTION = SweepOptions(), Execution()


@app.default
def paper_grid(
    *,
    cells: Annotated[tuple[str, ...], SEVERAL, WHAT] = (),
    options: SweepOptions = DEFAULTS,
    execution: Annotated[Execution, HOW_RUN] = DEFAULT_EXECUTION,
) -> int:
    """Run the models x data sets x dropouts of the published table, each with its candidate learning rates.

    Args:
        cells: These alone, such as ViT-B_16/cifar10/0.1, as reports name them: a share of the table.
    """
    if cells:
        name, chosen = choose(options, "paper_grid", paper=(), mini=(), named=cells)
        return run_sweep(name, chosen, options, execution)
    preset = choose_preset(options, "paper_grid")
    return run_sweep(f"paper_grid-{preset}", cells_asked_for(options, preset), options, execution)


if __name__ == "__main__":
    run(app)
