"""FolderWatch: how the trials of a storage stand by their run folders alone, read again and again."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

from sweeps.display.standing import Event, Standing, TrialProgress
from sweeps.display.sweep_display import outcome
from sweeps.records.commands import Command, candidate_of, read_commands
from sweeps.records.slots import Hold, read_slots, slot_lines
from sweeps.records.trial_record import record_of
from sweeps.table.cells import place_in_table
from vit_trainer.errors import DamagedError, counted, reason_of
from vit_trainer.files.folder import Folder, RemoteFolder, Stamp
from vit_trainer.files.run_dir import CONFIG, JOURNAL, LEASE, RESULT, Row, Run, RunDir
from vit_trainer.files.schema import row_text
from vit_trainer.files.storage import AWAITED, COMMANDS, NO_RUN, SLOTS, Storage, in_parallel

SILENT_SECONDS = 300.0
"""After so long without a change in its folder a trial is called silent: its process may have been killed."""


SILENT_ROWS = 3
"""It may also take so many times as long as between its last two rows."""


MAX_EVENTS = 20


@dataclass(frozen=True)
class _Seen:
    """What was read of one run folder, and when that has to be done again."""

    stamps: dict[str, Stamp]
    """Stamps of the files that it was read from, by name."""
    holds: tuple[Hold, ...] = ()
    """When it held slots, by what was read of the sweeps' files."""
    progress: TrialProgress | None = None
    """None: see `complaint`."""
    events: tuple[Event, ...] = ()
    on_gpus: bool = False
    row_seconds: float = 0.0
    """Time between its last two rows."""
    complaint: str = ""
    """Why this folder can't be shown."""


class FolderWatch:
    """Reads a storage again and again; of what hasn't changed since the last time, only the list of files."""

    def __init__(self, storage: str, clock: Callable[[], float] = time.time) -> None:
        """clock: Unix seconds.

        Raises:
            InputError: there is no such folder, or the URI can't be used.
        """
        self._storage = Storage.existing(storage)
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._sweep_stamps: dict[str, Stamp] = {}
        self._commands: list[Command] = []
        self._holds: dict[str, list[Hold]] = {}
        self._damaged: list[str] = []
        self._awaits: list[tuple[str, float]] = []
        """What sweeps say of nodes that don't come, and when they last said so in Unix seconds."""

    @property
    def location(self) -> str:
        """Path or URI of the storage."""
        return self._storage.location

    def read(self) -> Standing:
        """How the trials stand that have a run folder; nothing is written.

        Raises:
            OSError: the storage can't be read.
        """
        runs = self._storage.runs
        in_order = sorted(runs.stamps().items())
        files = {
            trial_id: {name.partition("/")[2]: stamp for name, stamp in group}
            for trial_id, group in groupby(in_order, key=lambda item: item[0].partition("/")[0])
        }
        stamps = {
            trial_id: {name: of_folder[name] for name in (CONFIG, LEASE, JOURNAL, RESULT) if name in of_folder}
            for trial_id, of_folder in files.items()
        }
        self._read_sweeps()
        holds = {trial_id: tuple(self._holds.get(trial_id, ())) for trial_id in stamps}
        known = {trial_id: (seen.stamps, seen.holds) for trial_id, seen in self._seen.items()}
        changed = [key for key, of_files in stamps.items() if known.get(key) != (of_files, holds[key])]
        read = in_parallel(lambda key: _read(runs, key, stamps[key], holds[key]), changed)
        fresh = dict(zip(changed, read, strict=True))
        self._seen = {trial_id: fresh[trial_id] if trial_id in fresh else self._seen[trial_id] for trial_id in stamps}
        now = self._clock()
        silence = {key: now - max(stamp.modified_at for stamp in files[key].values()) for key in stamps}
        return self._standing(now, silence)

    def _read_sweeps(self) -> None:
        """What sweeps' own files say of trials."""
        stamps = self._storage.folder.child("sweeps").stamps()
        own = {
            name: stamp for name, stamp in stamps.items() if name.endswith((f"/{COMMANDS}", f"/{SLOTS}", f"/{AWAITED}"))
        }
        if own == self._sweep_stamps:
            return
        names = sorted({name.partition("/")[0] for name in own})
        read = {name: read_commands(self._storage, name) for name in names}
        commands = [command for found, _ in read.values() for command in found]
        self._commands = sorted(commands, key=lambda command: command.time)
        damaged = [(f"{name}/{COMMANDS}", count) for name, (_, count) in read.items()]
        damaged += [(f"{name}/{SLOTS}", slot_lines(self._storage, name)[1]) for name in names]
        said = [f"sweeps/{file}: {counted(count, 'damaged line')}" for file, count in damaged if count]
        self._damaged = [f"left out: {each}" for each in said]
        self._holds = read_slots(self._storage, names)
        self._awaits = []
        with suppress(OSError):  # gone meanwhile, or no file: its sweep writes it anew
            for name in [name for name in own if name.endswith(AWAITED)]:
                text = (self._storage.folder.child("sweeps").read(name) or b"").decode(errors="replace")
                self._awaits += [(text, own[name].modified_at)] if text else []
        self._sweep_stamps = own

    def _standing(self, now: float, silence: dict[str, float]) -> Standing:
        """silence: seconds since anything changed in a folder, by trial id."""
        trials: list[TrialProgress] = []
        events: list[Event] = []
        complaints = list(self._damaged)
        for trial_id, seen in self._seen.items():
            events += seen.events
            if seen.progress is None:
                is_new = not seen.complaint and silence[trial_id] < SILENT_SECONDS
                complaints += [] if is_new else [f"left out: {seen.complaint or f'runs/{trial_id}: {NO_RUN}'}"]
                continue
            limit = max(SILENT_SECONDS, SILENT_ROWS * seen.row_seconds)
            is_silent = seen.progress.is_running and silence[trial_id] > limit
            trials.append(replace(seen.progress, silent_seconds=silence[trial_id]) if is_silent else seen.progress)
        candidates = [_as_candidates(each, self._commands) for each in trials]
        if not self._seen:
            complaints.append(f"no trial has begun in {self.location}")
        return Standing(
            cells=tuple(sorted({each.trial.cell for of_one in candidates for each in of_one}, key=place_in_table)),
            trials=tuple(first for first, *_ in candidates),
            num_expected=None,
            now=now,
            on_gpus=any(seen.on_gpus for seen in self._seen.values()),
            events=tuple(sorted(events, key=lambda event: event.time)[-MAX_EVENTS:]),
            awaits="; ".join(line for line, at in self._awaits if now - at < SILENT_SECONDS),
            complaints=tuple(complaints),
            also=tuple(each for _, *others in candidates for each in others),
        )


def _read(runs: Folder, trial_id: str, stamps: dict[str, Stamp], holds: tuple[Hold, ...]) -> _Seen:
    try:
        run = RunDir(runs.child(trial_id), stamps if isinstance(runs, RemoteFolder) else None).read()
    except OSError as error:  # without stamps: read again
        return _Seen({}, holds, complaint=f"runs/{trial_id} cannot be read ({reason_of(error)})")
    except DamagedError as error:
        return _Seen(stamps, holds, complaint=str(error))
    if run is None:
        return _Seen(stamps, holds)
    record, lines, result = record_of(run), run.lines, run.result
    attempts = record.attempts
    num_slots = record.last_attempt.get("num_processes", 1)
    progress = TrialProgress(record.trial, trial_id, num_slots=num_slots).after(lines, holds)
    progress = replace(progress, is_paused=bool(lines) and "paused" in lines[-1])
    events = [Event(float(line["time"]), f"{trial_id}: {text}") for line in lines if (text := _text(line))]
    if result is not None:
        progress = progress.ended(result)
        ended_at = stamps[RESULT].modified_at if RESULT in stamps else time.time()
        events.append(Event(ended_at, f"{trial_id}: {outcome(result)}"))
    elif LEASE in stamps:
        is_held = bool(holds) and holds[-1].until is None
        since = holds[-1].since if is_held else stamps[LEASE].modified_at
        progress = progress.began(max(progress.counted_until, since))
        begun = max((i for i, line in enumerate(lines) if "attempt" in line), default=0)
        progress = replace(progress, is_starting=not any("step" in line for line in lines[begun:]))
    times = [line["time"] for line in lines if "step" in line][-2:]
    on_gpus = any(line["device"] == "cuda" for line in attempts)
    return _Seen(stamps, holds, progress, tuple(events), on_gpus, times[-1] - times[0] if times else 0.0)


def _text(line: Row) -> str:
    """What a line of the journal tells as an event; nothing for most."""
    if "attempt" in line:
        begins = f"goes on after step {line['from_step']}" if line["from_step"] else "started"
        return f"{begins} on {line['host']}"
    return f"paused at step {line['paused']}" if "paused" in line else line.get("note", "")


def log_lines(run: Run) -> list[str]:
    """What a trial's run folder says of its course, in order; where it has failed with the traceback."""
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(line['time']))} {_text(line) or row_text(line)}"
        for line in run.lines
        if _text(line) or "step" in line
    ]
    result = run.result or {}
    lines += [outcome(result), *str(result.get("traceback", "")).splitlines()] if result else []
    hosts = list(dict.fromkeys(str(line["host"]) for line in run.lines if "host" in line))
    where = "Ray's folder, /tmp/ray/session_latest/logs unless it was told otherwise"
    return [*lines, *([f"what its processes printed is on {', '.join(hosts)} in {where}"] if hosts else [])]


def _as_candidates(progress: TrialProgress, commands: list[Command]) -> list[TrialProgress]:
    """A trial in each cell that commands had it as a candidate of, the last one's first: searches share trials."""
    own = progress.trial.cell
    cells = dict.fromkeys(cell for command in reversed(commands) if (cell := command.cell_for(own)) is not None)
    return [replace(progress, trial=candidate_of(progress.trial, cell)) for cell in cells or [own]]
