"""What a sweep will cost, before anything starts."""

from sweeps.cells import Trial
from vit_trainer.architectures import MODELS
from vit_trainer.data import dataset_info

TRAIN_FLOPS_PER_FORWARD = 3
"""A backward pass costs twice a forward pass."""
A100_FLOPS_PER_SECOND = 0.45 * 312e12
"""Assumed rate of one card: 45% of an A100's peak in bfloat16. Not measured here."""


def trial_flops(trial: Trial) -> float:
    """Floating-point operations of a trial's training and evaluations."""
    config, info = trial.config, dataset_info(trial.cell.dataset)
    trained = TRAIN_FLOPS_PER_FORWARD * config.total_steps * config.global_batch_size
    evaluated = info.num_evaluations * info.num_validation + info.num_test
    return (trained + evaluated) * MODELS[config.model].forward_flops(config.resolution)


def gpu_hours(trial: Trial) -> float:
    """Predicted hours of one A100, run to the end."""
    return trial_flops(trial) / A100_FLOPS_PER_SECOND / 3600


def longest_first(trials: list[Trial]) -> list[Trial]:
    """The order to start in: cells by their longest trial, the candidates of a cell together.

    So the end of a sweep is not one long trial on an idle cluster, and candidates meet at their rungs.
    """
    longest: dict[object, float] = {}
    for trial in trials:
        longest[trial.cell] = max(longest.get(trial.cell, 0.0), trial_flops(trial))
    place = {cell: i for i, cell in enumerate(sorted(longest, key=lambda cell: -longest[cell]))}
    return sorted(trials, key=lambda trial: place[trial.cell])


def plan_lines(trials: list[Trial], num_done: int) -> list[str]:
    """The plan as lines to print: cells in the order they start, with candidates and predicted GPU-hours."""
    by_cell: dict[object, list[Trial]] = {}
    for trial in longest_first(trials):
        by_cell.setdefault(trial.cell, []).append(trial)
    lines = [f"{'cell':<66} {'candidates (base_lr)':<30} A100-hours"]
    for candidates in by_cell.values():
        rates = ", ".join(f"{trial.base_lr:g}" for trial in candidates)
        hours = sum(gpu_hours(trial) for trial in candidates)
        lines.append(f"{candidates[0].cell.name:<66} {rates:<30} {hours:10.3g}")
    total = sum(gpu_hours(trial) for trial in trials)
    lines.append(
        f"{len(by_cell)} cells, {len(trials)} trials, {num_done} of them done; {total:.3g} A100-hours at 45% of peak "
        "if early stopping stops nothing (from FLOPs, not measured)"
    )
    return lines
