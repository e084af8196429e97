"""Write: which sections a report has, and all of it as files in a storage."""

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from sweeps.records.cell_record import CellRecord
from sweeps.records.results import Results, gather
from sweeps.reporting.accuracies import cell_by_cell, the_table
from sweeps.reporting.charts import accuracy_against_hours, accuracy_over_rate, chart_files, learning_curves
from sweeps.reporting.comparison import Other, comparison
from sweeps.reporting.origin import CHECKLIST, checklist_page, commands, environment
from sweeps.reporting.outcomes import early_stopping, failures, hours, mistakes, speed
from sweeps.reporting.pages import Block, Heading, Page, Paragraph, TextTable, foldable_table, html, markdown
from sweeps.reporting.rows import rows_of, trial_rows_of
from sweeps.reporting.statement import statement
from sweeps.reporting.texts import date, duration, time_name
from sweeps.reporting.trial_pages import TRIALS, trials_page
from vit_trainer.command_line import command_of
from vit_trainer.errors import cause_of, counted
from vit_trainer.files.folder import Folder
from vit_trainer.files.outgoing import outgoing
from vit_trainer.files.schema import STATUSES
from vit_trainer.files.storage import TABLE, Storage


def write_report(storage: Storage, sweep: str | None = None) -> tuple[str, tuple[CellRecord, ...]]:
    """Write the report of a storage into it, and a sweep's own into the sweep's folder.

    Returns:
        What it says as a whole, and where the page is (the sweep's own if one is given), or why there is none; and
        the cells that it is about.
    """
    folder = storage.report(sweep)
    try:
        own = gather(storage, sweep)
        files = files_of(own)
        write_files(files, folder)
        if sweep is not None:
            results = gather(storage)
            is_alone = replace(own, sweep=None) == results
            write_files(files if is_alone else files_of(results), storage.report())
    except Exception as error:  # a sweep's results don't depend on its report
        return f"No report could be written ({cause_of(error)}); {command_of('report')} does it", ()
    return "\n".join([*statement(own), f"Report: {folder.location}/report.html"]), own.cells


def files_of(results: Results, other: Other | None = None) -> dict[str, bytes]:
    """The report's files by name; of an empty storage, only the page that says so and an empty table.

    Args:
        other: results from elsewhere, to stand beside these.
    """
    rows, content = rows_of(results), page(results, now=time.time(), other=other)
    texts = {
        TABLE: json.dumps(rows, indent=1) + "\n",
        "table.csv": _csv(rows),
        "report.md": markdown(content),
        "report.html": html(content),
        "trials.csv": _csv(trial_rows_of(results)),
        TRIALS: html(trials_page(results)),
        CHECKLIST: html(checklist_page(results)),
    }
    return {name: outgoing(text).encode() for name, text in texts.items()} | chart_files(results)


def write_files(files: Mapping[str, bytes], folder: Folder) -> None:
    """Write the files of a report into a folder; raises OSError for what it refuses."""
    for name, content in files.items():
        folder.write(name, content)


def _csv(rows: list[dict[str, object]]) -> str:
    """Rows as a CSV file with a header; empty without rows. No spreadsheet takes a text of theirs for a formula."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def page(results: Results, *, now: float, other: Other | None = None) -> Page:
    """The whole report of a storage, or of one of its sweeps.

    Args:
        now: Unix seconds.
        other: results from elsewhere, to stand beside these.
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
            *([] if other is None else comparison(results, other)),
            *cell_by_cell(results),
            *learning_curves(results),
            *accuracy_over_rate(results),
            *accuracy_against_hours(results),
            *mistakes(results),
            *early_stopping(results),
            *_every_trial(results),
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
    what = f"{counted(len(results.trials), 'trial')} of {counted(len(results.cells), 'cell')}"
    return (
        f"{what} in {results.location}: {statuses}. "
        f"Together {duration(sum(trial.hours for trial in results.trials))} of {time_name(results)}. "
        f"Written {date(now)} from the run folders."
    )


def _every_trial(results: Results) -> list[Block]:
    """A line per trial, with a link to its own page."""
    rows = [
        (trial.trial_id, trial.status, f"{trial.step} of {trial.total_steps}", duration(trial.hours))
        for trial in results.trials
    ]
    header = ("trial", "status", "steps", time_name(results))
    explained = "Each has its curve, decisions, attempts and mistakes in trials.html, and a row in trials.csv."
    table = foldable_table(header, rows, "Every trial", numbers=[2, 3], links=f"{TRIALS}#")
    return [Heading("Trials"), Paragraph(explained), *table]


def _left_out(results: Results) -> list[Block]:
    """What of the storage could not be read."""
    if not results.complaints:
        return []
    table = TextTable(("what could not be read",), tuple((complaint,) for complaint in results.complaints))
    return [Heading("Left out"), Paragraph("These were left as they are:"), table]
