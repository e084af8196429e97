"""The table: how accurate is each model on each data set, with and without dropout?

Paper: An Image is Worth 16x16 Words (arXiv 2010.11929); figures from google-research/vision_transformer.
Command: python sweeps/paper_grid.py
"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.options import SweepOptions
from sweeps.planning.candidates import cells_asked_for
from sweeps.sweep import choose_preset, run_sweep
from vit_trainer.command_line import new_app, run
from vit_trainer.config import Execution

app = new_app("Runs the paper's fine-tuning table, or its miniature where there is no GPU.", name="paper_grid.py")

DEFAULTS, DEFAULT_EXECUTION = SweepOptions(), Execution()


@app.default
def paper_grid(
    *,
    options: Annotated[SweepOptions, Parameter(name="*")] = DEFAULTS,
    execution: Annotated[Execution, Parameter(name="*")] = DEFAULT_EXECUTION,
) -> int:
    """Run the models x data sets x dropouts of the published table, each with its candidate learning rates."""
    preset = choose_preset(options, "sweeps/paper_grid.py")
    return run_sweep(f"paper_grid-{preset}", cells_asked_for(options, preset), options, execution)


if __name__ == "__main__":
    run(app)
