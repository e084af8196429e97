"""python -m vit_trainer <command>: train, evaluate, predict, attention, probe, fetch, pack, export, verify, sync, …"""

import sys
from pathlib import Path

from vit_trainer.command_line import GROUPS, new_app, run
from vit_trainer.commands.attention import attention
from vit_trainer.commands.evaluate import evaluate
from vit_trainer.commands.export import export
from vit_trainer.commands.fetch import fetch
from vit_trainer.commands.pack import pack
from vit_trainer.commands.predict import predict
from vit_trainer.commands.pretrain_mini import pretrain_mini
from vit_trainer.commands.probe import probe
from vit_trainer.commands.score import score
from vit_trainer.commands.sync import sync
from vit_trainer.commands.train import train
from vit_trainer.commands.verify import verify

NAME = "vit-trainer" if Path(sys.argv[0]).name == "vit-trainer" else "python -m vit_trainer"
app = new_app("Fine-tunes one Vision Transformer by the official protocol.", name=NAME)
app.command(train, group_parameters=GROUPS[0])
for command in (evaluate, predict, attention, probe, fetch, pack, export, pretrain_mini, score, verify, sync):
    app.command(command)


def main() -> None:
    """Run the command that the command line names."""
    run(app)


if __name__ == "__main__":
    main()
