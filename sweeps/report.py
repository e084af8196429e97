"""Report: what the sweeps of a storage came to: a page, its pictures, and the table for other tools.

Command: python sweeps/report.py --storage sweep-results
"""

import csv
import io
import json
import sys
import time
from pathlib import Path

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps import figures
from sweeps.pages import html, markdown
from sweeps.results import Results, gather
from sweeps.sections import CURVES, HOURS, entries_by_dataset, entries_with_curves, name_of, page, records, unit
from vit_trainer.command_line import new_app, run
from vit_trainer.errors import InputError
from vit_trainer.folders import Folder, LocalFolder, is_uri, open_folder

REPORT = "report"
"""Name of the report's folder in the storage."""

app = new_app("Writes what the sweeps of a storage came to.", name="report.py")


@app.default
def report(*, storage: str = "sweep-results", output: str | None = None) -> None:
    """Write report.md, report.html, their pictures, table.csv and table.json, from the run folders alone.

    Args:
        storage: That of the sweeps: a folder, or a URI such as s3://bucket/folder.
        output: Folder, or URI, to write to; report in the storage unless given.
    """
    folder = _opened(storage)
    if isinstance(folder, LocalFolder) and not folder.path.is_dir():
        raise InputError(f"storage {storage} is no folder: give the --storage of a sweep")
    try:
        results = gather(folder)
    except OSError as error:
        raise InputError(f"storage {storage} cannot be read ({_reason(error)}): give that of a sweep") from error
    into = folder.child(REPORT) if output is None else _opened(output)
    try:
        write(results, into)
    except OSError as error:
        raise InputError(f"cannot write to {into.location} ({_reason(error)}): give another --output") from error
    for complaint in results.complaints:
        print(f"left out: {complaint}", file=sys.stderr)
    if not results.runs:
        print(f"No trial has begun in {folder.location}")
    print(f"{into.location}/report.html")


def write_report(storage: Folder) -> str:
    """Write the report of a storage into it; returns where the page is, or in one line why there is none."""
    folder = storage.child(REPORT)
    try:
        write(gather(storage), folder)
    except Exception as error:  # a sweep's results don't depend on its report
        return f"No report could be written ({type(error).__name__}: {_reason(error)}); python sweeps/report.py does it"
    return f"Report: {folder.location}/report.html"


def write(results: Results, folder: Folder) -> None:
    """Write the report's files; of an empty storage, only the page that says so and an empty table.

    Raises:
        OSError: what the folder refuses.
    """
    rows, content = records(results), page(results, now=time.time())
    folder.write("table.json", (json.dumps(rows, indent=1) + "\n").encode())
    folder.write("table.csv", _csv(rows).encode())
    if entries := entries_with_curves(results):
        folder.write(CURVES, figures.png([figures.curves(entry, name_of(entry, results)) for entry in entries]))
    if by_dataset := entries_by_dataset(results):
        panels = [figures.accuracy_against_hours(each, unit(results), name) for name, each in by_dataset.items()]
        folder.write(HOURS, figures.png(panels))
    folder.write("report.md", markdown(content).encode())
    folder.write("report.html", html(content).encode())


def _csv(rows: list[dict[str, object]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _opened(location: str) -> Folder:
    return open_folder(location if is_uri(location) else Path(location).expanduser().resolve())


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or "no reason given").splitlines()[0]


if __name__ == "__main__":
    run(app)
