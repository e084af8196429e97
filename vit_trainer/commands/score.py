"""python -m vit_trainer score: what kept predictions say, without training or a GPU."""

from pathlib import Path

from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.schema import json_of


def score(*predictions: Path, real: Path | None = None, worst: int = 5) -> None:
    """Print accuracies with their intervals and the worst classes; of several trials also how they differ, and a vote.

    Parameters
    ----------
    predictions
        Run folders of finished trials, or predictions.npz files; several must be of the same test images.
    real
        ImageNet-ReaL's real.json, for the accuracy by its labels.
    worst
        How many classes to name.
    """
    from vit_trainer.files.predictions import Predictions
    from vit_trainer.files.run_dir import PREDICTIONS
    from vit_trainer.inference.scores import binomial_interval, class_scores, mcnemar, real_accuracy, vote

    if not predictions or worst < 0:
        raise InputError("nothing to score: give run folders of finished trials, and --worst from 0 on")
    found = []
    labels = None if real is None else _labels(real)
    for path in predictions:
        file = path / PREDICTIONS if path.is_dir() else path
        try:
            found.append(Predictions.from_bytes(file.read_bytes()))
        except OSError as error:
            raise InputError(
                f"{file} can't be read ({reason_of(error)}): give a run folder of a finished trial"
            ) from error
    for path, own in zip(predictions, found, strict=True):
        if not own.num_images:
            raise InputError(f"{path}: none of its images could be read: give predictions of images that could")
        low, high = binomial_interval(own.num_correct, own.num_images)
        top1, top5 = (100 * count / own.num_images for count in (own.num_correct, own.num_correct_top5))
        print(
            f"{path.name}: top-1 {top1:.2f}% ({100 * low:.2f} to {100 * high:.2f} with 95% confidence), "
            f"top-5 {top5:.2f}% of {own.num_images} images"
        )
        if labels is not None:
            correct, count = real_accuracy(own, labels)
            print(f"  ImageNet-ReaL {100 * correct / max(1, count):.2f}% of {count} images")
        missed = [each for each in class_scores(own) if each.confused_with]
        scores = sorted(missed, key=lambda each: each.num_correct / each.num_images)
        for each in scores[:worst]:
            taken = ", ".join(f"{count} for {own.name_of(other)}" for other, count in each.confused_with[:3])
            print(f"  {own.name_of(each.label)}: {each.num_correct} of {each.num_images}; taken {taken}")
    for path, own in zip(predictions[1:], found[1:], strict=True):
        test = mcnemar(found[0], own)
        print(
            f"{predictions[0].name} alone is right on {test.num_only_first}, {path.name} alone on "
            f"{test.num_only_second}: McNemar's p is {test.p_value:.2g}"
        )
    if len(found) > 2:
        correct = int((vote(found) == found[0].labels).sum())
        print(f"the {len(found)} together, by vote: {100 * correct / found[0].num_images:.2f}%")


def _labels(path: Path) -> list[list[int]]:
    try:
        labels = json_of(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no real.json ({error}): give ImageNet-ReaL's") from error
    if not isinstance(labels, list) or not all(isinstance(each, list) for each in labels):
        raise InputError(f"{path} is no real.json: give ImageNet-ReaL's, a list of lists")
    return labels
