"""Best region: which learning rates do as well as a cell's best, the official one too; what mattered in a search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.records.cell_record import CellRecord
from sweeps.records.trial_record import TrialRecord
from sweeps.table.cells import Trial
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import DATASETS
from vit_trainer.errors import InputError
from vit_trainer.tracking.chosen import Recipe

MIN_RATES = 5
"""With fewer different learning rates, as in the paper's grid, a cell has no region."""


@dataclass(frozen=True)
class Region:
    """What a cell's finished candidates say about its learning rate."""

    best: tuple[TrialRecord, ...]
    """The seeds of the candidate that counts."""
    low: float
    """The lowest learning rate that does as well as the best, as all candidates up to `high` do."""
    high: float
    """The highest learning rate that does as well as the best."""
    official_lr: float | None
    """The official recipe's learning rate; None: it has none for this data set."""
    official: tuple[TrialRecord, ...]
    """The finished seeds of the candidate with the official recipe; may be none."""
    difference: float | None
    """Validation accuracy of the best minus the official's, a fraction, over the seeds that both have."""

    @classmethod
    def of(cls, record: CellRecord) -> "Region | None":
        """The region of a cell; None if fewer than MIN_RATES were tried, or nothing is finished.

        Candidates are compared with the best over the seeds that both have; those that share none are left out. As
        good as the best is what lies within one standard error of its accuracy: that of a share of the held-out
        images, with one more right and one more wrong, so that 100% isn't certain.
        """
        best = record.chosen
        if not best or len({trial.base_lr for trial in record.trials}) < MIN_RATES:
            return None
        candidates: dict[Recipe, list[TrialRecord]] = {}
        for trial in sorted(record.trials, key=lambda trial: (trial.base_lr, trial.seed)):
            if trial.status == "finished":
                candidates.setdefault(trial.trial.recipe, []).append(trial)
        behind = [(seeds, _behind(best, seeds)) for seeds in candidates.values()]
        compared = [(seeds, difference) for seeds, difference in behind if difference is not None]
        enough = _standard_error(mean_validation(best), record.cell.dataset)
        low = high = next(i for i, (seeds, _) in enumerate(compared) if tuple(seeds) == best)
        while low > 0 and compared[low - 1][1] <= enough:
            low -= 1
        while high + 1 < len(compared) and compared[high + 1][1] <= enough:
            high += 1
        ends = compared[low][0][0].base_lr, compared[high][0][0].base_lr
        recipe = _official(record)
        official = [own for own in candidates.values() if recipe is not None and _is_recipe(own[0].trial, recipe)]
        seeds = tuple(official[0]) if official else ()
        return cls(best, *ends, recipe.base_lr if recipe else None, seeds, _behind(best, seeds))


def mean_validation(seeds: Sequence[TrialRecord]) -> float:
    """A candidate's validation accuracy, the mean over its seeds; a fraction."""
    return math.fsum(map(validation_accuracy, seeds)) / len(seeds)


def _behind(best: Sequence[TrialRecord], others: Sequence[TrialRecord]) -> float | None:
    """How much worse others validate than the best over the seeds that both have; None if they share none."""
    shared = {trial.seed for trial in best} & {trial.seed for trial in others}
    if not shared:
        return None
    own, other = ([trial for trial in seeds if trial.seed in shared] for seeds in (best, others))
    return mean_validation(own) - mean_validation(other)


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
