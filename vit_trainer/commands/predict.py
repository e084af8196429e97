"""python -m vit_trainer predict: the most probable classes of image files."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vit_trainer.weights.choice import WeightsChoice

DEFAULT_CHOICE = WeightsChoice()


def predict(*images: Path, choice: Annotated[WeightsChoice, Parameter(name="*")] = DEFAULT_CHOICE) -> None:
    """Print the five most probable classes of image files, which are seen whole, as in an evaluation.

    Parameters
    ----------
    images
        JPEG, PNG or other image files.
    """
    with choice.opened() as weights:
        from vit_trainer.data.decoding import open_image, require_images

        require_images(images)
        from vit_trainer.inference.classifier import Classifier, top

        classifier = Classifier.load(weights)
        classifier.require_head(weights.source)
        names = classifier.names(weights)
        for path in images:
            probabilities = classifier.probabilities(classifier.input_of(open_image(path)))[0]
            best = ", ".join(f"{name} {100 * probability:.1f}%" for name, probability in top(probabilities, names))
            print(f"{path}: {best}", flush=True)
