"""Clean: gives back the room of checkpoints that no sweep works at. What has a number stays as it is.

Command: python sweeps/clean.py --storage sweep-results --yes
"""

import math
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.records.left_states import IDLE_HOURS, left_states
from vit_trainer.command_line import command_of, new_app, run
from vit_trainer.errors import InputError, counted, plain, reason_of
from vit_trainer.files.run_dir import CHECKPOINT
from vit_trainer.files.storage import Storage

app = new_app("Gives back the room of checkpoints that no sweep works at.", name=command_of("clean"))


@app.default
def clean(
    *,
    storage: str = "sweep-results",
    idle_hours: float = IDLE_HOURS,
    yes: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List checkpoints whose sweep was left, or whose sweep's last command left them out; with --yes, remove them.

    A trial whose checkpoint is gone starts anew if a sweep wants it again. Journals and results stay.

    Args:
        storage: That of the sweeps: a folder, or a URI such as s3://bucket/folder.
        idle_hours: For how long nothing of a sweep must have been written; a sweep that runs keeps what is paused.
        yes: Remove what is listed.
    """
    if not 0 <= idle_hours < math.inf:
        raise InputError(f"idle_hours {idle_hours:g}: give hours from 0 on, such as 24")
    opened = Storage.existing(storage)
    try:
        found = left_states(opened, idle_hours=idle_hours)
        for state in found:
            if yes:
                opened.run_dir(state.trial_id).folder.remove(CHECKPOINT)
            age = (time.time() - state.written_at) / 3600
            ago = f"{age / 24:.0f} days" if age >= 48 else f"{age:.0f} hours"
            print(f"{'removed' if yes else 'left'}: {state.trial_id}, {plain(state.num_bytes / 1e9)} GB, {ago} old")
    except OSError as error:
        raise InputError(f"storage {storage} refuses ({reason_of(error)}): give that of a sweep") from error
    room = f"{plain(sum(state.num_bytes for state in found) / 1e9)} GB"
    if not found:
        print(f"no checkpoint in {opened.location} was left for {idle_hours:g} hours")
    elif yes:
        print(f"{room} given back")
    else:
        print(f"{room} in {counted(len(found), 'checkpoint')}; --yes removes them")


if __name__ == "__main__":
    run(app)
