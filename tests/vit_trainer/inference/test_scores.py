"""What follows from kept predictions, against counting by hand and exact sums."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from vit_trainer.architectures import MODELS
from vit_trainer.commands.evaluate import _beside_known
from vit_trainer.errors import InputError
from vit_trainer.evaluate import Evaluation
from vit_trainer.files.predictions import NO_CLASS, Predictions
from vit_trainer.inference.evaluate_checkpoint import CheckpointEvaluation
from vit_trainer.inference.scores import binomial_interval, class_scores, mcnemar, real_accuracy, vote
from vit_trainer.weights.known_accuracies import KNOWN

NO_NAMES = np.zeros(0, "S1")


def predictions(firsts: list[int], labels: list[int], confidences: list[float] | None = None) -> Predictions:
    classes = np.full((len(firsts), 5), NO_CLASS, np.uint16)
    classes[:, 0] = firsts
    given = np.array(confidences or [0.5] * len(firsts), np.float16)
    return Predictions(classes, given, np.array(labels, np.uint16), NO_NAMES)


def test_the_interval_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    for accuracy, num_images in ((0.99, 10_000), (0.9, 181)):
        intervals = [binomial_interval(int(n), num_images) for n in draw.binomial(num_images, accuracy, 4000)]
        assert np.mean([low <= accuracy <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)
    assert binomial_interval(10, 10)[1] == pytest.approx(1.0)


def test_classes_with_what_they_are_taken_for() -> None:
    scores = class_scores(predictions([0, 2, 2, 1, 1, 0], [0, 0, 0, 0, 1, NO_CLASS]))
    assert [(each.label, each.num_images, each.num_correct) for each in scores] == [(0, 4, 1), (1, 1, 1)]
    assert scores[0].confused_with == ((2, 2), (1, 1))


def test_mcnemars_p_is_that_of_all_coins() -> None:
    first, second = predictions([1] * 9 + [0], [1] * 10), predictions([1] * 4 + [0] * 5 + [1], [1] * 10)
    test = mcnemar(first, second)
    assert (test.num_only_first, test.num_only_second) == (5, 1)
    tosses = [sum(each) for each in product((0, 1), repeat=6)]
    assert test.p_value == pytest.approx(sum(min(heads, 6 - heads) <= 1 for heads in tosses) / len(tosses))
    assert mcnemar(first, first).p_value == 1.0
    many = predictions([1] * 4000, [1] * 4000), predictions([0] * 4000, [1] * 4000)
    assert mcnemar(*many).p_value == pytest.approx(2.0**-3999)
    with pytest.raises(InputError, match="of 10 and 4000 images that aren't the same: give trials of one data set"):
        mcnemar(first, many[0])


def test_a_vote_counts_confidences() -> None:
    labels = [0, 0]
    several = [predictions([0, 1], labels, [0.4, 0.9]), predictions([2, 0], labels, [0.7, 0.5])]
    assert vote(several).tolist() == [2, 1]
    assert vote([*several, predictions([0, 0], labels, [0.4, 0.5])]).tolist() == [0, 0]


def test_real_counts_any_right_class_and_leaves_images_without_one_out() -> None:
    order = np.random.default_rng(0).permutation(50_000)
    names = np.array([f"n0/ILSVRC2012_val_{place + 1:08}.JPEG" for place in order], "S")
    classes = np.tile(np.arange(5, dtype=np.uint16), (50_000, 1))
    found = Predictions(classes, np.zeros(50_000, np.float16), np.zeros(50_000, np.uint16), names)
    labels: list[list[int]] = [[] if i % 5 == 0 else [7, 0] if i % 5 == 1 else [3] for i in range(50_000)]
    assert real_accuracy(found, labels) == (10_000, 40_000)
    with pytest.raises(InputError, match=r"5 labels of ImageNet-ReaL and 50000 images by name: give real\.json"):
        real_accuracy(found, labels[:5])


@pytest.mark.parametrize(("model", "resolution"), KNOWN)
def test_a_released_kind_is_shown_beside_what_is_known_of_it(model: str, resolution: int) -> None:
    assert model in MODELS
    sums = Evaluation(41_000, 48_000, 1.0, 50_000)
    own = CheckpointEvaluation(model, "x.npz", "imagenet2012", "test", resolution, 1, 1.0, sums)
    interval, *known = _beside_known(own)
    assert interval == "81.66% to 82.33% with 95% confidence, by the number of images"
    figure = 100 * KNOWN[model, resolution][0].accuracy
    assert known[0].startswith(f"the released one: {figure:.2f}% by ")
    assert known[0].endswith(f"; this is {82 - figure:+.2f} points")
    assert _beside_known(CheckpointEvaluation(model, "x.npz", "imagenet2012", "train", 384, 1, 1.0, sums)) == [interval]


def test_the_command_scores_files_and_folders(tmp_path: Path) -> None:
    right, wrong = predictions([0, 1, 1, 1], [0, 1, 1, 0]), predictions([1, 1, 0, 1], [0, 1, 1, 0])
    (tmp_path / "run").mkdir()
    older = {name: array for name, array in vars(right).items() if name != "class_names"}
    np.savez_compressed(tmp_path / "run" / "predictions.npz", **older)
    (tmp_path / "other.npz").write_bytes(replace(wrong, class_names=np.array(["ant", "dog"])).to_bytes())
    (tmp_path / "real.json").write_text(json.dumps([[0]]))

    def said(*arguments: str) -> tuple[int, list[str]]:
        command = [sys.executable, "-m", "vit_trainer", "score", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).splitlines()

    low, high = (100 * each for each in binomial_interval(3, 4))
    interval = f"({low:.2f} to {high:.2f} with 95% confidence)"
    code, lines = said("run", "other.npz", "run", "--worst", "1")
    assert code == 0
    assert lines[:2] == [
        f"run: top-1 75.00% {interval}, top-5 75.00% of 4 images",
        "  class 0: 1 of 2; taken 1 for class 1",
    ]
    assert "  ant: 0 of 2; taken 2 for dog" in lines
    assert "run alone is right on 2, other.npz alone on 0: McNemar's p is 0.5" in lines
    assert lines[-1] == "the 3 together, by vote: 75.00%"
    for arguments, message in (
        ((), "nothing to score: give run folders of finished trials"),
        (("nowhere",), "nowhere can't be read (No such file or directory): give a run folder of a finished trial"),
        (("real.json",), "no file of predictions ("),
        (("run", "--real", "real.json"), "1 labels of ImageNet-ReaL and 0 images by name"),
        (("run", "--real", "other.npz"), "other.npz is no real.json ("),
    ):
        code, lines = said(*arguments)
        assert code == 2
        assert message in lines[-1]
