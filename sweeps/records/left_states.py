"""Left states: checkpoints that no sweep works at any more; they cost room and nothing else."""

import shlex
import time
from collections.abc import Collection
from dataclasses import dataclass

from sweeps.records.commands import read_commands
from sweeps.table.cells import cell_of
from vit_trainer.command_line import command_of
from vit_trainer.errors import counted, plain
from vit_trainer.files.run_dir import CHECKPOINT, LEASE
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.catalogue import catalogues

IDLE_HOURS = 24.0
"""A sweep of which nothing was written for so long counts as left."""


@dataclass(frozen=True)
class LeftState:
    """A checkpoint of a trial that nobody runs."""

    trial_id: str
    num_bytes: int
    written_at: float
    """Unix seconds, by the storage's clock."""


def left_states(storage: Storage, *, idle_hours: float = IDLE_HOURS) -> list[LeftState]:
    """The checkpoints of a storage whose sweep was left, or that their sweep's last command left out, oldest first.

    Paused candidates of a sweep that runs are not among them, and nothing that a process writes.

    Args:
        idle_hours: how long nothing of a sweep (or of a trial that belongs to none) was written.

    Raises:
        OSError: the storage can't be read.
    """
    last: dict[str, float] = {}
    states: dict[str, LeftState] = {}
    stamps = storage.runs.stamps()
    for name, stamp in stamps.items():
        trial_id, _, file = name.partition("/")
        last[trial_id] = max(last.get(trial_id, 0.0), stamp.modified_at)
        if file == CHECKPOINT:
            states[trial_id] = LeftState(trial_id, stamp.num_bytes, stamp.modified_at)
    leased = [name.partition("/")[0] for name in stamps if name.endswith(f"/{LEASE}")]
    written = {trial_id for trial_id in leased if storage.run_dir(trial_id).has_writer()}
    since = time.time() - 3600 * idle_hours
    alive = written | {trial_id for trial_id, at in last.items() if at > since}
    wanted = set(written)
    grouped: set[str] = set()
    for sweep, catalogue in catalogues(storage).items():
        if catalogue.is_damaged and alive:
            wanted |= states.keys()  # any may be one of its own
        grouped |= set(catalogue.entries)
        own = states.keys() & catalogue.entries
        if own and not alive.isdisjoint(catalogue.entries):
            wanted |= _of_last_command(storage, sweep, own)
    wanted |= alive - grouped
    left = [state for trial_id, state in states.items() if trial_id not in wanted]
    return sorted(left, key=lambda state: state.written_at)


def left_behind(storage: Storage, wanted: Collection[str] = ()) -> str:
    """What left states take and how to have it back, in a line; empty if there are none.

    Args:
        wanted: ids of trials that are about to go on.
    """
    states = [state for state in left_states(storage) if state.trial_id not in wanted]
    if not states:
        return ""
    room = f"{plain(sum(state.num_bytes for state in states) / 1e9)} GB in {counted(len(states), 'checkpoint')}"
    command = f"{command_of('clean')} --storage {shlex.quote(storage.location)}"
    return f"{room} of trials that no sweep works at: {command} lists them, with --yes it gives their room back"


def _of_last_command(storage: Storage, sweep: str, trial_ids: Collection[str]) -> set[str]:
    """Those of a sweep's trials that its last session's cells have."""
    commands, num_damaged = read_commands(storage, sweep)
    if num_damaged:
        return set(trial_ids)  # the last command may be among what can't be read
    runs, _ = storage.read_runs(trial_ids)
    others = {key for key, run in runs.items() if commands and commands[-1].cell_for(cell_of(run.config)) is None}
    return set(trial_ids) - others
