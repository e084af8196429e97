"""Comparison: two results side by side, with the verdict between them: of two storages, or of someone's own table."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from sweeps.records.results import Results, gather
from sweeps.records.unpacked import unpacked
from sweeps.reporting.pages import Block, Heading, Paragraph, TextTable
from sweeps.reporting.texts import labels_of, percent, points, verdict_text
from sweeps.table.cells import Cell, Schedule, official_cell
from sweeps.table.spread import MIN_DEGREES_OF_FREEDOM, Kind, Spread, kind_of, pooled, spread_for
from sweeps.table.verdict import MARGINS, Verdict, judge
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.storage import Storage

NO_MARGIN = 1e-9
"""Where nobody has said what still counts as the same, so that nothing is `reproduced`."""
COLUMNS = ("resolution", "total_steps", "warmup_steps", "global_batch_size", "upstream")
"""Of a table of someone's own, what may be left out where it is the official recipe's."""


@dataclass(frozen=True)
class Other:
    """Results from elsewhere."""

    name: str
    """What they are called: their storage or file."""
    accuracies: Mapping[Cell, Sequence[float]]
    """Test accuracies (fractions) by cell, one per seed."""


def read_other(given: str) -> Other:
    """The results of another storage, a bundle of evidence, or a CSV file with a row per cell, such as a table.csv.

    Its columns: model, dataset, accuracy (a fraction) or accuracies (several, with spaces between); and where they
    aren't the official recipe's, dropout, resolution, total_steps, warmup_steps, global_batch_size and upstream.

    Raises:
        InputError: neither of these; says which row and column.
    """
    if given.lower().endswith(".zip"):
        with unpacked(given) as folder:
            return replace(read_other(str(folder)), name=given)
    if not given.lower().endswith(".csv"):
        storage = Storage.existing(given)
        if not storage.trial_ids():
            raise InputError(f"no trial has begun in {given}: give a storage, an evidence.zip or a CSV file")
        results = gather(storage)
        return Other(given, {each.cell: each.accuracies for each in results.cells if each.accuracies})
    try:
        with Path(given).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {given} ({reason_of(error)}): give a CSV file, or a storage") from error
    found: dict[Cell, Sequence[float]] = {}
    for number, row in enumerate(rows, 2):
        try:
            if accuracies := _accuracies(row):
                found[_cell(row)] = accuracies
        except (InputError, ValueError, TypeError, KeyError) as error:
            said = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{given}, line {number}: {said}; its columns: docs/verdict.md") from error
    return Other(given, found)


def comparison(results: Results, other: Other) -> list[Block]:
    """The cells that both have, side by side."""
    labels, rows = labels_of(results), []
    groups: dict[Kind, list[Sequence[float]]] = {}
    shared = [each for each in results.cells if each.accuracies and each.cell in other.accuracies]
    for record in shared:
        groups.setdefault(kind_of(record.cell), []).extend([record.accuracies, other.accuracies[record.cell]])
    for record in shared:
        cell, there = record.cell, other.accuracies[record.cell]
        spread = _spread(cell, groups[kind_of(cell)])
        mean = fmean(there)
        verdict = None
        if spread is not None:
            margin = MARGINS.get(cell.dataset, NO_MARGIN)
            verdict = judge(record.accuracies, mean, len(there), spread, margin)
        difference = points(fmean(record.accuracies) - mean)
        rows.append((labels.name(cell), _text(record.accuracies), _text(there), *_verdict_texts(difference, verdict)))
    said = f"{len(shared)} of {len(results.cells)} cells are in {other.name} too."
    if not shared:
        return [Heading("Side by side"), Paragraph(said)]
    header = ("cell", "here", "there", "difference,\n95% interval", "verdict")
    return [Heading("Side by side"), Paragraph(said), TextTable(header, tuple(rows), numbers=frozenset({1, 2}))]


def comparison_lines(results: Results, other: Other) -> list[str]:
    """The same as lines for a terminal."""
    _, said, *tables = comparison(results, other)
    assert isinstance(said, Paragraph)
    lines = [said.text]
    for table in tables:
        assert isinstance(table, TextTable)
        for cell, here, there, difference, verdict in table.rows:
            line = f"{cell}: {here} here, {there} there, {difference}: {verdict}"
            lines.append(line.replace("\n", " of ", 2).replace("\n", ", "))
    return lines


def _verdict_texts(difference: str, verdict: Verdict | None) -> tuple[str, str]:
    if verdict is None:
        return difference, "too few runs"
    low, high = verdict.interval_95
    return f"{difference}\n{points(low)} to {points(high)}", verdict_text(verdict.status)


def _spread(cell: Cell, groups: Sequence[Sequence[float]]) -> Spread | None:
    """How much single runs differ: as behind a verdict on a published figure, else those of both sides."""
    try:
        return spread_for(cell, groups)
    except InputError:
        several = [group for group in groups if len(group) > 1]
        if sum(len(group) - 1 for group in several) < MIN_DEGREES_OF_FREEDOM:
            return None
        spread = pooled(several)
        return spread if spread.deviation else None


def _text(accuracies: Sequence[float]) -> str:
    mean = percent(fmean(accuracies))
    return f"{mean}\n{len(accuracies)} seeds" if len(accuracies) > 1 else mean


def _accuracies(row: Mapping[str, str]) -> list[float]:
    """Of a row, fractions; none where its cell isn't done. Raises InputError for percents."""
    accuracies = [float(value) for value in (row.get("accuracies") or row.get("accuracy") or "").split()]
    if not {"accuracy", "accuracies"} & row.keys():
        raise KeyError("accuracy")
    if not all(0 <= accuracy <= 1 for accuracy in accuracies):
        raise InputError(f"accuracy {accuracies[0]:g} is no fraction: give 0.985 for 98.5%")
    return accuracies


def _cell(row: Mapping[str, str]) -> Cell:
    """The cell that a row is about; raises InputError, ValueError or KeyError."""
    dropout = float(row.get("dropout") or 0.0)
    if all(row.get(name) for name in COLUMNS):  # a folder of classes by its id, which isn't a name that one can give
        schedule = Schedule(int(row["total_steps"]), int(row["warmup_steps"]), int(row["global_batch_size"]))
        return Cell(row["upstream"], row["model"], row["dataset"], int(row["resolution"]), schedule, dropout)
    official = official_cell(row["model"], row["dataset"], dropout=dropout)
    recipe = {**vars(official.schedule), "resolution": official.resolution}
    values = {name: int(row.get(name) or value) for name, value in recipe.items()}
    resolution = values.pop("resolution")
    return Cell(
        row.get("upstream") or official.upstream, row["model"], row["dataset"], resolution, Schedule(**values), dropout
    )
