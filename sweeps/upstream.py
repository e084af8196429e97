"""Upstream: is it better to fine-tune what was pre-trained, or what was then fine-tuned on ImageNet-2012 too?

Published: jeonsworld/ViT-pytorch has both for ViT-B_16 (its ViT-B_16-224) and ViT-L_32 on the CIFARs at 224 px, with
its default dropout of 0.1.
The miniature has one set of checkpoints, so it asks what these bring over random weights (scratch).
Command: python sweeps/upstream.py
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

FINE_TUNED = {"ViT-B_16": "imagenet21k+imagenet2012-224", "ViT-L_32": "imagenet21k+imagenet2012"}
PAPER = [
    official_cell(model, dataset, dropout=0.1, resolution=224, upstream=upstream)
    for model, fine_tuned in FINE_TUNED.items()
    for dataset in ("cifar10", "cifar100")
    for upstream in ("imagenet21k", fine_tuned)
]
MINI = [
    official_cell(model, dataset, dropout=0.1, upstream=upstream)
    for model in ("ViT-B_16-mini", "ViT-L_32-mini")
    for dataset in ("digits-even", "digits-odd")
    for upstream in ("digits", "scratch")
]

app = new_app(
    "Fine-tunes from two upstreams, or its miniature.",
    name=command_of("upstream"),
    examples={"--preset paper --plan": "what it would cost", "--preset mini": "a minute on a laptop"},
)

DEFAULTS, DEFAULT_EXECUTION = SweepOptions(), Execution()


@app.default
def upstream(
    *,
    options: SweepOptions = DEFAULTS,
    execution: Annotated[Execution, HOW_RUN] = DEFAULT_EXECUTION,
) -> int:
    """Run ViT-B_16 and ViT-L_32 on the CIFARs at 224 px, from checkpoints before and after ImageNet-2012."""
    name, cells = choose(options, "upstream", paper=PAPER, mini=MINI)
    return run_sweep(name, cells, options, execution)


if __name__ == "__main__":
    run(app)
