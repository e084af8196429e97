"""Trial pages: every trial by itself: its curve, what was decided about it, its attempts, its mistakes."""

from collections.abc import Iterable

from sweeps.records.cell_record import CellRecord
from sweeps.records.results import Results
from sweeps.records.trial_record import TrialRecord
from sweeps.reporting import draw_charts
from sweeps.reporting.outcomes import mistakes_of
from sweeps.reporting.pages import Block, Chart, ChartFile, Code, Folded, Heading, Page, Paragraph, TextTable
from sweeps.reporting.rows import trial_command
from sweeps.reporting.texts import date, duration, name_of, percent

TRIALS = "trials.html"
"""Name of the file with all of them; a link to one ends with its id."""


def trials_page(results: Results) -> Page:
    """All trials, by cells; each is folded away until a link leads to it."""
    blocks: list[Block] = []
    seen: set[str] = set()
    for record in results.cells:
        blocks.append(Heading(name_of(record, results)))
        for trial in record.trials:
            if trial.trial_id in seen:  # its pages are those of the first cell that it is a candidate of
                continue
            seen.add(trial.trial_id)
            blocks.append(Folded(_title(record, trial), tuple(_blocks(record, trial, results)), trial.trial_id))
    return Page(f"Trials of {results.sweep or 'the sweep'}", tuple(blocks))


def _title(record: CellRecord, trial: TrialRecord) -> str:
    chosen = ", chosen" if trial in record.chosen else ""
    return f"{record.name_of(trial)}: {trial.status}{chosen} ({trial.trial_id})"


def _blocks(record: CellRecord, trial: TrialRecord, results: Results) -> Iterable[Block]:
    yield TextTable(("what", "value"), tuple(_facts(trial)))
    if len(trial.validations) > 1:
        panel = draw_charts.curves(record, only=trial)
        chart = Chart("Validation accuracy", draw_charts.svg(panel, f"trial-{trial.trial_id}"))
        yield ChartFile("", f"Validation accuracy of {trial.trial_id} over optimiser steps", (chart,))
    decided = [each for each in results.decisions if each.trial_id == trial.trial_id]
    if decided:
        yield TextTable(
            ("at step", "accuracy", "decision", "why"),
            tuple((str(each.step), _accuracy(each.value), each.action, each.rule) for each in decided),
        )
    attempts = tuple(
        (
            str(number),
            date(float(attempt["time"])),
            str(attempt.get("from_step", 0)),
            str(attempt.get("host") or "not recorded"),
            f"{attempt.get('num_processes', 1)} x {attempt.get('device_name') or attempt.get('device') or 'unknown'}",
        )
        for number, attempt in enumerate(trial.attempts, 1)
    )
    if attempts:
        yield TextTable(("attempt", "begun", "from step", "host", "on"), attempts)
    if said := mistakes_of([trial], record.cell.dataset, results.location):
        yield TextTable(("wrong", "hardest classes", "most often taken for another"), (said,))
    yield from map(Paragraph, trial.notes)
    if trace := str((trial.result or {}).get("traceback") or "").rstrip():
        yield Code(trace)
    yield Code(trial_command(trial.config))


def _facts(trial: TrialRecord) -> Iterable[tuple[str, str]]:
    result = trial.result or {}
    yield "steps", f"{trial.step} of {trial.total_steps}"
    for name, key in (("validation accuracy", "val/accuracy"), ("test accuracy", "test/accuracy")):
        if isinstance(result.get(key), float):
            yield name, f"{percent(result[key])}%"
    if cause := result.get("cause"):
        yield "cause", str(cause)
    yield (
        "took, held slots for, lost to faults",
        ", ".join(map(duration, (trial.hours, trial.billed_hours, trial.lost_hours))),
    )
    for name in ("base_lr", "dropout", "warmup_steps", "seed"):
        yield name, f"{trial.config[name]:g}"


def _accuracy(value: float | None) -> str:
    return "no number" if value is None else f"{percent(value)}%"
