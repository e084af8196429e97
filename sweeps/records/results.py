"""Results: what the run folders of a storage hold, as the cells of a table. Reads, and writes nothing."""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sweeps.machines.cards import CARDS, DEFAULT_CARD, card_of_device
from sweeps.planning.probed_rates import Workload, known
from sweeps.planning.rates import Rates
from sweeps.records.commands import Command, read_commands
from sweeps.records.decisions import Decision, read_decisions
from sweeps.records.hours import hours_lost, hours_not_run, hours_of
from sweeps.table.cells import Cell, Trial, cell_of, place_in_table
from sweeps.table.published import PublishedFigure, figures_for, is_left_open, published_for
from sweeps.table.verdict import Verdict, chosen_seeds, verdict_on
from vit_trainer.config import trial_id_of
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.files.storage import COMMANDS, DECISIONS, Storage
from vit_trainer.loop.probe import ProbeResult
from vit_trainer.tracking.catalogue import Catalogue

NUM_READERS = 8
"""Run folders that are read at a time."""
UNFINISHED = "unfinished"
"""Status of a run without a result: it waits to be gone on with, or runs."""


@dataclass(frozen=True)
class Run:
    """What one run folder holds."""

    trial_id: str
    config: Mapping[str, Any]
    """Content of config.json."""
    trial: Trial
    """In the cell whose candidate it is."""
    lines: tuple[Row, ...]
    """Every line of the journal in the order written."""
    result: Mapping[str, Any] | None
    """Content of result.json."""
    predicted_hours: float | None
    """Of a whole run, as a plan would have said for its card; None: nothing is known."""

    @property
    def status(self) -> str:
        """finished, stopped, failed or unfinished."""
        return UNFINISHED if self.result is None else str(self.result["status"])

    @cached_property
    def journal(self) -> list[Row]:
        """The journal's rows, one per step, as `RunDir.journal`."""
        return [row for _, row in sorted({line["step"]: line for line in self.lines if "step" in line}.items())]

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return int(self.journal[-1]["step"]) if self.journal else 0

    @property
    def total_steps(self) -> int:
        return self.trial.cell.schedule.total_steps

    @property
    def hours(self) -> float:
        """GPU-hours, or hours of a slot where there is no GPU; those of steps that were run again left out."""
        return max(hours_of(self.journal[-1]) if self.journal else 0.0, hours_of(self.result or {}))

    @property
    def wall_hours(self) -> float:
        """From start to end, as far as it has come."""
        return float((self.result or (self.journal[-1] if self.journal else {})).get("runtime_hours") or 0.0)

    @property
    def predicted_hours_so_far(self) -> float | None:
        """What the steps taken were predicted to take."""
        return None if self.predicted_hours is None else self.predicted_hours * self.step / self.total_steps

    @property
    def saved_hours(self) -> float:
        """At least so many would have gone into it, had it not been stopped."""
        return hours_not_run(self.result, self.journal, self.total_steps)

    @cached_property
    def lost_hours(self) -> float:
        """At least so many went into steps that had to be run again."""
        return hours_lost(self.lines)

    @property
    def attempts(self) -> list[Row]:
        """Each time that a process began or went on with it."""
        return [line for line in self.lines if "attempt" in line]

    @property
    def notes(self) -> list[str]:
        """What its processes noted, such as memory that ran out."""
        return [str(line["note"]) for line in self.lines if "note" in line]

    @property
    def validations(self) -> list[tuple[int, float]]:
        """(optimiser step, accuracy as a fraction); what was no number is left out."""
        found = [(row["step"], row["val/accuracy"]) for row in self.journal if "val/accuracy" in row]
        return [(step, accuracy) for step, accuracy in found if math.isfinite(accuracy)]

    @property
    def last_time(self) -> float | None:
        """Unix seconds of the journal's last line; None without one."""
        return float(self.lines[-1]["time"]) if self.lines else None


@dataclass(frozen=True)
class Entry:
    """One cell of the table and everything that was run for it."""

    cell: Cell
    runs: tuple[Run, ...]
    """Its candidates."""
    figure: PublishedFigure | None
    """What was published for it; None: nothing, or it can't be read."""
    commands: tuple[str, ...]
    """The command lines of the sweeps that ran it, the oldest first; none for trials that no sweep ran."""
    others: tuple[PublishedFigure, ...] = ()
    """What else was published for it, or quoted; no verdict is about these."""
    is_left_open: bool = False
    """Whether a published table has its row without a figure."""

    @cached_property
    def chosen(self) -> tuple[Run, ...]:
        """The candidate that counts, each of its seeds: the best on the validation images; none if none is finished."""
        by_trial = {run.trial: run for run in self.runs if run.status == "finished"}
        return tuple(
            by_trial[trial] for trial, _ in chosen_seeds((run.trial, run.result or {}) for run in by_trial.values())
        )

    @property
    def accuracies(self) -> list[float]:
        """On the test images, of the chosen candidate's seeds; fractions."""
        return [run.result["test/accuracy"] for run in self.chosen if run.result is not None]

    @property
    def accuracy(self) -> float | None:
        """What the cell achieved: the mean over seeds, a fraction."""
        return _mean(self.accuracies)

    @property
    def validation_accuracy(self) -> float | None:
        """By which the candidate was chosen: the mean over seeds, a fraction."""
        return _mean([run.result["val/accuracy"] for run in self.chosen if run.result is not None])

    @cached_property
    def verdict(self) -> Verdict | None:
        """None where nothing is published or achieved."""
        if self.figure is None or not self.accuracies:
            return None
        return verdict_on(self.figure, self.accuracies)

    @property
    def wall_hours(self) -> float | None:
        """Hours from start to end of one run of the chosen candidate: the mean over seeds."""
        return _mean([run.wall_hours for run in self.chosen])

    @property
    def hours(self) -> float:
        """Of all candidates, as `Run.hours`."""
        return sum(run.hours for run in self.runs)

    @property
    def saved_hours(self) -> float:
        return sum(run.saved_hours for run in self.runs)

    @property
    def lost_hours(self) -> float:
        return sum(run.lost_hours for run in self.runs)

    @property
    def predicted_hours(self) -> float | None:
        """What the steps taken by all candidates were predicted to take; None if one's isn't known."""
        predicted = [run.predicted_hours_so_far for run in self.runs]
        known_hours = [hours for hours in predicted if hours is not None]
        return sum(known_hours) if len(known_hours) == len(predicted) else None

    @property
    def device(self) -> str | None:
        """What the chosen candidate (without one, any) ran on, such as `8 x NVIDIA H200`; None: not recorded."""
        names = [_device(run.attempts[-1]) for run in self.chosen or self.runs if run.attempts]
        return ", ".join(dict.fromkeys(name for name in names if name)) or None

    def name_of(self, run: Run) -> str:
        """What tells a candidate from the others of its cell: `0.003`, or `0.003 dropout 0.07 seed 1`."""
        trial = run.trial
        parts = [f"{trial.base_lr:g}"]
        parts += [f"dropout {trial.dropout:g}"] if trial.dropout is not None else []
        warmup = trial.cell.schedule.warmup_steps if trial.warmup_steps is None else trial.warmup_steps
        parts += [f"warm-up {warmup}"] if len({each.trial.warmup_steps for each in self.runs}) > 1 else []
        parts += [f"seed {trial.seed}"] if len({each.trial.seed for each in self.runs}) > 1 else []
        return " ".join(parts)

    def count(self, status: str) -> int:
        """Candidates with a status."""
        return sum(run.status == status for run in self.runs)

    @property
    def num_stopped_seeds(self) -> int:
        """Seeds of the chosen candidate that early stopping ended: those left are the better ones."""
        seeds = {replace(run.trial, seed=0) for run in self.chosen}
        return sum(run.status == "stopped" and replace(run.trial, seed=0) in seeds for run in self.runs)


@dataclass(frozen=True)
class Results:
    """Everything that a report is made of."""

    location: str
    """Path or URI of the storage."""
    entries: tuple[Entry, ...]
    """In the order of the published table."""
    decisions: tuple[Decision, ...]
    """Of all its sweeps."""
    complaints: tuple[str, ...]
    """What could not be read and was left alone, a line each."""
    sweep: str | None = None
    """Whose results these are; None: of the whole storage."""

    @property
    def runs(self) -> list[Run]:
        """Of all entries, each once."""
        return list({run.trial_id: run for entry in self.entries for run in entry.runs}.values())

    @property
    def on_gpus(self) -> bool:
        """Whether hours are GPU-hours."""
        return any(attempt.get("device") == "cuda" for run in self.runs for attempt in run.attempts)

    @property
    def has_published(self) -> bool:
        """Whether there is anything to compare with."""
        return any(entry.figure is not None or entry.others or entry.is_left_open for entry in self.entries)


def gather(storage: Storage, sweep: str | None = None) -> Results:
    """Read every run folder of a storage, whichever sweeps or single runs left it.

    Args:
        sweep: only the cells and trials of this one; those that it shares with others too.

    Raises:
        OSError: the storage can't be read.
    """
    own = None if sweep is None else Catalogue(storage, sweep).entries
    complaints: list[str] = []
    commands: list[Command] = []
    decisions: list[Decision] = []
    for name in storage.sweep_names():
        try:
            given, num_damaged = read_commands(storage, name)
            decided, num_damaged_decisions = read_decisions(storage, name)
        except NotADirectoryError:
            complaints.append(f"sweeps/{name}: not a sweep's folder")
            continue
        commands += given
        decisions += decided
        for file, count in ((COMMANDS, num_damaged), (DECISIONS, num_damaged_decisions)):
            complaints += [f"sweeps/{name}/{file}: {count} damaged lines"] if count else []
    names = [name for name in storage.trial_ids() if own is None or name in own]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        read = list(pool.map(lambda name: _read_or_complain(storage.run_dir(name)), names))
    complaints += [each for each in read if isinstance(each, str)]
    runs = _predicted([each for each in read if isinstance(each, Run)], storage, complaints)
    entries, unknown = _entries(runs, sorted(commands, key=lambda each: each.time), sweep)
    complaints += [unknown] if unknown else []
    if own is not None:
        decisions = [decision for decision in decisions if decision.trial_id in own]
    return Results(storage.location, tuple(entries), tuple(decisions), tuple(complaints), sweep)


def _read_or_complain(run_dir: RunDir) -> Run | str:
    """What a run folder holds, or why it is left alone."""
    name = run_dir.trial_id
    try:
        return _read(run_dir)
    except OSError as error:
        return f"runs/{name}: cannot be read ({reason_of(error)})"
    except InputError as error:
        return f"runs/{name}: {error}"
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return f"runs/{name}: damaged ({type(error).__name__}: {error})"


def _read(run_dir: RunDir) -> Run:
    """Raises one of what `_read_or_complain` names for what is no trial's run folder."""
    config = run_dir.config()
    if config is None:
        raise InputError("no config.json: not a run folder, or its process was killed at once")
    cell = cell_of(config)
    if (own := trial_id_of(config)) != run_dir.trial_id:
        raise InputError(f"a copy: its config.json is that of {own}")
    lines, result = run_dir.lines(), run_dir.result()
    trial = Trial(cell, float(config["base_lr"]), int(config["seed"]))
    run = Run(run_dir.trial_id, config, trial, tuple(lines), result, None)
    if result is not None:
        if result["status"] not in ("finished", "stopped", "failed"):
            raise ValueError(f"status {result['status']!r} in result.json")
        for name in ("test/accuracy", "val/accuracy") if result["status"] == "finished" else ():
            if not (isinstance(result[name], int | float) and 0 <= result[name] <= 1):
                raise ValueError(f"{name} {result[name]!r} in result.json is no fraction")
    # What a report will look at is looked at now, so that a damaged journal is named rather than fatal.
    _ = run.validations, run.hours, run.wall_hours, run.saved_hours, run.lost_hours, run.last_time
    _ = [_device(attempt) for attempt in run.attempts]
    return run


def _predicted(runs: list[Run], storage: Storage, complaints: list[str]) -> list[Run]:
    """The runs with the hours that a plan would have said: by a probe of their device, else by their card's peak."""
    workloads: dict[str, Workload] = {}
    for run in runs:
        try:
            workloads[run.trial_id] = Workload.of(run.trial)
        except InputError:
            continue  # of a folder of classes config.json has the id, not the place
    measured: dict[Workload, ProbeResult] = {}
    try:
        measured = known([run.trial for run in runs if run.trial_id in workloads], storage)
    except InputError as error:
        complaints.append(str(error))

    def hours(run: Run) -> float | None:
        workload = workloads.get(run.trial_id)
        if workload is None or not run.attempts:
            return None
        device = run.attempts[-1].get("device_name")
        probed = measured.get(workload)
        if probed is not None and probed.device_name == device:
            return Rates(CARDS[DEFAULT_CARD], {workload: probed}).hours(run.trial)
        card = card_of_device(str(device))
        return None if card is None else Rates(card).hours(run.trial)

    return [replace(run, predicted_hours=hours(run)) for run in runs]


def _entries(runs: Iterable[Run], commands: list[Command], sweep: str | None) -> tuple[list[Entry], str | None]:
    """The cells of the table, and why nothing published can be read, if so."""
    by_cell: dict[Cell, list[Run]] = {}
    lines: dict[Cell, list[str]] = {}
    for run in runs:
        own = run.trial.cell
        ran = [(cell, command) for command in commands if (cell := command.cell_for(own)) is not None]
        for cell in dict.fromkeys([cell for cell, command in ran if sweep in (None, command.sweep)] or [own]):
            by_cell.setdefault(cell, []).append(replace(run, trial=_candidate_of(run.trial, cell)))
            lines.setdefault(cell, []).extend(command.line for of, command in ran if of == cell)
    entries, unknown = [], None
    for cell in sorted(by_cell, key=place_in_table):
        entry = Entry(cell, tuple(by_cell[cell]), None, tuple(dict.fromkeys(lines[cell])))
        try:
            figure = published_for(cell)
            others = tuple(other for other in figures_for(cell) if other != figure)
            entry = replace(entry, figure=figure, others=others, is_left_open=is_left_open(cell))
        except InputError as error:
            unknown = str(error)
        entries.append(entry)
    return entries, unknown


def _candidate_of(trial: Trial, cell: Cell) -> Trial:
    """The trial as a candidate of a cell; what was searched there is its own."""
    own = trial.cell
    return replace(
        trial,
        cell=cell,
        dropout=own.dropout if cell.dropout is None else None,
        warmup_steps=own.schedule.warmup_steps if own.schedule != cell.schedule else None,
    )


def _device(attempt: Row) -> str:
    """Of an attempt; empty if it wasn't recorded."""
    name = str(attempt.get("device_name") or "")
    num_processes = int(attempt.get("num_processes", 1))
    return f"{num_processes} x {name}" if name and num_processes > 1 else name


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
