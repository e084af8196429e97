"""Results: what the run folders of a storage hold, as the cells of a table. Reads, and writes nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sweeps.records.cell_record import CellRecord
from sweeps.records.commands import Command, candidate_of, read_commands
from sweeps.records.decisions import Decision, read_decisions
from sweeps.records.parity import NodeParity, read_parity
from sweeps.records.predicted_hours import with_predicted_hours
from sweeps.records.slots import read_slots, slot_lines
from sweeps.records.trial_record import SPEEDS, TrialRecord, record_of
from sweeps.records.unpacked import Packed, read_data_hashes, read_packed
from sweeps.table.cells import Cell, place_in_table
from sweeps.table.published import figures_for, is_left_open, published_for
from sweeps.table.spread import Kind, kind_of, spread_for
from sweeps.table.whole_table import WholeTable, whole_table
from vit_trainer.errors import InputError, counted
from vit_trainer.files.storage import COMMANDS, DECISIONS, PARITY, SLOTS, TRACKING, Storage
from vit_trainer.tracking.catalogue import Catalogue


@dataclass(frozen=True)
class Results:
    """Everything that a report is made of."""

    location: str
    """Path or URI of the storage."""
    cells: tuple[CellRecord, ...]
    """The cells of which anything was run, in the order of the published table."""
    decisions: tuple[Decision, ...]
    """What was decided about candidates in all sweeps of the storage."""
    complaints: tuple[str, ...]
    """What could not be read and was left alone, a line each."""
    parity: tuple[NodeParity, ...] = ()
    """What nodes came to that were compared with the official code."""
    sweep: str | None = None
    """Whose results these are; None: of the whole storage."""
    packed: tuple[Packed, ...] = ()
    """The bundles of evidence that were made of these, in the order of time."""
    data_hashes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What is known of data sets whose files were read for their hash, `sha256` among it."""

    @property
    def trials(self) -> list[TrialRecord]:
        """The trials of all cells, each once."""
        return list({trial.trial_id: trial for record in self.cells for trial in record.trials}.values())

    @property
    def on_gpus(self) -> bool:
        """Whether hours are GPU-hours, because any trial had a GPU."""
        return any(attempt.get("device") == "cuda" for trial in self.trials for attempt in trial.attempts)

    @property
    def has_published(self) -> bool:
        """Whether there is anything to compare with."""
        return any(record.figure is not None or record.others or record.is_left_open for record in self.cells)

    @cached_property
    def judged(self) -> list[CellRecord]:
        """The cells with a verdict."""
        return [record for record in self.cells if record.verdict is not None]

    @cached_property
    def whole(self) -> WholeTable:
        """What the verdicts on these say together."""
        return whole_table([(kind_of(each.cell), each.verdict) for each in self.judged if each.verdict is not None])

    @property
    def speeds(self) -> tuple[str, ...]:
        """Which of SPEEDS are known of any cell; none where all trials are older versions', which knew one alone."""
        known = tuple(name for name in SPEEDS if any(record.speed(name) is not None for record in self.cells))
        return known if len(known) > 1 else ()


def gather(storage: Storage, sweep: str | None = None) -> Results:
    """Read every run folder of a storage, whichever sweeps or single runs left it.

    Args:
        sweep: name of a sweep, for its cells and trials alone; those that it shares with others too.

    Raises:
        OSError: the storage can't be read.
    """
    own = None if sweep is None else Catalogue(storage, sweep).entries
    complaints: list[str] = []
    commands: list[Command] = []
    decisions: list[Decision] = []
    parity: list[NodeParity] = []
    for name in storage.sweep_names():
        commands += read_commands(storage, name)[0]
        decisions += read_decisions(storage, name)[0]
        parity += read_parity(storage, name)[0] if sweep in (None, name) else []
        complaints += damaged_lines(storage, name)
    runs, left_out = storage.read_runs(name for name in storage.trial_ids() if own is None or name in own)
    holds = read_slots(storage)
    trials, unread = with_predicted_hours([record_of(run, holds.get(name, ())) for name, run in runs.items()], storage)
    complaints += [*left_out.values(), *unread]
    cells, unknown = _cells(trials, sorted(commands, key=lambda each: each.time), sweep)
    complaints += [unknown] if unknown else []
    if own is not None:
        decisions = [decision for decision in decisions if decision.trial_id in own]
    packed = tuple(each for each in read_packed(storage) if each.sweep == sweep)
    found = (tuple(cells), tuple(decisions), tuple(complaints), tuple(parity))
    return Results(storage.location, *found, sweep, packed, read_data_hashes(storage))


def damaged_lines(storage: Storage, sweep: str) -> list[str]:
    """Which of a sweep's own files hold what can't be read, and how much, a line each."""
    read = {COMMANDS: read_commands, DECISIONS: read_decisions, PARITY: read_parity, SLOTS: slot_lines}
    counts = {file: read_file(storage, sweep)[1] for file, read_file in read.items()}
    counts[TRACKING] = int(Catalogue(storage, sweep).is_damaged)
    return [f"sweeps/{sweep}/{file}: {counted(count, 'damaged line')}" for file, count in counts.items() if count]


def _cells(
    trials: Iterable[TrialRecord], commands: list[Command], sweep: str | None
) -> tuple[list[CellRecord], str | None]:
    """The cells of the table, and why nothing published can be read, if so."""
    by_cell: dict[Cell, list[TrialRecord]] = {}
    lines: dict[Cell, list[str]] = {}
    prices: dict[Cell, float] = {}
    for record in trials:
        own = record.trial.cell
        ran = [(cell, command) for command in commands if (cell := command.cell_for(own)) is not None]
        for cell in dict.fromkeys([cell for cell, command in ran if sweep in (None, command.sweep)] or [own]):
            by_cell.setdefault(cell, []).append(replace(record, trial=candidate_of(record.trial, cell)))
            lines.setdefault(cell, []).extend(command.line for of, command in ran if of == cell)
            for of, command in ran:
                if of == cell and command.dollars_per_gpu_hour is not None:
                    prices[cell] = command.dollars_per_gpu_hour
    cells, unknown = [], None
    for cell in sorted(by_cell, key=place_in_table):
        found = CellRecord(cell, tuple(by_cell[cell]), None, tuple(dict.fromkeys(lines[cell])))
        found = replace(found, dollars_per_gpu_hour=prices.get(cell))
        try:
            found = _with_published(found)
        except InputError as error:
            unknown = str(error)
        cells.append(found)
    return _with_spreads(cells), unknown


def _with_spreads(cells: list[CellRecord]) -> list[CellRecord]:
    """Those that have a published figure with the spread behind their verdict, of all runs here of their kind."""
    repeats: dict[Kind, dict[str, list[float]]] = {}
    for record in cells:
        if record.cell.dropout is not None:  # else its candidates are other cells' trials
            repeats.setdefault(kind_of(record.cell), {}).update(record.repeats)
    return [
        replace(record, spread=spread_for(record.cell, repeats[kind_of(record.cell)].values()))
        if record.figure is not None
        else record
        for record in cells
    ]


def _with_published(record: CellRecord) -> CellRecord:
    """The cell's record with what was published for it; raises InputError if the published tables aren't there."""
    cell, figure = record.cell, published_for(record.cell)
    others = tuple(other for other in figures_for(cell) if other != figure)
    return replace(record, figure=figure, others=others, is_left_open=is_left_open(cell))
