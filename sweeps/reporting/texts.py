"""Texts: how a report says numbers, times, verdicts, cards and cells."""

import time

from sweeps.records.cell_record import CellRecord
from sweeps.records.results import Results
from sweeps.table.labels import Labels
from sweeps.table.verdict import MARKS, Status
from vit_trainer.cards import card_of_device

PUBLISHED_BY = {
    "official": "official",
    "paper": "paper",
    "reimplementation": "reimplementation",
    "quoted": "official as quoted",
}
"""What the published tables are called beside a figure; without any, the verdict is about it, and it is official."""


def percent(fraction: float) -> str:
    """An accuracy in percent with two decimals, as it was published.

    >>> percent(0.9876)
    '98.76'
    """
    return f"{100 * fraction:.2f}"


def points(fraction: float) -> str:
    """A difference in percentage points.

    >>> points(0.0012), points(-0.00001)
    ('+0.12', '+0.00')
    """
    return f"{100 * fraction:+z.2f}"


def duration(hours: float) -> str:
    """Hours as one reads them.

    >>> duration(731.4), duration(7.84), duration(0.5), duration(0.0021), duration(0)
    ('731 h', '7.8 h', '30 min', '7.6 s', '0')
    """
    for unit_name, value in (("h", hours), ("min", 60 * hours), ("s", 3600 * hours)):
        if value >= 1 or (unit_name == "s" and value > 0):
            return f"{value:.0f} {unit_name}" if value >= 10 else f"{value:.1f} {unit_name}"
    return "0"


def date(seconds: float) -> str:
    """A time in Unix seconds as a date.

    >>> date(1_700_000_000)
    '2023-11-14 22:13 UTC'
    """
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def time_name(results: Results) -> str:
    """What hours are hours of: `GPU time` or, where there is no GPU, `slot time`."""
    return "GPU time" if results.on_gpus else "slot time"


def hours_name(results: Results) -> str:
    """The unit of hours: `GPU-hours` or, where there is no GPU, `slot-hours`."""
    return "GPU-hours" if results.on_gpus else "slot-hours"


def name_of(record: CellRecord, results: Results) -> str:
    """A cell as one reads it: what all cells of a model, data set and dropout share is left out."""
    return labels_of(results).name(record.cell)


def labels_of(results: Results) -> Labels:
    """What the rows, columns and cells of a report's tables are called."""
    return Labels.of(record.cell for record in results.cells)


def verdict_text(status: Status) -> str:
    """A verdict's status with its mark: `✓ reproduced`."""
    return f"{MARKS[status]} {status}"


def card_name(record: CellRecord) -> str:
    """What a cell's chosen candidate ran on, in a word or two."""
    trial = next((trial for trial in record.chosen if trial.attempts), None)
    if trial is None:
        return ""
    attempt = trial.last_attempt
    card = card_of_device(str(attempt.get("device_name")))
    name = card.name if card else "CPU" if attempt.get("device") == "cpu" else str(attempt.get("device_name") or "")
    number = int(attempt.get("num_processes", 1))
    return f"{number} x {name}" if name and number > 1 else name
