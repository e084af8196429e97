"""Report: what the sweeps of a storage came to: a page, its charts, and the table for other tools.

Command: python sweeps/report.py --storage sweep-results
"""

import sys
from pathlib import Path

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.records.results import gather
from sweeps.reporting.comparison import comparison_lines, read_other
from sweeps.reporting.statement import statement
from sweeps.reporting.write import files_of, write_files
from vit_trainer.command_line import command_of, new_app, run
from vit_trainer.errors import InputError, counted, one_of, reason_of
from vit_trainer.files.folder import open_folder
from vit_trainer.files.progress_bar import at_work
from vit_trainer.files.storage import Storage

app = new_app("Writes what the sweeps of a storage came to.", name=command_of("report"))


@app.default
def report(
    *,
    storage: str = "sweep-results",
    sweep: str | None = None,
    output: str | None = None,
    compare: str | None = None,
) -> None:
    """Write report.md, report.html, their pictures, tables and trials.html, from the run folders alone.

    Args:
        storage: That of the sweeps: a folder, or a URI such as s3://bucket/folder.
        sweep: Name of one sweep, such as paper_grid-mini, to leave out what others of the storage came to.
        output: Folder, or URI, to write to; unless given, report in the storage, or in the sweep's folder there.
        compare: Another storage, or a CSV file with a row per cell such as its table.csv: both side by side, with the
            verdict between them.
    """
    opened = Storage.existing(storage)
    try:
        names = opened.sweep_names()
        if sweep is not None and sweep not in names:
            raise one_of("sweep of this storage", sweep, names)
        with at_work("reading the run folders"):
            results = gather(opened, sweep)
    except OSError as error:
        raise InputError(f"storage {storage} cannot be read ({reason_of(error)}): give that of a sweep") from error
    other = None if compare is None else read_other(compare)
    into = opened.report(sweep) if output is None else open_folder(output, "output")
    try:
        with at_work(f"drawing the report of {counted(len(results.trials), 'trial')}"):
            write_files(files_of(results, other), into)
    except OSError as error:
        raise InputError(f"cannot write to {into.location} ({reason_of(error)}): give another --output") from error
    for complaint in results.complaints:
        print(f"left out: {complaint}", file=sys.stderr)
    if not results.trials:
        print(f"No trial has begun in {opened.location}")
    said = [] if other is None else comparison_lines(results, other)
    print("\n".join([*statement(results), *said, f"{into.location}/report.html"]))


if __name__ == "__main__":
    run(app)
