"""Chosen: the one answer to which candidate of a cell counts."""

import pytest

from vit_trainer.tracking.chosen import Chosen, Finished, choose

SLOW, FAST, FASTER = (0.003, 0.1, 500), (0.01, 0.1, 500), (0.03, 0.1, 500)


def seeds(recipe: tuple[float, float, float], accuracies: dict[int, tuple[float, float]]) -> list[Finished]:
    """accuracies: (validation, test) by seed."""
    return [Finished(f"{recipe}-{seed}", recipe, seed, *each) for seed, each in accuracies.items()]


def chosen_of(*candidates: list[Finished]) -> Chosen:
    trials = [trial for candidate in candidates for trial in candidate]
    chosen, backwards = choose(trials), choose(reversed(trials))
    assert chosen is not None
    assert chosen == backwards
    return chosen


def test_the_best_on_validation_counts_with_all_of_its_seeds() -> None:
    chosen = chosen_of(seeds(SLOW, {0: (0.95, 0.90), 1: (0.91, 0.99)}), seeds(FAST, {1: (0.94, 0.96), 0: (0.94, 0.98)}))
    assert (chosen.base_lr, chosen.accuracies, chosen.shared_seeds) == (0.01, [0.98, 0.96], (0, 1))
    assert (chosen.accuracy, chosen.validation) == (pytest.approx(0.97), pytest.approx(0.94))
    assert chosen.deviation == pytest.approx(0.02 / 2**0.5)


def test_repeating_the_chosen_candidate_changes_nothing_about_the_choice() -> None:
    rival, before = seeds(FAST, {0: (0.94, 0.92)}), {0: (0.96, 0.95)}
    assert chosen_of(seeds(SLOW, before), rival).base_lr == 0.003
    chosen = chosen_of(seeds(SLOW, before | {1: (0.90, 0.91), 2: (0.90, 0.93)}), rival)
    assert (chosen.base_lr, chosen.accuracies) == (0.003, [0.95, 0.91, 0.93])
    assert chosen.why == "the best of 2 that finished"


def test_what_early_stopping_left_does_not_win_by_having_been_left() -> None:
    whole = seeds(SLOW, {0: (0.93, 0.93), 1: (0.94, 0.94), 2: (0.98, 0.97)})
    chosen = chosen_of(whole, seeds(FAST, {2: (0.97, 0.98)}))  # whose mean is the higher
    assert (chosen.base_lr, chosen.shared_seeds, len(chosen.trials)) == (0.003, (2,), 3)


def test_of_equals_the_first_of_the_grid_counts() -> None:
    equal = {0: (0.95, 0.9)}
    assert chosen_of(seeds(FAST, equal), seeds(SLOW, equal), seeds(FASTER, equal)).base_lr == 0.003
    chosen = chosen_of(*(seeds((0.01, *rest), equal) for rest in ((0.1, 500), (0.1, 100), (0.0, 900))))
    assert chosen.trials[0].recipe == (0.01, 0.0, 900)


def test_candidates_that_share_no_seed_with_the_others_are_not_compared() -> None:
    chosen = chosen_of(seeds(SLOW, {1: (0.99, 0.99)}), seeds(FAST, {0: (0.9, 0.9)}), seeds(FASTER, {0: (0.95, 0.9)}))
    assert (chosen.base_lr, chosen.num_compared, chosen.num_not_compared) == (0.03, 2, 1)
    assert chosen.why == "the best of 2 that finished; 1 finished other seeds alone"
    assert chosen_of(seeds(SLOW, {1: (0.99, 0.99)}), seeds(FAST, {0: (0.9, 0.9)})).base_lr == 0.01  # the lower seed


def test_nothing_finished_is_nothing_chosen_and_one_seed_has_no_deviation() -> None:
    assert choose([]) is None
    assert chosen_of(seeds(SLOW, {3: (0.95, 0.9)})).deviation is None
