"""Order: in which order a sweep's trials start."""

from sweeps.planning.rates import num_evaluated_images, num_trained_images
from sweeps.table.cells import Cell, Trial
from vit_trainer.architectures import MODELS, TRAIN_FLOPS_PER_FORWARD


def trial_flops(trial: Trial) -> float:
    """Floating-point operations of a trial's training and evaluations."""
    forward = MODELS[trial.cell.model].forward_flops(trial.cell.resolution)
    return (TRAIN_FLOPS_PER_FORWARD * num_trained_images(trial) + num_evaluated_images(trial)) * forward


def longest_first(trials: list[Trial]) -> list[Trial]:
    """The order to start in: cells by their longest trial, the candidates of a cell together.

    So the end of a sweep is not one long trial on an idle cluster, and candidates meet at their rungs.
    """
    longest: dict[Cell, float] = {}
    for trial in trials:
        longest[trial.cell] = max(longest.get(trial.cell, 0.0), trial_flops(trial))
    place = {cell: i for i, cell in enumerate(sorted(longest, key=lambda cell: -longest[cell]))}
    return sorted(trials, key=lambda trial: place[trial.cell])


def cheapest_first(trials: list[Trial]) -> list[Trial]:
    """The order to start in under a budget: cells by their work, the candidates of a cell together.

    So any number of hours fills as many entries of the table as it can.

    Args:
        trials: those that aren't done: a cell that has its number is no longer among the cheapest.
    """
    work: dict[Cell, float] = {}
    for trial in trials:
        work[trial.cell] = work.get(trial.cell, 0.0) + trial_flops(trial)
    place = {cell: i for i, cell in enumerate(sorted(work, key=lambda cell: work[cell]))}
    return sorted(trials, key=lambda trial: place[trial.cell])
