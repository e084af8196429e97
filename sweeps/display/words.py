"""Words: how the tables in a terminal say steps, times, candidates and columns."""

import re

from sweeps.display.standing import TrialProgress
from sweeps.table.cells import Cell
from vit_trainer.tracking.chosen import Chosen


def candidate_name(cell: Cell, chosen: Chosen) -> str:
    """What a cell's chosen candidate has of its own: `lr0.03`, or `lr0.03 d0.1 w500` where these were searched too."""
    base_lr, dropout, warmup_steps = chosen.trials[0].recipe
    name = f"lr{base_lr:g}" + (f" d{dropout:g}" if cell.dropout is None else "")
    return name + (f" w{warmup_steps:g}" if warmup_steps != cell.schedule.warmup_steps else "")


def percent(fraction: float | None, num_decimals: int) -> str:
    """Empty where it isn't known."""
    return "" if fraction is None else f"{100 * fraction:.{num_decimals}f}"


def steps_of(step: int) -> str:
    """Steps in at most five characters up to a hundred thousand: 500, 5.2k, 19.5k."""
    return f"{step}" if step < 1000 else f"{step / 1000:.1f}".removesuffix(".0") + "k"


def brief(seconds: float) -> str:
    """A duration in at most four characters.

    >>> [brief(seconds) for seconds in (45, 719, 3960, 50_000, 500_000)]
    ['45s', '11m', '1h06', '13h', '5d']
    """
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 10:
        return f"{hours}h{minutes % 60:02d}"
    return f"{hours}h" if hours < 100 else f"{hours // 24}d"


def own_name(progress: TrialProgress) -> tuple[str, str, str]:
    """A candidate's rate, its dropout where that is its own, and its seed: `0.03`, ``, `s1`."""
    trial = progress.trial
    return f"{trial.base_lr:g}", "" if trial.dropout is None else f"d{trial.dropout:g}", f"s{trial.seed}"


def time_left_of(progress: TrialProgress, now: float) -> str:
    """Or why there is none; now: Unix seconds."""
    if progress.silent_seconds is not None:
        return f"silent {brief(progress.silent_seconds)}"
    if progress.step == progress.total_steps:
        return "testing"
    left = progress.seconds_left(now)
    return "starting" if left is None else f"{brief(left)} left"


def header_of(dataset: str, dropout: str, detail: int) -> str:
    """A column's label, as short as `detail` asks for."""
    if detail > 1:
        if len(dataset) > 10:
            dataset = re.sub(r"(?<=[a-z])(?=\d+$)|(?<=-)", "\n", dataset)
        dropout = dropout.replace("dropout", "drop")
    return f"{dataset}\n{dropout}"
