"""Chosen: which candidate of a cell counts, and what it came to: the one answer of whoever shows a cell."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Recipe = tuple[float, float, float]
"""What candidates of a cell may differ in: base_lr, dropout, warmup_steps; trials that share it are its seeds."""


@dataclass(frozen=True)
class Finished:
    """What one finished trial came to."""

    trial_id: str
    recipe: Recipe
    seed: int
    validation: float
    """Accuracy on the validation images, a fraction."""
    test: float
    """Accuracy on the test images, a fraction."""

    @classmethod
    def of(cls, trial_id: str, config: Mapping[str, Any], result: Mapping[str, Any]) -> "Finished":
        """A trial by the contents of its config.json and result.json, or what MLflow has of them."""
        recipe = (float(config["base_lr"]), float(config["dropout"]), float(config["warmup_steps"]))
        return cls(trial_id, recipe, int(config["seed"]), result["val/accuracy"], result["test/accuracy"])


@dataclass(frozen=True)
class Chosen:
    """The candidate of a cell that counts, with all of its finished seeds. Accuracies are fractions."""

    trials: tuple[Finished, ...]
    """Its seeds, in their order; at least one."""
    shared_seeds: tuple[int, ...]
    """Those by which it was chosen."""
    num_compared: int
    """Candidates that it is the best of, itself included."""
    num_not_compared: int
    """Candidates that finished other seeds alone, and so had no part in the choice."""

    @property
    def base_lr(self) -> float:
        return self.trials[0].recipe[0]

    @property
    def why(self) -> str:
        """In words: `the best of 4 that finished`."""
        others = f"; {self.num_not_compared} finished other seeds alone" if self.num_not_compared else ""
        return f"the best of {self.num_compared} that finished{others}"

    @property
    def accuracies(self) -> list[float]:
        """On the test images, of each seed."""
        return [trial.test for trial in self.trials]

    @property
    def accuracy(self) -> float:
        """What the cell achieved: the mean over seeds on the test images."""
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds on the test images, estimated from these; None for a single one."""
        return statistics.stdev(self.accuracies) if len(self.trials) > 1 else None

    @property
    def validation(self) -> float:
        """The mean over seeds on the validation images."""
        return statistics.fmean(trial.validation for trial in self.trials)


def choose(finished: Iterable[Finished]) -> Chosen | None:
    """The candidate with the best mean validation accuracy over the seeds that all candidates have finished.

    So neither repeats of one candidate nor what early stopping left of another change what is compared. If no seed is
    shared by all, the seed that most have finished decides who is compared: those that have it, over all seeds that
    they share. Of equals the first counts: the lowest learning rate, then dropout, then warm-up, which is the order of
    the grids; of seeds that equally many have, the lowest.

    Args:
        finished: the cell's finished trials in any order.

    Returns:
        None if nothing is finished.
    """
    by_recipe: dict[Recipe, dict[int, Finished]] = {}
    for trial in sorted(finished, key=lambda trial: (trial.recipe, trial.seed)):
        by_recipe.setdefault(trial.recipe, {})[trial.seed] = trial
    if not by_recipe:
        return None
    seeds = sorted({seed for own in by_recipe.values() for seed in own})
    commonest = max(seeds, key=lambda seed: sum(seed in own for own in by_recipe.values()))
    compared = [own for own in by_recipe.values() if commonest in own]
    shared = [seed for seed in seeds if all(seed in own for own in compared)]
    # Rounded, or equal means of different numbers would differ in their last bits.
    best = max(compared, key=lambda own: round(statistics.fmean(own[seed].validation for seed in shared), 9))
    return Chosen(tuple(best.values()), tuple(shared), len(compared), len(by_recipe) - len(compared))
