"""What does the orchestrator cost, per trial and per report, and how much more than raw Ray Tune?

Trials are formulas: they leave the files of real ones and compute nothing, so that what is left is the orchestrator.
Every run is a process with a Ray of its own, ours and raw Tune's in turn.

Command: python benchmarks/orchestrator.py
"""

import json as json_format
import os
import pty
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, TextIO

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.provenance import ROOT, machine, write_json
from vit_trainer.command_line import new_app, run
from vit_trainer.errors import InputError

app = new_app("Measures what the orchestrator costs, and raw Ray Tune beside it.", name="orchestrator.py")

NUM_SLOTS = 2
ATTEMPTS_TO_START_RAY = 3
SECONDS_PER_RUN = 3600

Measure = Literal["wall_seconds", "cpu_seconds"]
Rival = Literal["raw", "ours", "asha", "live", "shipped"]
RIVALS: dict[Rival, str] = {
    "raw": "raw Tune",
    "ours": "ours",
    "asha": "ours + ASHA",
    "live": "ours + live table",
    "shipped": "ours + MLflow",
}
"""Raw Tune with the same trials; ours with its output in a file; that with one thing more."""


Runs = dict[tuple[Rival, int, int], list["Measured"]]
"""Measured runs by rival, trials, and reports per trial."""


@dataclass(frozen=True)
class Measured:
    """One run."""

    rival: Rival
    """Who ran the trials."""
    num_trials: int
    """Trials that ended with a result."""
    num_reports: int
    """Reports of all trials together; fewer than asked for where ASHA stopped some."""
    start_seconds: float
    """Time until the first trial began: planning and the start of the first actors, without imports and Ray's start."""
    wall_seconds: float
    """Time from then on until all trials had ended and Tune had returned."""
    cpu_seconds: float
    """Processor time of the driver, all its threads, start included."""
    peak_mb: float
    """Most memory that the driver had, in 2**20 bytes."""
    seconds_behind: float
    """How long after the sweep MLflow had everything."""
    load: float
    """Processes that wanted a core, on average over the minute before it began."""


@app.default
def orchestrator(
    *,
    num_trials: int = 1000,
    num_reports: int = 50,
    num_repeats: int = 3,
    json: Path | None = None,
    one: Annotated[Rival | None, Parameter(show=False)] = None,
) -> int:
    """Run a tenth of the trials and all of them, with all reports and with one, ours and raw Tune's in turn.

    Args:
        num_trials: at least 10.
        num_reports: per trial; at least 2.
        num_repeats: how often each run of a tenth of the trials is repeated; its median counts.
        json: where to write the figures.
        one: run only this, once.
    """
    if one is not None:
        assert json is not None
        json.write_text(json_format.dumps(asdict(measured(one, num_trials, num_reports))))
        return 0
    for name, given, least in (
        ("num_trials", num_trials, 10),
        ("num_reports", num_reports, 2),
        ("num_repeats", num_repeats, 1),
    ):
        if given < least:
            raise InputError(f"{name} {given} is below {least}: give a whole number of at least {least}")
    tenth = num_trials // 10
    sizes = [(tenth, 1), (tenth, num_reports)] * num_repeats + [(num_trials, 1), (num_trials, num_reports)]
    plan: list[tuple[Rival, int, int]] = []
    for i, size in enumerate(sizes):
        rivals: tuple[Rival, Rival] = ("raw", "ours") if i % 4 < 2 else ("ours", "raw")
        plan += [(rival, *size) for rival in rivals]
    extra: list[tuple[Rival, int]] = [
        ("asha", tenth),
        ("asha", num_trials),
        ("live", tenth),
        ("live", num_trials),
        ("shipped", tenth),
    ]
    plan += [(rival, trials, num_reports) for rival, trials in extra]
    runs: Runs = {}
    for i, (rival, trials, reports) in enumerate(plan):
        done = _in_new_process(rival, trials, reports)
        runs.setdefault((rival, trials, reports), []).append(done)
        print(
            f"[{i + 1}/{len(plan)}] {RIVALS[rival]}, {trials} x {reports}: {done.wall_seconds:.1f} s, "
            f"driver CPU {done.cpu_seconds:.1f} s, load {done.load:.0f}",
            flush=True,
        )
        if json is not None:
            write_json(json, {"runs": [asdict(run_) for repeats in runs.values() for run_ in repeats]})
    console = Console(highlight=False)
    console.print(machine())
    console.print(_table_of_runs(runs))
    console.print(_table_of_costs(runs))
    return 0


@dataclass(frozen=True)
class Cost:
    """What follows from runs of two sizes with all reports and with one, in one measure of time."""

    seconds_per_trial: float
    """Seconds of each trial beyond the first tenth, its reports apart."""
    ms_per_report: float
    """Milliseconds of each report beyond a trial's first, with all trials."""
    growth: float
    """Time of all trials over ten times that of a tenth, with all reports: 1 is linear."""
    seconds: float
    """Time of all trials with all reports."""
    tenth_seconds: float
    """Time of a tenth of the trials with all reports."""

    @classmethod
    def of(cls, runs: Runs, rival: Rival, measure: Measure) -> "Cost":
        """From the runs of one rival at both sizes, one of each."""
        num_trials, num_reports = max(size for _, *size in runs)
        tenth = num_trials // 10
        full, full_short, part, part_short = (
            getattr(_median(runs[rival, trials, reports]), measure)
            for trials in (num_trials, tenth)
            for reports in (num_reports, 1)
        )
        per_report = (full - full_short) / (num_trials * (num_reports - 1))
        per_trial = (full_short - part_short) / (num_trials - tenth) - per_report
        return cls(per_trial, 1000 * per_report, full / part * tenth / num_trials, full, part)


def _median(measured: list[Measured]) -> Measured:
    """The run with the median time."""
    return sorted(measured, key=lambda run: run.wall_seconds)[len(measured) // 2]


def _table_of_runs(runs: Runs) -> Table:
    table = Table(title="Runs: the median where there are several", title_justify="left")
    for name in ("", "trials", "reports", "start s", "then s", "driver CPU s", "driver MB", "MLflow behind s", "load"):
        table.add_column(name, justify="left" if not name else "right")
    for run_ in map(_median, sorted(runs.values(), key=lambda repeats: list(RIVALS).index(repeats[0].rival))):
        table.add_row(
            RIVALS[run_.rival],
            str(run_.num_trials),
            str(run_.num_reports),
            f"{run_.start_seconds:.1f}",
            f"{run_.wall_seconds:.1f}",
            f"{run_.cpu_seconds:.1f}",
            f"{run_.peak_mb:.0f}",
            f"{run_.seconds_behind:.1f}" if run_.rival == "shipped" else "",
            f"{run_.load:.0f}",
        )
    return table


def _table_of_costs(runs: Runs) -> Table:
    table = Table(title="Cost", title_justify="left")
    for name in ("", "ours", "raw Tune", "ours / raw", "target for ours"):
        table.add_column(name, justify="left" if not name else "right")

    def add(label: str, ours: float, raw: float, num_digits: int, target: str) -> None:
        ratio = f"{ours / raw:.2f}" if raw > 0 < ours else ""
        table.add_row(label, f"{ours:.{num_digits}f}", f"{raw:.{num_digits}f}", ratio, target)

    measures: tuple[tuple[Measure, str, str], ...] = (
        ("wall_seconds", "", "at most 1.15 x raw"),
        ("cpu_seconds", "driver CPU, ", ""),
    )
    for measure, what, target in measures:
        ours, raw = (Cost.of(runs, rival, measure) for rival in ("ours", "raw"))
        add(f"{what}s per trial", ours.seconds_per_trial, raw.seconds_per_trial, 3, "at most 0.2")
        add(f"{what}ms per report", ours.ms_per_report, raw.ms_per_report, 2, "at most 10")
        add(f"{what}s, all trials", ours.seconds, raw.seconds, 1, target)
        add(f"{what}s, a tenth of them", ours.tenth_seconds, raw.tenth_seconds, 1, target)
        add(f"{what}all over ten tenths", ours.growth, raw.growth, 2, "about 1")
    peaks = {rival: max(run_.peak_mb for key in runs if key[0] == rival for run_ in runs[key]) for rival in RIVALS}
    add("driver MB", peaks["ours"], peaks["raw"], 0, "below 1000")
    return table


def _in_new_process(rival: Rival, num_trials: int, num_reports: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "measured.json", Path(folder) / "output.txt"
        size = ["--num-trials", str(num_trials), "--num-reports", str(num_reports)]
        command = [sys.executable, __file__, *size, "--one", rival, "--json", str(path)]
        # Ray's actors import this tree's code, also where another copy of it is installed.
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with output.open("wb") as file:
            subprocess.run(command, check=True, stdout=file, env=environment, timeout=SECONDS_PER_RUN)
        return Measured(**json_format.loads(path.read_text()))


# In a process of its own.


def measured(rival: Rival, num_trials: int, num_reports: int) -> Measured:
    """Run this many trials with this many reports each, in a temporary folder, and count what they cost."""
    import ray

    # What takes seconds to import is no cost of a trial. Tune imports MLflow, if it is there, where it gets callbacks.
    import benchmarks.formulas  # noqa: F401
    import sweeps.running.tuner  # noqa: F401

    if rival != "raw":
        import mlflow  # noqa: F401

    _start_ray()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        start, cpu_start = time.time(), time.process_time()
        if rival == "raw":
            run_raw(num_trials, num_reports, Path(folder))
            seconds_behind = 0.0
        else:
            seconds_behind = run_ours(rival, num_trials, num_reports, Path(folder))
        end = time.time() - seconds_behind
        cpu_seconds = time.process_time() - cpu_start
        peak_mb = _peak_mb()
        num_ended, num_reported, first = _what_is_there(Path(folder))
    ray.shutdown()
    if num_ended != num_trials:
        raise RuntimeError(f"{num_trials - num_ended} of {num_trials} trials have no result")
    seconds = (first - start, end - first, cpu_seconds)
    return Measured(rival, num_ended, num_reported, *seconds, peak_mb, seconds_behind, load)


def run_raw(num_trials: int, num_reports: int, folder: Path) -> None:
    """A sweep as one would write it for Tune, its own records of results switched off as ours switches them off."""
    from ray import tune

    from benchmarks.formulas import RawFormulaActor, formula_trials

    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    trials = [asdict(trial.config) for trial in formula_trials(num_trials, num_reports)]
    tuner = tune.Tuner(
        tune.with_resources(RawFormulaActor, {"CPU": 1}),
        param_space={"trial": tune.grid_search(trials), "storage": str(folder)},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray"),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()


def run_ours(rival: Rival, num_trials: int, num_reports: int, folder: Path) -> float:
    """A sweep as `run_sweep` does it; returns the seconds that MLflow was behind at the end."""
    from benchmarks.formulas import FormulaActor, candidate_rates, formula_cells
    from sweeps.options import SweepOptions
    from sweeps.running.session import Session
    from sweeps.running.tuner import run_trials
    from sweeps.table.cells import Trial
    from vit_trainer.config import Execution
    from vit_trainer.tracking.background import BackgroundShipper
    from vit_trainer.tracking.catalogue import Membership

    options = SweepOptions(
        storage=str(folder),
        base_lrs=tuple(map(str, candidate_rates(num_trials))),
        early_stopping="asha" if rival == "asha" else None,
    )
    shipper = None
    if rival == "shipped":
        shipper = BackgroundShipper(f"sqlite:///{folder}/mlflow.db", "formulas", folder / "artifacts", {})

    def ship(trial: Trial) -> None:
        if shipper is not None:
            shipper.ship(options.run_dir(trial), Membership(trial.cell.name, {"cell": trial.cell.name}))

    session = Session("formulas", formula_cells(num_trials, num_reports), options, Execution(), ship)
    if rival == "live":
        session.display.console = Console(force_terminal=True, width=120, height=50, file=_terminal())
    with session.display:
        run_trials(session, FormulaActor)
    if shipper is None:
        return 0.0
    start = time.monotonic()
    shipper.close(timeout_seconds=SECONDS_PER_RUN)
    seconds_behind = time.monotonic() - start
    runs = shipped_runs(f"sqlite:///{folder}/mlflow.db")
    if shipper.failure is not None or len(runs) != num_trials or not all(runs):
        raise RuntimeError(f"MLflow did not get everything: {shipper.failure or f'{sum(runs)} runs of {num_trials}'}")
    return seconds_behind


def _terminal() -> TextIO:
    """A pseudo-terminal that takes all that is written to it."""
    ours, theirs = pty.openpty()

    def drain() -> None:
        with suppress(OSError):
            while os.read(ours, 65536):
                pass

    threading.Thread(target=drain, daemon=True).start()
    return open(theirs, "w")


def shipped_runs(tracking_uri: str) -> list[bool]:
    """For each trial's run in MLflow, whether it has its result."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("formulas")
    runs = client.search_runs([experiment.experiment_id], "tags.trial_id LIKE '%'", max_results=50_000)
    return [run_.info.status == "FINISHED" and "test/accuracy" in run_.data.metrics for run_ in runs]


def _start_ray() -> None:
    """A Ray of this process's own; a busy machine may need several attempts, none of them measured."""
    import ray

    from sweeps.cluster.own_ray import RAY_LOGS

    os.environ.pop("RAY_ADDRESS", None)
    for attempts_left in reversed(range(ATTEMPTS_TO_START_RAY)):
        try:
            ray.init(address="local", num_cpus=NUM_SLOTS, include_dashboard=False, **RAY_LOGS)
            return
        except Exception as error:
            if not attempts_left or "timed out" not in str(error):
                raise
            ray.shutdown()


def _peak_mb() -> float:
    """Most memory that this process had, in 2**20 bytes. Its resource usage begins with that of whoever started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _what_is_there(folder: Path) -> tuple[int, int, float]:
    """In the run folders: trials with a result, reports, and when the first trial began, in Unix seconds."""
    from vit_trainer.files.storage import Storage

    run_dirs = Storage(folder).run_dirs()
    num_ended = sum((run_dir.result() or {}).get("status") in ("finished", "stopped") for run_dir in run_dirs)
    first = min(attempt["time"] for run_dir in run_dirs for attempt in run_dir.attempts())
    return num_ended, sum(len(run_dir.rows()) for run_dir in run_dirs), first


if __name__ == "__main__":
    run(app)
