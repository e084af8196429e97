"""Watch: the live table of a sweep from its run folders alone, in another terminal or on another machine.

Command: python sweeps/watch.py --storage sweep-results
"""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.display.from_folders import FolderWatch, log_lines
from sweeps.display.live_table import LiveTable, Screen, is_interactive
from sweeps.display.standing import Standing
from vit_trainer.command_line import command_of, new_app, run
from vit_trainer.errors import DamagedError, InputError, one_of, reason_of
from vit_trainer.files.outgoing import canvas, outgoing
from vit_trainer.files.storage import Storage

app = new_app("Shows how a sweep stands, from its run folders alone.", name=command_of("watch"))


@app.default
def watch(
    *,
    storage: str = "sweep-results",
    once: Annotated[bool, Parameter(negative=())] = False,
    log: str | None = None,
    every_seconds: float = 5.0,
) -> int:
    """Show the table of a sweep until Ctrl-C; where there is no terminal, print it and then a line per event.

    Args:
        storage: That of the sweep: a folder, or a URI such as s3://bucket/folder.
        once: Print the table as it stands, and end.
        log: Id of a trial: print what its run folder says of its course instead, and end.
        every_seconds: How often to look for changes; up to 86400.
    """
    if not 0 < every_seconds <= 86_400:
        raise InputError(f"every_seconds {every_seconds:g} is not in (0, 86400]: give seconds such as 5")
    if log is not None:
        return _print_log(Storage.existing(storage), log)
    watched, console = FolderWatch(storage), Console(file=canvas(sys.stdout), highlight=False)
    try:
        standing = watched.read()
    except OSError as error:
        raise InputError(
            f"storage {storage} cannot be read ({reason_of(error)}): give the --storage of a sweep"
        ) from error
    if once:
        console.print(Screen(standing))
        return 0
    try:
        _follow(watched, standing, console, every_seconds)
    except KeyboardInterrupt:
        return 0
    return 0


def _print_log(storage: Storage, trial_id: str) -> int:
    try:
        if trial_id not in (known := storage.trial_ids()):
            raise one_of("trial of this storage", trial_id, known)
        found = storage.run_dir(trial_id).read()
    except (OSError, DamagedError) as error:
        raise InputError(f"runs/{trial_id} cannot be read ({reason_of(error)}): look at another trial") from error
    print(outgoing("\n".join(log_lines(found) if found else [f"{trial_id} has not begun"])))
    return 0


def _follow(watched: FolderWatch, standing: Standing, console: Console, every_seconds: float) -> None:
    """Show changes for ever."""
    latest, never = [standing], threading.Event()
    if is_interactive(console):
        try:
            with LiveTable(console, lambda: replace(latest[0], now=time.time())):
                while not never.wait(every_seconds):
                    latest[0] = _read_again(watched, latest[0])
        finally:
            console.print(Screen(latest[0]))
    console.print(Screen(standing))
    while not never.wait(every_seconds):
        before, latest[0] = latest[0], _read_again(watched, latest[0])
        known = {*before.events, *before.complaints}
        news = [event.text for event in latest[0].events if event not in known]
        news += [latest[0].awaits] if latest[0].awaits and not before.awaits else []
        for line in [*news, *(complaint for complaint in latest[0].complaints if complaint not in known)]:
            console.print(outgoing(line), soft_wrap=True, markup=False)


def _read_again(watched: FolderWatch, before: Standing) -> Standing:
    """The new standing; during an outage of the storage the old one, with a complaint."""
    try:
        return watched.read()
    except OSError as error:
        complaint = f"{watched.location} cannot be read since {time.strftime('%H:%M:%S')}: {str(error).splitlines()[0]}"
        is_known = any(" cannot be read since " in each for each in before.complaints)
        return before if is_known else replace(before, complaints=(*before.complaints, complaint))


if __name__ == "__main__":
    run(app)
