"""Best region: which learning rates do as well as a cell's best, the official one too; what mattered in a search."""

import math
from dataclasses import dataclass

from sweeps.records.cell_record import CellRecord
from sweeps.records.trial_record import TrialRecord
from sweeps.table.cells import Trial
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import DATASETS
from vit_trainer.errors import InputError

MIN_RATES = 5
"""With fewer different learning rates, as in the paper's grid, a cell has no region."""


@dataclass(frozen=True)
class Region:
    """What a cell's finished candidates say about its learning rate."""

    best: TrialRecord
    """The candidate that is best on the validation images."""
    low: float
    """The lowest learning rate that does as well as the best, as all finished candidates up to `high` do."""
    high: float
    """The highest learning rate that does as well as the best."""
    official_lr: float | None
    """The official recipe's learning rate; None: it has none for this data set."""
    official: TrialRecord | None
    """The finished candidate with the official recipe."""

    @classmethod
    def of(cls, record: CellRecord) -> "Region | None":
        """The region of a cell; None if fewer than MIN_RATES were tried, or nothing is finished.

        As good as the best is what lies within one standard error of its accuracy: that of a share of the held-out
        images, with one more right and one more wrong, so that 100% isn't certain.
        """
        finished = sorted(
            (trial for trial in record.trials if trial.status == "finished"), key=lambda trial: trial.base_lr
        )
        if not finished or len({trial.base_lr for trial in record.trials}) < MIN_RATES:
            return None
        best = max(finished, key=validation_accuracy)
        enough = validation_accuracy(best) - _standard_error(validation_accuracy(best), record.cell.dataset)
        low = high = finished.index(best)
        while low > 0 and validation_accuracy(finished[low - 1]) >= enough:
            low -= 1
        while high + 1 < len(finished) and validation_accuracy(finished[high + 1]) >= enough:
            high += 1
        recipe = _official(record)
        official = [trial for trial in finished if recipe is not None and _is_recipe(trial.trial, recipe)]
        ends = finished[low].base_lr, finished[high].base_lr
        return cls(best, *ends, recipe.base_lr if recipe else None, official[0] if official else None)


def validation_accuracy(trial: TrialRecord) -> float:
    """A trial's validation accuracy at its end, or where it was stopped; a fraction, NaN if it never validated."""
    if trial.status == "finished" and trial.result is not None:
        return float(trial.result["val/accuracy"])
    return trial.validations[-1][1] if trial.validations else math.nan


def importances_of(record: CellRecord) -> dict[str, float]:
    """How much of what candidates differ by each searched value explains, as shares by name, the largest first.

    Compared is the accuracy at the last step that all have reached: those that early stopping ended say most about
    what does harm. Empty unless several values were searched and there are enough candidates.
    """
    curves = [
        (trial.config, dict(trial.validations))
        for trial in record.trials
        if trial.validations and trial.status != "failed"
    ]
    searched = [
        name for name in ("base_lr", "dropout", "warmup_steps") if len({config[name] for config, _ in curves}) > 1
    ]
    shared = set.intersection(*(set(curve) for _, curve in curves)) if curves else set()
    if len(searched) < 2 or len(curves) < MIN_RATES or not shared:
        return {}
    from sweeps.selection.studies import importances

    return importances([({name: config[name] for name in searched}, curve[max(shared)]) for config, curve in curves])


def _standard_error(accuracy: float, dataset: str) -> float:
    """Standard error of an accuracy on a data set's validation images; 0 for a folder of classes, of unknown size."""
    if dataset not in DATASETS:
        return 0.0
    number = DATASETS[dataset].num_validation + 2
    share = (accuracy * (number - 2) + 1) / number
    return math.sqrt(share * (1 - share) / number)


def _official(record: CellRecord) -> FinetuneConfig | None:
    """The official recipe for a cell's model and data set."""
    try:
        return FinetuneConfig.official(record.cell.model, record.cell.dataset)
    except InputError:  # a folder of classes, of which a run folder knows the id only
        return None


def _is_recipe(trial: Trial, recipe: FinetuneConfig) -> bool:
    """Whether a candidate has the official values of what its cell searches."""
    return trial.base_lr == recipe.base_lr and trial.dropout in (None, recipe.dropout) and trial.warmup_steps is None
