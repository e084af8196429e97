"""Explain: why may a result differ from the published one? Looks at everything that costs no training.

Command: python sweeps/explain.py ViT-B_16/cifar10/0.1 --storage sweep-results
"""

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.checks.explanations import explain_cell, explain_config
from sweeps.checks.finding import Finding, print_finding
from sweeps.records.results import gather
from sweeps.table.cells import name_of_cell
from vit_trainer.command_line import command_of, new_app, run
from vit_trainer.errors import InputError, one_of, reason_of
from vit_trainer.files.schema import json_of
from vit_trainer.files.storage import Storage

app = new_app("Looks for what may be behind a difference from a published figure.", name=command_of("explain"))


@app.default
def explain(*cells: str, storage: str = "sweep-results", config: Path | None = None) -> None:
    """Print a line per thing looked at: ok, warn for what may explain a difference, skip for what can't be told.

    Parameters
    ----------
    cells
        Names such as ViT-B_16/cifar10/0.1; every cell of the storage unless given.
    storage
        That of the sweeps: a folder, or a URI such as s3://bucket/folder.
    config
        A run made elsewhere instead: a JSON object, or a CSV with a row per run; fields as in config.json or as others
        call them (lr, batch_size, img_size), and accuracy.
    """
    if config is not None and cells:
        raise InputError(f"cells are of a storage, and {config} is from elsewhere: leave one of them out")
    if config is not None:
        for values in _rows(config):
            print(" ".join(str(values[name]) for name in values))
            _print(explain_config(values))
        return
    try:
        results = gather(Storage.existing(storage))
    except OSError as error:
        raise InputError(f"storage {storage} cannot be read ({reason_of(error)}): give that of a sweep") from error
    records = {name_of_cell(record.cell): record for record in results.cells}
    for complaint in results.complaints:
        print(f"left out: {complaint}", file=sys.stderr)
    for name in cells:
        if name not in records:
            raise one_of("cell of this storage", name, list(records))
    for name in cells or records:
        print(name)
        _print(explain_cell(records[name], results))


def _rows(path: Path) -> list[Mapping[str, Any]]:
    """The runs of a file."""
    try:
        text = path.read_text()
        if path.suffix == ".csv":
            rows: list[Mapping[str, Any]] = list(csv.DictReader(text.splitlines()))
        else:
            content = json_of(text)
            rows = content if isinstance(content, list) else [content]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} can't be read ({error}): give a JSON object or a CSV with a row per run") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} holds no run: give a JSON object, or a CSV with a header and a row per run")
    return rows


def _print(findings: Iterator[Finding]) -> None:
    for finding in findings:
        print_finding(finding)


if __name__ == "__main__":
    run(app)
