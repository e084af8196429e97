"""Write: a report as files in a storage: the page, its charts, and the table for other tools."""

import csv
import io
import json
import time
from collections.abc import Mapping
from dataclasses import replace

from sweeps.records.results import Results, gather
from sweeps.reporting.charts import chart_files
from sweeps.reporting.pages import html, markdown
from sweeps.reporting.rows import rows_of
from sweeps.reporting.sections import page
from sweeps.reporting.statement import statement
from vit_trainer.command_line import command_of
from vit_trainer.errors import cause_of
from vit_trainer.files.folder import Folder
from vit_trainer.files.outgoing import outgoing
from vit_trainer.files.storage import Storage


def write_report(storage: Storage, sweep: str | None = None) -> str:
    """Write the report of a storage into it, and a sweep's own into the sweep's folder.

    Returns:
        What it says as a whole, and where the page is (the sweep's own if one is given), or why there is none.
    """
    folder = storage.report(sweep)
    try:
        results, own = gather(storage), gather(storage, sweep)
        files = files_of(own)
        write_files(files, folder)
        if sweep is not None:
            is_alone = replace(own, sweep=None) == results
            write_files(files if is_alone else files_of(results), storage.report())
    except Exception as error:  # a sweep's results don't depend on its report
        return f"No report could be written ({cause_of(error)}); {command_of('report')} does it"
    return "\n".join([*statement(own), f"Report: {folder.location}/report.html"])


def files_of(results: Results) -> dict[str, bytes]:
    """The report's files by name; of an empty storage, only the page that says so and an empty table."""
    rows, content = rows_of(results), page(results, now=time.time())
    texts = {
        "table.json": json.dumps(rows, indent=1) + "\n",
        "table.csv": _csv(rows),
        "report.md": markdown(content),
        "report.html": html(content),
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
