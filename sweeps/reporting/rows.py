"""Rows: the table for other tools, a row per cell."""

import dataclasses
import shlex
from collections.abc import Mapping
from statistics import median
from typing import Any

from sweeps.records.cell_record import CellRecord, accuracies_of
from sweeps.records.results import Results
from sweeps.records.trial_record import SPEEDS, TrialRecord
from sweeps.reporting.texts import PUBLISHED_BY
from sweeps.table.cells import name_of_cell
from sweeps.table.spread import kind_of
from vit_trainer.config import OWN_WEIGHTS, FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.schema import STATUSES


def rows_of(results: Results) -> list[dict[str, Any]]:
    """The table for other tools, a row per cell: accuracies and differences as fractions, hours as numbers.

    Columns about what was published are left out where nothing is, and those about speed where no trial knows it.
    """
    return [_row(record, results) for record in results.cells]


def trial_rows_of(results: Results) -> list[dict[str, Any]]:
    """The same of trials, a row for each in each cell that it is a candidate of."""
    return [_trial_row(record, trial) for record in results.cells for trial in record.trials]


def _trial_row(record: CellRecord, trial: TrialRecord) -> dict[str, Any]:
    result, last = trial.result or {}, trial.last_attempt
    return {
        "trial_id": trial.trial_id,
        "cell": name_of_cell(record.cell),
        **trial.config,
        "status": trial.status,
        "is_chosen": trial in record.chosen,
        "step": trial.step,
        "validation_accuracy": result.get("val/accuracy", trial.validations[-1][1] if trial.validations else None),
        "test_accuracy": result.get("test/accuracy"),
        "wall_hours": trial.wall_hours,
        "hours": trial.hours,
        "predicted_hours": trial.predicted_hours,
        "saved_hours": trial.saved_hours,
        "lost_hours": trial.lost_hours,
        "billed_hours": trial.billed_hours,
        **{name: median(values) if (values := trial.speeds(name)) else None for name in SPEEDS},
        "num_attempts": len(trial.attempts),
        "begun": trial.attempts[0]["time"] if trial.attempts else None,
        "last_seen": trial.last_time,
        "device": trial.device or None,
        "host": last.get("host"),
        "commit": last.get("commit"),
        "weights_sha256": last.get("weights_sha256"),
        "cause": result.get("cause"),
    }


def _row(record: CellRecord, results: Results) -> dict[str, Any]:
    """A cell's row of the table for other tools."""
    cell, figure, verdict = record.cell, record.figure, record.verdict
    first = record.chosen[0].config if record.chosen else {}
    differs = verdict and results.whole.differs[results.judged.index(record)]
    mean = verdict and results.whole.means[kind_of(cell)]
    accuracies: dict[str, float] = {each.table: each.accuracy for each in (figure, *record.others) if each is not None}
    published = {
        **{f"{table}_accuracy": accuracies.get(table) for table in PUBLISHED_BY},
        "published_left_open": record.is_left_open,
        "published_accuracy": figure and figure.accuracy,
        "published_table": figure and figure.table,
        "published_base_lr": figure and figure.base_lr,
        "published_base_lr_basis": figure and figure.base_lr_basis,
        "judged_base_lr": record.judged[0].base_lr if record.judged else None,
        "judged_accuracies": " ".join(map(str, accuracies_of(record.judged))),
        "judged_num_stopped_seeds": record.num_stopped_beside(record.judged),
        "difference": verdict and verdict.difference,
        "interval_95_low": verdict and verdict.interval_95[0],
        "interval_95_high": verdict and verdict.interval_95[1],
        "spread": verdict and verdict.spread.deviation,
        "spread_degrees_of_freedom": verdict and verdict.spread.degrees_of_freedom,
        "spread_runs": verdict and verdict.spread.runs,
        "margin": verdict and verdict.margin,
        "verdict": verdict and str(verdict.status),
        "more_seeds_needed": verdict and verdict.more_seeds_needed,
        "p_value": verdict and verdict.p_value,
        "differs_in_whole_table": differs,
        "mean_difference": mean and mean.difference,
        "mean_interval_90_low": mean and mean.interval_90[0],
        "mean_interval_90_high": mean and mean.interval_90[1],
        "mean_is_within_margin": mean and mean.is_within,
        "published_wall_hours": figure and figure.wall_hours,
        "published_card": figure and figure.card,
        "published_caveat": figure and (figure.caveat or None),
        "published_source": figure and figure.source,
    }
    return {
        "cell": name_of_cell(cell),
        "model": cell.model,
        "dataset": cell.dataset,
        "dropout": cell.dropout,
        "upstream": cell.upstream,
        "resolution": cell.resolution,
        "total_steps": cell.schedule.total_steps,
        "warmup_steps": cell.schedule.warmup_steps,
        "global_batch_size": cell.schedule.global_batch_size,
        "accuracy": record.accuracy,
        "accuracy_deviation": record.choice.deviation if record.choice else None,
        "accuracies": " ".join(map(str, record.accuracies)),
        "num_seeds": len(record.chosen),
        "num_stopped_seeds": record.num_stopped_beside(record.chosen),
        **(published if results.has_published else {}),
        "validation_accuracy": record.validation_accuracy,
        "chosen_base_lr": first.get("base_lr"),
        "chosen_dropout": first.get("dropout"),
        "chosen_warmup_steps": first.get("warmup_steps"),
        "wall_hours": record.wall_hours,
        "device": record.device,
        **{name: record.speed(name) for name in results.speeds},
        "hours": record.hours,
        "predicted_hours": record.predicted_hours,
        "saved_hours": record.saved_hours,
        "lost_hours": record.lost_hours,
        "billed_hours": record.billed_hours,
        "dollars": record.dollars,
        **{f"num_{status}": record.count(status) for status in STATUSES},
        "trial_ids": " ".join(trial.trial_id for trial in record.chosen),
        "command": record.commands[-1] if record.commands else None,
        "trial_command": trial_command(record.chosen[0].config) if record.chosen else None,
    }


def trial_command(config: Mapping[str, Any]) -> str:
    """The command that runs one trial without Ray; what is the official recipe's is left out.

    Args:
        config: content of the trial's config.json, which doesn't know where a folder of classes or weights of one's
            own are.
    """
    places = {"dataset": "FOLDER", "upstream": f"FILE.{config['upstream'].split('-')[0]}"}
    official: Mapping[str, Any] = {"dropout": 0.0, "seed": 0}
    try:
        official = FinetuneConfig.official(config["model"], config["dataset"]).to_dict()
        places.pop("dataset")
    except InputError:
        pass  # a folder of classes
    if not config["upstream"].startswith(OWN_WEIGHTS):
        places.pop("upstream")
    words = ["python", "-m", "vit_trainer", "train"]
    for name in (field.name for field in dataclasses.fields(FinetuneConfig)):
        value = config[name]
        if name in ("model", "dataset") or official.get(name) != value:
            flag = "checkpoint" if name in places and name == "upstream" else name.replace("_", "-")
            words += [f"--{flag}", str(places.get(name, f"{value:g}" if isinstance(value, float) else value))]
    return shlex.join(words)
