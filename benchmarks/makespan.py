"""How long does the paper's grid take on a cluster, with candidates that pause and gangs that grow?

The sweep's own scheduler and Ray Tune's controller on made-up nodes; the trials only wait, on the clock of the plan.

Command: python benchmarks/makespan.py
"""

import os
import sys
import time
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.formulas import FormulaActor
from benchmarks.provenance import write_json
from sweeps.options import SweepOptions
from sweeps.planning.rates import Rates
from sweeps.running.assignment import Assignment
from sweeps.table.cells import PAPER, Cell, Trial, cell_of, cells_of
from sweeps.table.published import is_published
from vit_trainer.cards import CARDS
from vit_trainer.command_line import new_app, run
from vit_trainer.config import Execution
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.loop.ledger import REPORT_MINUTES

app = new_app("Runs the paper's grid with trials that only wait.", name="makespan.py")

START_MINUTES = 3.0
"""Loading, and compiling on a node that hasn't yet; also after each pause and each move."""


@dataclass(frozen=True)
class Makespan:
    """How long a grid took."""

    hours: float
    """Of the plan's clock, from the first trial's first line to the last trial's last."""
    gpu_hours: float
    num_moves: int
    """How often a trial went on with more GPUs."""


class WaitingActor(FormulaActor):
    """Takes as long as the plan says for its assignment's trial, divided by its GPUs, and leaves its files."""

    _step: int
    _hours: tuple[float, float]

    def setup(self, config: dict[str, Any]) -> None:
        assignment = config["assignment"]
        assert isinstance(assignment, Assignment)
        self._assignment, self._begun = assignment, False
        self._run_dir = RunDir(assignment.location)

    def step(self) -> dict[str, Any]:
        import ray

        assignment, config = self._assignment, self._assignment.config
        second = float(Path(assignment.location).parents[1].joinpath("second").read_text())
        if not self._begun:
            self._begun = True
            self._run_dir.open_for_writing(config.to_dict())
            rows = self._run_dir.journal()
            last: Row = rows[-1] if rows else {"step": 0, "runtime_hours": 0.0, "gpu_hours": 0.0}
            self._step, self._hours = last["step"], (last["runtime_hours"], last["gpu_hours"])
            num_processes = sum(assignment.processes_of_nodes)
            attempt = {"attempt": len(self._run_dir.attempts()) + 1, "from_step": self._step}
            self._run_dir.append(attempt | {"host": "", "device": "cuda", "num_processes": num_processes})
            time.sleep(60 * START_MINUTES * second)
        if self._step == config.total_steps:
            return self._finished(self._run_dir.journal()[-1])
        trial = Trial(cell_of(config.to_dict()), config.base_lr, config.seed)
        hours = Rates(CARDS["A100-40GB"]).hours(trial)
        assert hours is not None
        size = sum(assignment.processes_of_nodes)
        per_validation = config.total_steps // config.num_evaluations
        per_report = int(config.total_steps * REPORT_MINUTES / 60 * size / hours)
        validation = self._step // per_validation * per_validation + per_validation
        steps = min(validation, self._step + per_report) - self._step
        self._step += steps
        seconds = 3600 * hours * steps / config.total_steps / size * second
        time.sleep(seconds)
        self._hours = self._hours[0] + seconds / 3600, self._hours[1] + seconds * size / 3600
        row = {"step": self._step, "train/loss": 1.0}
        if self._step % per_validation == 0:
            row["val/accuracy"] = _accuracy(trial, Path(assignment.location).parents[1].joinpath("best").read_text())
        row |= dict(zip(("runtime_hours", "gpu_hours"), self._hours, strict=True))
        written = self._run_dir.append(row) | {"node": ray.get_runtime_context().get_node_id()}
        if assignment.pause_at is None or self._step < assignment.pause_at or self._step == config.total_steps:
            return written
        self._run_dir.append({"paused": self._step})
        self._run_dir.close()
        return written | {"done": True, "paused": True}


def _accuracy(trial: Trial, published_best: str) -> float:
    """Drawn, but the published rate is the best of its cell or, in half of the cells, the worst: then three go on."""
    if is_published(trial):
        return 1.0 if published_best == "all" or trial.cell.dropout == 0 else 0.0
    return zlib.crc32(trial.trial_id.encode()) / 2**32


def makespan(
    cells: list[Cell], gpus_of_nodes: list[int], seconds_per_hour: float, published_best: str = "half", **flags: Any
) -> Makespan:
    """Run a grid on made-up nodes.

    Args:
        cells: of the grid.
        gpus_of_nodes: GPUs of each.
        seconds_per_hour: of the plan's clock.
        published_best: in which cells the published rate is the best, `half` or `all`.
        flags: fields of SweepOptions.
    """
    import ray
    from ray.cluster_utils import Cluster

    from sweeps.checks.parity_on_nodes import SWITCH
    from sweeps.cluster.own_ray import init
    from sweeps.running.session import Session
    from sweeps.running.tuner import run_trials

    os.environ[SWITCH] = "off"  # these GPUs are only counted
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for num_gpus in gpus_of_nodes:
            cluster.add_node(num_cpus=num_gpus, num_gpus=num_gpus)
        init(address=cluster.address)
        with TemporaryDirectory() as folder:
            Path(folder, "second").write_text(str(seconds_per_hour / 3600))
            Path(folder, "best").write_text(published_best)
            options = SweepOptions(storage=folder, quiet=True, **flags)
            session = Session("makespan", cells, options, Execution(), lambda trial: None)
            run_trials(session, WaitingActor)
            runs = [RunDir(path) for path in Path(folder, "runs").iterdir()]
            times = [line["time"] for run_dir in runs for line in run_dir.lines()]
            hours = (max(times) - min(times)) / seconds_per_hour
            gpu_hours = sum(run_dir.journal()[-1]["gpu_hours"] for run_dir in runs if run_dir.journal())
            sizes = [[attempt["num_processes"] for attempt in run_dir.attempts()] for run_dir in runs]
        num_moves = sum(a != b for own in sizes for a, b in pairwise(own))
        return Makespan(hours, gpu_hours * 3600 / seconds_per_hour, num_moves)
    finally:
        ray.shutdown()
        cluster.shutdown()


@app.default
def main(
    *,
    seconds_per_hour: float = 60.0,
    nodes: int = 4,
    published_best: Literal["half", "all"] = "half",
    json: Path | None = None,
) -> int:
    """Run the paper's grid with gangs that grow and without.

    Args:
        seconds_per_hour: of the plan's clock; starts of actors, which take seconds here, weigh less the more there are.
        nodes: of 8 GPUs each.
        published_best: in which cells the published rate is the best, so that no third candidate goes on.
        json: where to write the figures.
    """
    if not seconds_per_hour > 0 or nodes < 1:
        raise InputError(f"seconds_per_hour {seconds_per_hour:g}, nodes {nodes}: give numbers above 0")
    figures = {}
    for grows in (True, False):
        found = makespan(cells_of(PAPER), [8] * nodes, seconds_per_hour, published_best, grow_gangs=grows)
        figures["growing" if grows else "fixed"] = vars(found)
        print(
            f"{'gangs that grow' if grows else 'gangs of one GPU'}: {found.hours:.1f} h on {8 * nodes} GPUs, "
            f"{found.gpu_hours:.0f} GPU-hours, {found.num_moves} moves"
        )
    if json is not None:
        write_json(
            json,
            {"seconds_per_hour": seconds_per_hour, "published_best": published_best, "num_gpus": 8 * nodes, **figures},
        )
    return 0


if __name__ == "__main__":
    run(app)
