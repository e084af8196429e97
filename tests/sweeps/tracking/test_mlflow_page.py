"""MLflow's own page as one opens it: from its root by clicks to the comparison of a sweep's cells."""

import math
from pathlib import Path

import pytest

from sweeps.options import SweepOptions
from sweeps.reporting.write import write_report
from sweeps.table.cells import Cell, Grid, Trial, cells_of
from sweeps.table.published import published_for
from sweeps.tracking.to_mlflow import SweepShipper

SWEEP = "paper_grid-paper"
CELLS = cells_of(Grid(("R50+ViT-B_16", "ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32"), ("cifar10", "cifar100")))
RATES = (0.01, 0.03)


def accuracy_of(cell: Cell, base_lr: float) -> float:
    """Made up: near what was published."""
    figure = published_for(cell)
    assert figure is not None
    return figure.accuracy + (0.0005 if base_lr == figure.base_lr else -0.004)


def leave_run(options: SweepOptions, trial: Trial) -> None:
    """What a finished trial leaves."""
    run_dir, steps = options.run_dir(trial), trial.cell.schedule.total_steps
    run_dir.open_for_writing(trial.config.to_dict())
    accuracy = accuracy_of(trial.cell, trial.base_lr)
    for share in (0.25, 0.5, 0.75, 1.0):
        validation = accuracy * (1 - math.exp(-9 * share))
        row = {"step": int(share * steps), "train/loss": 1 - share / 2, "lr": 0.01, "val/accuracy": validation}
        run_dir.append({**row, "val/loss": 0.2, "images_per_second": 300.0})
    hours = {"runtime_hours": 4.0 + len(trial.cell.model) / 10, "gpu_hours": 4.0 + len(trial.cell.model) / 10}
    result = {"status": "finished", "step": steps, "test/accuracy": accuracy, "test/loss": 0.1, **hours}
    run_dir.write_result({**result, "val/accuracy": validation, "train/loss": 0.5, "images_per_second": 300.0})
    run_dir.close()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a whole sweep that was shipped, with its report."""
    storage = tmp_path_factory.mktemp("a storage") / "with spaces"
    ship(storage)
    return storage


def ship(storage: Path) -> SweepShipper:
    options = SweepOptions(storage=str(storage))
    trials = [Trial(cell, base_lr, 0) for cell in CELLS for base_lr in RATES]
    for trial in trials:
        leave_run(options, trial)
    shipper = SweepShipper(SWEEP, options)
    shipper.ship_all(trials)
    write_report(options.opened_storage, SWEEP)
    shipper.close(options.opened_storage.report(SWEEP))
    return shipper
