"""Trials that are formulas: they leave the files of real ones, report as often as one likes, and compute nothing."""

import math
from itertools import islice, product
from typing import Any

from ray import tune

from sweeps.running.assignment import Assignment
from sweeps.table.cells import MINI, Cell, Schedule, Trial
from vit_trainer.config import FinetuneConfig
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.files.storage import Storage


def candidates_per_cell(num_trials: int) -> int:
    """How many learning rates each cell gets: ten where that gives the number of trials."""
    return math.gcd(num_trials, 10)


def candidate_rates(num_trials: int) -> list[float]:
    """Learning rates of each cell's candidates."""
    return [(i + 1) / 1000 for i in range(candidates_per_cell(num_trials))]


def formula_cells(num_trials: int, num_reports: int) -> list[Cell]:
    """Cells of the miniature's models and data sets, and as many dropouts as it takes; a report per step."""
    num_cells = num_trials // candidates_per_cell(num_trials)
    schedule = Schedule(total_steps=num_reports, warmup_steps=0, global_batch_size=16)
    num_dropouts = math.ceil(num_cells / len(MINI.models) / len(MINI.datasets))
    entries = product((i / num_dropouts for i in range(num_dropouts)), MINI.models, MINI.datasets)
    return [
        Cell("digits", model, dataset, 32, schedule, dropout) for dropout, model, dataset in islice(entries, num_cells)
    ]


def formula_trials(num_trials: int, num_reports: int) -> list[Trial]:
    """The candidates of these cells."""
    cells = formula_cells(num_trials, num_reports)
    return [Trial(cell, rate, seed=0) for cell in cells for rate in candidate_rates(num_trials)]


def formula_row(config: FinetuneConfig, step: int) -> Row:
    """What a real trial would report after a step, with the same metrics; rates differ in how good they are."""
    done = step / config.total_steps
    best = 0.5 + 0.5 * math.sin(1000 * config.base_lr) ** 2
    return {
        "step": step,
        "train/loss": math.exp(-done),
        "lr": config.base_lr * (1 - done),
        "images_per_second": 1000.0,
        "input_wait_fraction": 0.01,
        "val/accuracy": best * done / (0.1 + done),
        "val/loss": 1 - best * done,
        "runtime_hours": done,
        "gpu_hours": done,
    }


def attempt_of(number: int, from_step: int) -> Row:
    """The journal's line of an attempt."""
    return {"attempt": number, "from_step": from_step, "host": "", "device": "cpu", "num_processes": 1}


class FormulaActor(tune.Trainable):
    """Runs the formula of config["assignment"] as TrialActor runs training: a result per report, and one at the end."""

    _run_dir: RunDir

    def setup(self, config: dict[str, Any]) -> None:
        self._config, location = self._trial_of(config)
        self._run_dir, self._begun = RunDir(location), False
        self._pause_at = config["assignment"].pause_at if "assignment" in config else None

    def step(self) -> dict[str, Any]:
        if not self._begun:
            self._begun = True
            self._run_dir.open_for_writing(self._config.to_dict())
            rows = self._run_dir.journal() if self._pause_at is None else []  # one that has paused goes on
            self._step = rows[-1]["step"] if rows else 0
            self._run_dir.append(attempt_of(1, self._step))
        row = formula_row(self._config, self._step)
        if self._step == self._config.total_steps:
            return self._finished(row)
        self._step += 1
        written = self._run_dir.append(formula_row(self._config, self._step))
        if self._step != self._pause_at:
            return written
        self._run_dir.close()
        return written | {"done": True, "paused": True}

    def _finished(self, last: Row) -> dict[str, Any]:
        """Write what a trial with this last row has come to."""
        metrics = {key: last[key] for key in ("val/accuracy", "train/loss", "runtime_hours", "gpu_hours")}
        result = {"status": "finished", "step": last["step"], "test/accuracy": last["val/accuracy"], **metrics}
        self._run_dir.write_result(result)
        self._run_dir.close()
        return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run_dir.close()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._run_dir.close()

    def _trial_of(self, config: dict[str, Any]) -> tuple[FinetuneConfig, str]:
        """The trial, and the location of its run folder."""
        assignment = config["assignment"]
        assert isinstance(assignment, Assignment)
        return assignment.config, assignment.location


class RawFormulaActor(FormulaActor):
    """The formula's trials without our orchestrator: from values as one would write them for Tune."""

    def _trial_of(self, config: dict[str, Any]) -> tuple[FinetuneConfig, str]:
        trial = FinetuneConfig(**config["trial"])
        return trial, Storage(config["storage"]).run_dir(trial.trial_id).location
