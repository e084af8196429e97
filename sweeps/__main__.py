"""vit-sweeps <command>, or python -m sweeps <command>: the files of this folder where no checkout is at hand."""

import sys
from importlib import import_module

from vit_trainer.command_line import new_app, run

QUESTIONS = {
    "grid": "how accurate is each model on each data set, with and without dropout?",
    "short-schedule": "what do a twentieth and a tenth of the steps reach?",
    "resolution": "what do 384 px bring over 224?",
    "upstream": "is it better to start from ImageNet-21k, or from what was fine-tuned on ImageNet-2012 too?",
    "lr-search": "how good is the official learning rate, and how wide is the region that does as well?",
    "seeds": "is a result the published one, or chance?",
}
TOOLS = {
    "launch": "brings a sweep to a cluster, from the cluster's file",
    "watch": "the live table of a sweep, in another terminal or on another machine",
    "stop": "ends a running sweep, a cell or a trial of it in good order",
    "report": "what the sweeps of a storage came to",
    "evidence": "the same with all that shows it, for anyone to check",
    "doctor": "is everything there that a sweep needs?",
    "check-node": "is this machine whole? asked before it joins a cluster",
    "explain": "why may a result differ from the published one?",
    "clean": "gives back the room of checkpoints that no sweep works at",
}

app = new_app("Fine-tunes Vision Transformers by the official protocol, as Ray sweeps.", name="vit-sweeps")
for place, (name, says) in enumerate((QUESTIONS | TOOLS).items()):
    app.command(lambda: None, name=name, help=says, sort_key=place)


def command_module(name: str) -> str:
    """Where a command's `app` is."""
    return f"sweeps.{'paper_grid' if name == 'grid' else name.replace('-', '_')}"


def main() -> None:
    """Run the command that the command line names."""
    name, *flags = sys.argv[1:] or ["--help"]
    if name in QUESTIONS | TOOLS:
        run(import_module(command_module(name)).app, flags)
    run(app)


if __name__ == "__main__":
    main()
