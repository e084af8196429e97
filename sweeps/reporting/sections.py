"""Sections: which a report has, and in which order."""

from collections import Counter

from sweeps.records.results import Results
from sweeps.reporting.accuracies import cell_by_cell, the_table
from sweeps.reporting.charts import accuracy_against_hours, accuracy_over_rate, learning_curves
from sweeps.reporting.origin import commands, environment
from sweeps.reporting.outcomes import early_stopping, failures, hours, mistakes, speed
from sweeps.reporting.pages import Block, Heading, Page, Paragraph, TextTable
from sweeps.reporting.statement import statement
from sweeps.reporting.texts import date, duration, time_name
from vit_trainer.files.schema import STATUSES


def page(results: Results, *, now: float) -> Page:
    """The whole report of a storage, or of one of its sweeps.

    Args:
        now: Unix seconds.
    """
    title = f"Results of {results.sweep or 'the sweep'}"
    if not results.trials:
        empty = f"No trial has begun in {results.location}: nothing to report."
        return Page(title, (Paragraph(empty), *_left_out(results)))
    return Page(
        title,
        (
            *([Paragraph(" ".join(said))] if (said := statement(results)) else []),
            Paragraph(_summary(results, now)),
            *the_table(results),
            *cell_by_cell(results),
            *learning_curves(results),
            *accuracy_over_rate(results),
            *accuracy_against_hours(results),
            *mistakes(results),
            *early_stopping(results),
            *hours(results),
            *speed(results),
            *failures(results),
            *environment(results),
            *commands(results),
            *_left_out(results),
        ),
    )


def _summary(results: Results, now: float) -> str:
    """How many trials, and what became of them."""
    counts = Counter(trial.status for trial in results.trials)
    statuses = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return (
        f"{len(results.trials)} trials of {len(results.cells)} cells in {results.location}: {statuses}. "
        f"Together {duration(sum(trial.hours for trial in results.trials))} of {time_name(results)}. "
        f"Written {date(now)} from the run folders."
    )


def _left_out(results: Results) -> list[Block]:
    """What of the storage could not be read."""
    if not results.complaints:
        return []
    table = TextTable(("what could not be read",), tuple((complaint,) for complaint in results.complaints))
    return [Heading("Left out"), Paragraph("These were left as they are:"), table]
