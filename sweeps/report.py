"""Report: what the sweeps of a storage came to: a page, its pictures, and the table for other tools.

Command: python sweeps/report.py --storage sweep-results
"""

import csv
import io
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.records.results import Results, gather
from sweeps.reporting import figures
from sweeps.reporting.pages import html, markdown
from sweeps.reporting.sections import (
    CURVES,
    HOURS,
    RATES,
    entries_by_dataset,
    entries_with_curves,
    name_of,
    page,
    records,
    regions_of,
    unit,
)
from vit_trainer.command_line import new_app, run
from vit_trainer.errors import InputError, cause_of, one_of, reason_of
from vit_trainer.files.folder import Folder
from vit_trainer.files.storage import Storage

app = new_app("Writes what the sweeps of a storage came to.", name="report.py")


@app.default
def report(*, storage: str = "sweep-results", sweep: str | None = None, output: str | None = None) -> None:
    """Write report.md, report.html, their pictures, table.csv and table.json, from the run folders alone.

    Args:
        storage: That of the sweeps: a folder, or a URI such as s3://bucket/folder.
        sweep: Name of one sweep, such as paper_grid-mini, to leave out what others of the storage came to.
        output: Folder, or URI, to write to; unless given, report in the storage, or in the sweep's folder there.
    """
    opened = Storage.existing(storage)
    try:
        names = opened.sweep_names()
        if sweep is not None and sweep not in names:
            raise one_of("sweep of this storage", sweep, names)
        results = gather(opened, sweep)
    except OSError as error:
        raise InputError(f"storage {storage} cannot be read ({reason_of(error)}): give that of a sweep") from error
    into = opened.report(sweep) if output is None else Storage.absolute(output).folder
    try:
        _write(files_of(results), into)
    except OSError as error:
        raise InputError(f"cannot write to {into.location} ({reason_of(error)}): give another --output") from error
    for complaint in results.complaints:
        print(f"left out: {complaint}", file=sys.stderr)
    if not results.runs:
        print(f"No trial has begun in {opened.location}")
    print(f"{into.location}/report.html")


def write_report(storage: Storage, sweep: str | None = None) -> str:
    """Write the report of a storage into it, and a sweep's own into the sweep's folder.

    Returns:
        Where the page is (the sweep's own if one is given), or in one line why there is none.
    """
    folder = storage.report(sweep)
    try:
        results, own = gather(storage), gather(storage, sweep)
        files = files_of(own)
        _write(files, folder)
        if sweep is not None:
            is_alone = replace(own, sweep=None) == results
            _write(files if is_alone else files_of(results), storage.report())
    except Exception as error:  # a sweep's results don't depend on its report
        return f"No report could be written ({cause_of(error)}); python sweeps/report.py does it"
    return f"Report: {folder.location}/report.html"


def files_of(results: Results) -> dict[str, bytes]:
    """The report's files by name; of an empty storage, only the page that says so and an empty table."""
    rows, content = records(results), page(results, now=time.time())
    files = {"table.json": (json.dumps(rows, indent=1) + "\n").encode(), "table.csv": _csv(rows).encode()}
    if entries := entries_with_curves(results):
        files[CURVES] = figures.png([figures.curves(entry, name_of(entry, results)) for entry in entries])
    if regions := regions_of(results):
        panels = [figures.over_rate(entry, region, name_of(entry, results)) for entry, region in regions]
        files[RATES] = figures.png(panels)
    if by_dataset := entries_by_dataset(results):
        panels = [figures.accuracy_against_hours(each, unit(results), name) for name, each in by_dataset.items()]
        files[HOURS] = figures.png(panels)
    return files | {"report.md": markdown(content).encode(), "report.html": html(content).encode()}


def _write(files: Mapping[str, bytes], folder: Folder) -> None:
    """Raises OSError: what the folder refuses."""
    for name, content in files.items():
        folder.write(name, content)


def _csv(rows: list[dict[str, object]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    run(app)
