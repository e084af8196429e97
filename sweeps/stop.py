"""Stop: ends a running sweep, a cell or a trial of it in good order, from any machine that can write to its storage.

Every state is kept; the same command goes on from there.
Command: python sweeps/stop.py --storage sweep-results
"""

import sys
import time
from pathlib import Path

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.records.commands import read_commands
from sweeps.running.requests import ALL, SECONDS_BETWEEN_LOOKS, ask_to_end
from sweeps.table.cells import name_of_cell
from vit_trainer.command_line import command_of, new_app, run
from vit_trainer.errors import InputError, counted, one_of, reason_of
from vit_trainer.files.run_dir import STOP
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.catalogue import Catalogue

app = new_app(
    "Ends a running sweep, or a cell or trial of it, in good order: states are kept, the same command goes on.",
    name=command_of("stop"),
    examples={
        "": "the sweep",
        "ViT-B_16/cifar10/0.1": "a cell",
        "ViT-B_16-cifar10-d0.1-lr0.03-s0-4916bc": "a trial",
    },
)


@app.default
def stop(*what: str, storage: str = "sweep-results", sweep: str | None = None, wait_seconds: float = 60.0) -> int:
    """Ask a running sweep to end something, and wait until it has heard that.

    Args:
        what: Cells as reports name them, such as ViT-B_16/cifar10/0.1, and ids of trials; the whole sweep unless given.
        storage: That of the sweep: a folder, or a URI such as s3://bucket/folder.
        sweep: Name of the sweep, such as paper_grid-mini, where the storage has several.
        wait_seconds: For how long to wait; up to 3600.
    """
    if not 2 * SECONDS_BETWEEN_LOOKS <= wait_seconds <= 3600:
        raise InputError(f"wait_seconds {wait_seconds:g} is outside [10, 3600]: give seconds such as 60")
    opened = Storage.existing(storage)
    try:
        names = opened.sweep_names()
        if not names:
            raise InputError(f"no sweep has begun in {opened.location}: give the --storage of one")
        if sweep is None and len(names) != 1:
            raise InputError(f"the storage has {counted(len(names), 'sweep')}: give --sweep, one of {', '.join(names)}")
        name = sweep or names[0]
        if name not in names:
            raise one_of("sweep of this storage", name, names)
        if what:
            commands, _ = read_commands(opened, name)
            cells = dict.fromkeys(name_of_cell(cell) for command in commands for cell in command.cells)
            known = [*cells, *Catalogue(opened, name).entries]
            for each in what:
                if each not in known:
                    raise one_of(f"trial or cell of {name}", each, known)
        folder = opened.sweep(name)
        ask_to_end(folder, what or ALL)
        until = time.monotonic() + wait_seconds
        while folder.read(STOP) is not None:
            if time.monotonic() > until:
                folder.remove(STOP)
                print(f"no session of {name} has answered in {wait_seconds:g} s, so nothing ends", file=sys.stderr)
                return 1
            time.sleep(0.5)
    except OSError as error:
        raise InputError(f"storage {storage} refuses ({reason_of(error)}): give that of a sweep") from error
    print(f"{name} ends {', '.join(what) or 'all trials'}; states are kept, its command goes on with them")
    return 0


if __name__ == "__main__":
    run(app)
