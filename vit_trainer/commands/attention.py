"""python -m vit_trainer attention: figures of what a model attends to."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.folder import write_atomically
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.store import outage_said, require_store
from vit_trainer.weights.choice import WeightsChoice

DEFAULT_CHOICE = WeightsChoice()


def attention(
    *images: Path,
    choice: Annotated[WeightsChoice, Parameter(name="*")] = DEFAULT_CHOICE,
    output: Path = Path("attention"),
    tracking_uri: str | None = None,
) -> None:
    """Draw what a model attends to in image files: each head of each layer, and the rollout over all layers.

    Of a trial, the figures become artifacts of its MLflow run as well.

    Parameters
    ----------
    images
        JPEG, PNG or other image files.
    output
        Folder for the figures, <name of the image>-attention.png each; made if need be.
    tracking_uri
        MLflow server or store with the trial's run; the SQLite file in the storage, if it is there, unless given.
    """
    if tracking_uri is not None and choice.trial is None:
        raise InputError("tracking-uri is where a trial's figures go too: give --trial, or leave it out")
    if choice.trial is not None and (tracking_uri := tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        require_store(tracking_uri)
    files = [output / f"{path.stem}-attention.png" for path in images]
    if twice := sorted({str(file) for file in files if files.count(file) > 1}):
        raise InputError(f"several images would become {twice[0]}: give them in separate calls with other --output")
    with choice.opened() as weights:
        from vit_trainer.data.decoding import open_image, require_images

        require_images(images)
        with _refusal_said(output):
            output.mkdir(parents=True, exist_ok=True)
        from vit_trainer.inference.attention_figure import draw
        from vit_trainer.inference.classifier import Classifier

        classifier = Classifier.load(weights)
        names = classifier.names(weights) if classifier.has_head else ()
        for path, file in zip(images, files, strict=True):
            title = f"{weights.model} on {path.name}"
            figure = draw(classifier, open_image(path), names, title)
            with _refusal_said(output):
                write_atomically(file, figure)
            print(file, flush=True)
    if choice.trial is None:
        return
    opened = Storage(choice.storage)
    if tracking_uri is None and not opened.mlflow_database.exists():
        print(
            f"not in MLflow: there is no {opened.mlflow_database}; give --tracking-uri to have them there",
            file=sys.stderr,
        )
        return
    from vit_trainer.tracking.sync import sync_files

    uri = tracking_uri or opened.tracking_uri
    with outage_said("the same command brings the figures there"):
        sync_files(opened, uri, choice.run_dir(), files, "attention")
    print(f"in MLflow at {uri}: artifacts of {choice.trial}, attention/")


@contextmanager
def _refusal_said(folder: Path) -> Iterator[None]:
    """Raise InputError where a folder can't be made or written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to folder {folder} ({reason_of(error)}): give another --output") from error
