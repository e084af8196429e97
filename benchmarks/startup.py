"""How long from `python sweeps/paper_grid.py` to the first step, and to the second trial's first step?

Read from the journals that the command leaves; beside it `python -m vit_trainer train`, the same trial without Ray.

Command: python benchmarks/startup.py
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.provenance import ROOT, machine, write_json
from vit_trainer.command_line import new_app, run
from vit_trainer.data.datasets import dataset_info
from vit_trainer.errors import InputError
from vit_trainer.files.storage import Storage

app = new_app("Measures the time from a command to the first steps.", name="startup.py")

SECONDS_BETWEEN_LOOKS = 0.02
SECONDS_FOR_ALL = 1800
MOMENTS = ("sweep: first trial", "sweep: second trial", "without Ray: the trial")


@app.default
def startup(
    *,
    model: str = "ViT-B_32-mini",
    dataset: str = "digits-even",
    repeats: int = 3,
    sweep_arguments: tuple[str, ...] = (),
    json: Path | None = None,
) -> int:
    """Start a sweep of two trials (one where there is a single GPU) and a trial without Ray in turn, and end each.

    Args:
        model: a name such as ViT-B_16.
        dataset: a name such as cifar10.
        repeats: of both; the median counts.
        sweep_arguments: more for the sweep, such as --gpus-per-trial=1.
        json: where to write the figures.
    """
    if repeats < 1:
        raise InputError(f"repeats {repeats} is below 1: give a whole number of at least 1")
    import torch

    num_slots = torch.cuda.device_count() or os.cpu_count() or 1
    num_trials = min(2, num_slots)  # on a single slot the second would begin when the first has ended
    moments = [*MOMENTS[:num_trials], MOMENTS[2]]
    seconds: dict[str, list[float]] = {moment: [] for moment in moments}
    trial = ["--log-every-steps", "1"]
    sweep = [
        "--models",
        model,
        "--datasets",
        dataset,
        "--dropouts",
        "0.0",
        "--base-lrs",
        "official",
        "--seeds",
        *map(str, range(num_trials)),
    ]
    alone = ["train", "--model", model, "--dataset", dataset]
    if dataset_info(dataset).is_miniature:
        sweep += ["--preset", "mini"]
        alone += ["--upstream", "digits"]
    for _ in range(repeats):
        of_sweep = first_steps([str(ROOT / "sweeps" / "paper_grid.py"), *sweep, *trial, *sweep_arguments], num_trials)
        (without,) = first_steps(["-m", "vit_trainer", *alone, *trial], 1)
        for moment, value in zip(moments, (*of_sweep, without), strict=True):
            seconds[moment].append(value)
    table = Table(title="Seconds from the command to the end of the first step", title_justify="left")
    for name in ("", "median", "shortest", "longest"):
        table.add_column(name, justify="left" if not name else "right")
    for moment, values in seconds.items():
        table.add_row(moment, *[f"{value:.1f}" for value in (median(values), min(values), max(values))])
    console = Console(highlight=False)
    console.print(machine())
    console.print(table)
    if json is not None:
        write_json(json, {"load": os.getloadavg()[0], "seconds": seconds})
    return 0


def first_steps(arguments: Sequence[str], num_trials: int) -> list[float]:
    """Seconds from the command until this many trials have done a step, in order; the command is then ended.

    Raises:
        RuntimeError: it ended before.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "output.txt").open("wb") as output:
        storage = Path(folder) / "storage"
        start = time.time()
        process = subprocess.Popen(
            [sys.executable, *arguments, "--storage", str(storage)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
        )
        try:
            while len(ends := _first_rows(storage)) < num_trials:
                if process.poll() is not None:
                    raise RuntimeError(f"it ended before its first steps: {Path(output.name).read_text()[-2000:]}")
                if time.time() - start > SECONDS_FOR_ALL:
                    raise RuntimeError(f"no {num_trials} first steps within {SECONDS_FOR_ALL} s")
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            process.send_signal(signal.SIGINT)  # it keeps its state and ends Ray
            process.wait()
    return [end - start for end in sorted(ends)[:num_trials]]


def _first_rows(storage: Path) -> list[float]:
    """When the trials that have one wrote their first row (Unix seconds)."""
    journals = [run_dir.rows() for run_dir in Storage(storage).run_dirs()]
    return [rows[0]["time"] for rows in journals if rows]


if __name__ == "__main__":
    run(app)
