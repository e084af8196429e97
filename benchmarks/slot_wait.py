"""How long does a slot wait between two trials, and what part of an hour-long trial is that?

A small real sweep of the CPU miniature, read from what its run folders hold: when result.json was written, when the
next trial's attempt began, when its first step was done, and by how much a report delays the step after it.

Command: python benchmarks/slot_wait.py
"""

import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.provenance import ROOT, machine, write_json
from sweeps.options import SweepOptions
from sweeps.table.cells import PAPER, Grid, cells_of
from vit_trainer.command_line import new_app, run
from vit_trainer.config import Execution
from vit_trainer.data.datasets import dataset_info
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import RESULT, RunDir
from vit_trainer.files.storage import Storage

app = new_app("Measures how long a slot waits for its next trial.", name="slot_wait.py")

GRID = Grid(models=("ViT-B_16-mini",), datasets=("digits-even",), dropouts=(0.0,))
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Wait:
    """A slot between two trials."""

    after: str
    """How the trial before ended: finished or stopped."""
    seconds_to_begin: float
    """From its result to the attempt of the next one, which is about to take its first step."""
    seconds_to_first_step: float
    """From its result until the next one's first step is done."""


@app.default
def slot_wait(*, num_trials: int = 12, num_slots: int = 2, json: Path | None = None) -> int:
    """Run one cell of the miniature with many seeds and early stopping, and tell how long slots waited.

    Args:
        num_trials: more than there are slots.
        num_slots: trials that run at once, each on one CPU core.
        json: where to write the figures.
    """
    if not 1 <= num_slots < num_trials:
        raise InputError(f"{num_trials} trials on {num_slots} slots leave no slot that waits: give more trials")
    with tempfile.TemporaryDirectory() as folder:
        run_sweep_of_seeds(num_trials, num_slots, folder)
        run_dirs = Storage(folder).run_dirs()
        waits, report_seconds = waits_of(run_dirs, num_slots), seconds_per_report(run_dirs)
    num_reports = max(dataset_info(dataset).num_evaluations for dataset in PAPER.datasets)
    share = (median(wait.seconds_to_begin for wait in waits) + num_reports * report_seconds) / SECONDS_PER_HOUR
    console = Console(highlight=False)
    console.print(machine())
    console.print(_table(waits))
    console.print(f"A report delays the next step by {1000 * report_seconds:.1f} ms (the median).")
    console.print(
        f"Of an hour-long trial with {num_reports} reports, the most that a published recipe has, "
        f"scheduling takes {share:.3%}; at most 1% is the target."
    )
    if json is not None:
        figures = {"waits": [asdict(wait) for wait in waits], "seconds_per_report": report_seconds, "share": share}
        write_json(json, figures)
    return 0


def run_sweep_of_seeds(num_trials: int, num_slots: int, storage: str) -> None:
    """The sweep, in a Ray of its own, as `run_sweep` does it; a row of the journal per step."""
    # Ray's actors import this tree's code, also where another copy of it is installed.
    os.environ |= {"PYTHONPATH": str(ROOT)}
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    from sweeps.cluster.own_ray import RAY_LOGS
    from sweeps.running.session import Session
    from sweeps.running.tuner import run_trials
    from sweeps.tracking.to_mlflow import SweepShipper

    ray.init(address="local", num_cpus=num_slots, include_dashboard=False, **RAY_LOGS)
    options = SweepOptions(storage=storage, seeds=tuple(range(num_trials)), base_lrs=("official",))
    shipper = SweepShipper("slot_wait", options)
    session = Session("slot_wait", cells_of(GRID), options, Execution(log_every_steps=1), shipper.ship)
    try:
        with session.display:
            run_trials(session)
    finally:
        shipper.close(options.opened_storage.report())
        ray.shutdown()


def waits_of(run_dirs: list[RunDir], num_slots: int) -> list[Wait]:
    """Every wait of a slot: a trial that doesn't begin at once begins in the slot that has been free the longest.

    Args:
        run_dirs: local ones, of trials that ended by themselves or were stopped, in one attempt and a row per step.
    """
    ends = sorted((Path(run_dir.location, RESULT).stat().st_mtime, _status(run_dir)) for run_dir in run_dirs)
    begins = sorted((run_dir.attempts()[0]["time"], run_dir.rows()[0]["time"]) for run_dir in run_dirs)
    return [
        Wait(status, begin - end, first_step - end)
        for (end, status), (begin, first_step) in zip(ends, begins[num_slots:], strict=False)
    ]


def seconds_per_report(run_dirs: list[RunDir]) -> float:
    """How much later than usual a step is done after a report: the difference of the medians."""
    plain: list[float] = []
    reported: list[float] = []
    for run_dir in run_dirs:
        for row, following in pairwise(run_dir.rows()):
            if "val/accuracy" not in following:
                (reported if "val/accuracy" in row else plain).append(following["time"] - row["time"])
    return median(reported) - median(plain)


def _status(run_dir: RunDir) -> str:
    result: dict[str, Any] = run_dir.result() or {}
    if result.get("status") not in ("finished", "stopped"):
        raise RuntimeError(f"{run_dir.trial_id} did not end as it should: {result.get('cause', 'no result')}")
    return str(result["status"])


def _table(waits: list[Wait]) -> Table:
    table = Table(title="Seconds that a slot waited", title_justify="left")
    for name in ("after a trial that", "waits", "median", "longest", "first step done, median", "longest", "target"):
        table.add_column(name, justify="left" if name.startswith("after") else "right")
    for status in ("finished", "stopped"):
        chosen = [wait for wait in waits if wait.after == status]
        if chosen:
            begin = [wait.seconds_to_begin for wait in chosen]
            first_step = [wait.seconds_to_first_step for wait in chosen]
            figures = (median(begin), max(begin), median(first_step), max(first_step))
            table.add_row(status, str(len(chosen)), *[f"{seconds:.2f}" for seconds in figures], "at most 2")
    return table


if __name__ == "__main__":
    run(app)
