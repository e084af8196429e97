"""WeightsChoice: whose weights a command reads, a finished trial's, an upstream's or a file's.

Imports NumPy only when it looks into a file, since every command's help needs this class; and no torch.
"""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_trainer.architectures import MODELS
from vit_trainer.config import UPSTREAMS, require_resolution
from vit_trainer.data.datasets import DATASETS, dataset_info, is_folder
from vit_trainer.data.earlier_ids import under_id
from vit_trainer.errors import InputError, one_of
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import Storage

UPSTREAM_DATASETS = {
    "digits": "digits-pretrain",
    "imagenet21k+imagenet2012": "imagenet2012",
    "imagenet21k+imagenet2012-224": "imagenet2012",
}
"""Whose classes the heads of upstreams have, where they have names."""


@dataclass(frozen=True)
class Weights:
    """Weights that were found."""

    model: str
    """A key of MODELS."""
    path: Path
    """An official .npz, or a .safetensors of this project's."""
    source: str
    """What to call them in errors."""
    resolution: int | None = None
    """Side in pixels of the images that the model gets; None: what the position embeddings are for."""
    dataset: str | None = None
    """Whose classes the head has; None where nothing says it."""
    class_names: tuple[str, ...] | None = None
    """What each class of the head is called; None where nothing says it."""


@dataclass(frozen=True)
class WeightsChoice:
    """What the user gave; `opened` finds the weights."""

    trial: str | None = None
    """Id of a finished trial, the name of its run folder; or the path of that folder."""
    storage: str = "sweep-results"
    """Where the trial is: a path, or a URI such as s3://bucket/folder."""
    checkpoint: Path | None = None
    """Instead of a trial: a local .npz or .safetensors, such as a run folder's model.safetensors."""
    model: str | None = None
    """A name such as ViT-B_16, for an upstream; of a trial or a file it is known."""
    upstream: str | None = None
    """Instead of a trial: imagenet21k, imagenet21k+imagenet2012, imagenet21k+imagenet2012-224, digits."""
    resolution: int | None = None
    """Side of the input image in pixels; the trial's, or what the checkpoint is for, unless given."""
    dataset: str | None = None
    """What to evaluate on, or whose class names to show where the weights don't say them: cifar10, or the path of a
    folder of classes; what the weights were trained on unless given."""

    def run_dir(self) -> RunDir:
        """The run folder of the trial, which must have been given."""
        assert self.trial is not None
        if "/" in self.trial:
            return RunDir(self.trial.rstrip("/"))
        return Storage(self.storage).run_dir(self.trial)

    @contextmanager
    def opened(self) -> Iterator[Weights]:
        """The weights, in a local file for as long as the context lasts.

        Raises:
            InputError: none or several were given, the trial isn't finished, or left no weights.
            CheckpointError: the file isn't there, or doesn't fit the model.
        """
        if sum(given is not None for given in (self.trial, self.checkpoint, self.upstream)) != 1:
            raise InputError(
                "give one of --trial with a finished trial's id, --checkpoint with a file, or --model and --upstream"
            )
        from vit_trainer.weights.safetensors_files import read_metadata

        if self.model is not None and self.model not in MODELS:
            raise one_of("model", self.model, list(MODELS))
        if self.dataset is not None:
            dataset_info(self.dataset)  # raises unless it is known
        if self.trial is None:
            path, model = self._file()
            if self.resolution is not None:
                require_resolution(model, self.resolution)
            own = None if self.upstream else read_metadata(path).get("dataset")
            dataset = self.dataset or own or UPSTREAM_DATASETS.get(self.upstream or "")
            yield Weights(model, path, str(path), self.resolution, dataset, class_names_of(path, dataset))
            return
        config, run_dir = self._finished(), self.run_dir()
        if self.resolution is not None:
            require_resolution(config["model"], self.resolution)
        if self.model is not None and self.model != config["model"]:
            raise InputError(f"trial {self.trial} is a {config['model']}: leave --model out")
        dataset = config["dataset"] if self.dataset is None else under_id(self.dataset, config["dataset"])
        if dataset is None:
            raise InputError(f"trial {self.trial} was trained on {config['dataset']}: leave --dataset out")
        with run_dir.weights() as weights:
            if weights is None:
                raise InputError(
                    f"trial {self.trial} left no weights: run it again with --save-weights, in another --storage"
                )
            resolution = self.resolution or config["resolution"]
            names = class_names_of(weights, dataset)
            yield Weights(config["model"], weights, f"trial {self.trial}", resolution, dataset, names)

    def _file(self) -> tuple[Path, str]:
        """The checkpoint, and which model's it is."""
        from vit_trainer.weights.npz_files import check_checkpoint, model_of, require_checkpoint

        if self.checkpoint is not None:
            model = self.model or model_of(self.checkpoint)
            check_checkpoint(self.checkpoint, model)
            return self.checkpoint, model
        if self.model is None:
            raise InputError(f"give --model too, such as ViT-B_16: several models have {self.upstream} weights")
        known = [name for name in UPSTREAMS if name != "scratch"]
        if self.upstream not in known:
            raise one_of("upstream with weights", str(self.upstream), known)
        path = require_checkpoint(self.model, self.upstream)
        assert path is not None
        return path, self.model

    def _finished(self) -> Mapping[str, Any]:
        """The config of the trial."""
        run_dir = self.run_dir()
        run = run_dir.read()
        if run is None and "/" in str(self.trial):
            raise InputError(f"no run folder at {self.trial}: give a trial's folder, or its id and its --storage")
        if run is None:
            known = Storage(self.storage).trial_ids()
            if not known:
                raise InputError(
                    f"there are no run folders in {self.storage}: give the --storage of a sweep or of train"
                )
            near = difflib.get_close_matches(str(self.trial), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"give one of the {len(known)} in {self.storage}/runs"
            raise InputError(f"no trial {self.trial} in {self.storage}: {hint}")
        result = run.result
        if result is None:
            raise InputError(f"trial {self.trial} isn't finished: let the command that began it go on to its end")
        if result["status"] != "finished":
            raise InputError(
                f"trial {self.trial} isn't finished, it {'was ' if result['status'] == 'stopped' else ''}"
                f"{result['status']} at step {result['step']}: give one that is"
            )
        return run.config


def class_names_of(path: Path, dataset: str | None = None) -> tuple[str, ...] | None:
    """What each class of a weights file's head is called, in the order of its outputs; None where nobody knows it.

    A .safetensors of ours says it itself, whatever `dataset` is.

    Args:
        dataset: whose classes they are if the file doesn't say it: a name, path or id.

    Raises:
        InputError: the file or the data set can't be read.
    """
    from vit_trainer.data.class_names import class_names
    from vit_trainer.weights.safetensors_files import saved_class_names

    if (names := saved_class_names(path)) is not None or dataset is None:
        return names
    return class_names(dataset) if dataset in DATASETS or is_folder(dataset) else None  # an id says nothing
