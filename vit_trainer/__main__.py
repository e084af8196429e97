"""python -m vit_trainer <command>: train, evaluate, predict, attention, probe, fetch, export, verify, sync, …"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vit_trainer.command_line import new_app, run
from vit_trainer.config import Execution, FinetuneConfig, Precision
from vit_trainer.files.folder import write_atomically
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.files.storage import Storage
from vit_trainer.loop.interruption import signals_as_request
from vit_trainer.weights.choice import WeightsChoice

app = new_app("Fine-tunes one Vision Transformer by the official protocol.", name="python -m vit_trainer")

DEFAULT_EXECUTION = Execution()
DEFAULT_CHOICE = WeightsChoice()


@app.command
def train(
    *,
    model: str,
    dataset: str,
    upstream: str | None = None,
    resolution: int | None = None,
    dropout: float = 0.0,
    base_lr: float | None = None,
    total_steps: int | None = None,
    warmup_steps: int | None = None,
    global_batch_size: int | None = None,
    seed: int = 0,
    storage: str = "sweep-results",
    tracking_uri: str | None = None,
    execution: Annotated[Execution, Parameter(name="*")] = DEFAULT_EXECUTION,
) -> None:
    """Run one trial without Ray; what isn't given is the official recipe's.

    Parameters
    ----------
    model
        A name such as ViT-B_16, or ViT-B_16-mini.
    dataset
        A name such as cifar10 or digits-even, or the path of a folder with train/ and val/ (or test/) class folders.
    upstream
        What to start from: imagenet21k, imagenet21k+imagenet2012, digits, scratch.
    resolution
        Side of the input image in pixels.
    dropout
        Probability in [0, 1).
    base_lr
        Learning rate after warm-up.
    total_steps
        Optimiser steps, warm-up included.
    warmup_steps
        Optimiser steps of linear warm-up.
    global_batch_size
        Images per optimiser step.
    seed
        Decides image order, crops, flips and dropout masks.
    storage
        Folder in which the run folder is made: a path, or a URI such as s3://bucket/folder.
    tracking_uri
        MLflow server or store that the run is shipped to while it trains; none unless given.
    """
    from vit_trainer.weights.npz_files import check_checkpoint, file_upstream, require_checkpoint

    overrides = {
        "upstream": upstream,
        "resolution": resolution,
        "base_lr": base_lr,
        "total_steps": total_steps,
        "warmup_steps": warmup_steps,
        "global_batch_size": global_batch_size,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    if execution.checkpoint is not None:
        given["upstream"] = file_upstream(Path(execution.checkpoint))
    config = FinetuneConfig.official(model, dataset, dropout=dropout, seed=seed, **given)
    if execution.checkpoint is None:
        require_checkpoint(config.model, config.upstream)
    else:
        check_checkpoint(Path(execution.checkpoint), config.model)
    is_first_process = os.environ.get("RANK", "0") == "0"
    if tracking_uri is not None and is_first_process:
        from vit_trainer.tracking.store import require_store

        require_store(tracking_uri)

    from vit_trainer.train import train as run_trial

    run_dir = Storage(storage).run_dir(config.trial_id)
    finished = run_dir.result()
    if finished is None or finished["status"] != "finished":
        print(f"{config.trial_id} in {run_dir.location}")
        shipping = _shipped(run_dir, storage, tracking_uri) if is_first_process else nullcontext(_print_row)
        with signals_as_request() as interrupted, shipping as report:
            run_trial(config, run_dir, execution, report, interrupted)
    result = run_dir.result() or {}
    print(f"test/accuracy {100 * result['test/accuracy']:.2f}% after {result['step']} steps, {run_dir.location}")


@contextmanager
def _shipped(run_dir: RunDir, storage: str, tracking_uri: str | None) -> Iterator[Callable[[Row], None]]:
    """What a run reports to, such that MLflow has it too; when the context ends, what MLflow lacks is said."""
    if tracking_uri is None:
        yield _print_row
        return
    from vit_trainer.tracking.catalogue import Entry
    from vit_trainer.tracking.shipper import BackgroundShipper
    from vit_trainer.tracking.store import hide_password
    from vit_trainer.tracking.sync import DEFAULT_EXPERIMENT

    shipper = BackgroundShipper(tracking_uri, DEFAULT_EXPERIMENT, Storage(storage).mlflow_artifacts, {})

    def report(row: Row) -> None:
        _print_row(row)
        shipper.ship(run_dir, Entry())

    try:
        yield report
    finally:
        shipper.ship(run_dir, Entry())
        shipper.close()
        if shipper.failure:
            uri = hide_password(tracking_uri)
            rest = f"python -m vit_trainer sync --storage {storage} --tracking-uri {uri}"
            print(f"MLflow did not get everything: {shipper.failure}. To ship the rest: {rest}", file=sys.stderr)


def _print_row(row: Row) -> None:
    if "note" in row:
        print(row["note"], flush=True)
        return
    print(
        f"step {row['step']}: train/loss {row['train/loss']:.3f}, val/accuracy {100 * row['val/accuracy']:.2f}%, "
        f"{row['images_per_second']:.0f} images/s",
        flush=True,
    )


@app.command
def evaluate(
    *,
    model: str,
    dataset: str,
    upstream: str | None = None,
    checkpoint: Path | None = None,
    split: Literal["train", "validation", "test"] = "test",
    resolution: int | None = None,
    batch_size: int = 256,
    precision: Precision = "auto",
    num_workers: int | None = None,
    skip_unreadable: bool = False,
    json_to: Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True)] = None,
) -> None:
    """Evaluate a checkpoint with its own head on every image of a split, without training.

    Several processes share the images: torchrun --nproc-per-node 8 -m vit_trainer evaluate ...

    Parameters
    ----------
    model
        A name such as ViT-B_16, or ViT-B_16-mini.
    dataset
        A name such as imagenet2012 or digits-pretrain, or the path of a folder of classes; classes must be the head's.
    upstream
        Whose weights: imagenet21k+imagenet2012, imagenet21k+imagenet2012-224, imagenet21k, digits.
    checkpoint
        A local .npz instead of the upstream's.
    split
        The part of the data set.
    resolution
        Side of the input image in pixels; that of the checkpoint's position embeddings unless given.
    batch_size
        Images per forward pass and process; the result doesn't depend on it.
    precision
        Numbers in matrix products; auto is bfloat16 on GPUs that have it, else float32.
    num_workers
        Processes that decode image files, 0 for none; as many as there are cores for them unless given.
    skip_unreadable
        Leave unreadable image files out, named and counted, instead of failing.
    json_to
        File for the result as JSON; - prints it instead of the line for people.
    """
    from vit_trainer.data.datasets import dataset_info
    from vit_trainer.errors import InputError
    from vit_trainer.weights.npz_files import require_weights

    dataset_info(dataset)  # raises unless it is known
    if batch_size < 1:
        raise InputError(f"batch-size {batch_size} is below 1: give a whole number of at least 1")
    Execution(num_workers=num_workers)  # raises if it is negative
    path = require_weights(model, upstream=upstream, file=checkpoint)
    if json_to is not None and not Path(json_to).resolve().parent.is_dir():
        raise InputError(f"cannot write {json_to}: its folder does not exist; make it first")

    from vit_trainer.inference.evaluate_checkpoint import evaluate_checkpoint
    from vit_trainer.loop.accelerator import start_accelerator

    accelerator = start_accelerator(precision)
    result = evaluate_checkpoint(
        model,
        path,
        dataset,
        accelerator,
        split=split,
        resolution=resolution,
        batch_size=batch_size,
        num_workers=num_workers,
        skip_unreadable=skip_unreadable,
    )
    if accelerator.is_main_process:
        text = json.dumps(result.to_dict(), indent=1)
        if json_to is not None and json_to != "-":
            write_atomically(Path(json_to), f"{text}\n".encode())
        sums = result.sums
        line = (
            f"{model} at {result.resolution} px on {dataset} {split}: top-1 {100 * sums.accuracy:.2f}%, "
            f"top-5 {100 * sums.accuracy_top5:.2f}% of {sums.num_images} images, "
            f"{result.images_per_second:.0f} images/s"
        )
        print(text if json_to == "-" else line)
    accelerator.end_training()


@app.command
def predict(*images: Path, choice: Annotated[WeightsChoice, Parameter(name="*")] = DEFAULT_CHOICE) -> None:
    """Print the five most probable classes of image files, which are seen whole, as in an evaluation.

    Parameters
    ----------
    images
        JPEG, PNG or other image files.
    """
    with choice.opened() as weights:
        _check_images(images)
        from vit_trainer.data.decoding import open_image
        from vit_trainer.inference.classifier import Classifier, top

        classifier = Classifier.load(weights)
        classifier.require_head(weights.source)
        names = classifier.names(weights)
        for path in images:
            probabilities = classifier.probabilities(classifier.input_of(open_image(path)))[0]
            best = ", ".join(f"{name} {100 * probability:.1f}%" for name, probability in top(probabilities, names))
            print(f"{path}: {best}", flush=True)


@app.command
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
    from vit_trainer.errors import InputError
    from vit_trainer.tracking.store import hide_password, require_store

    if tracking_uri is not None:
        if choice.trial is None:
            raise InputError("tracking-uri is where a trial's figures go too: give --trial, or leave it out")
        require_store(tracking_uri)
    files = [output / f"{path.stem}-attention.png" for path in images]
    if twice := sorted({str(file) for file in files if files.count(file) > 1}):
        raise InputError(f"several images would become {twice[0]}: give them in separate calls with other --output")
    with choice.opened() as weights:
        _check_images(images)
        with _refusal_said(output):
            output.mkdir(parents=True, exist_ok=True)
        from vit_trainer.data.decoding import open_image
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
    with _mlflow_outage_said("the same command brings the figures there"):
        sync_files(opened, uri, choice.run_dir(), files, "attention")
    print(f"in MLflow at {hide_password(uri)}: artifacts of {choice.trial}, attention/")


@contextmanager
def _refusal_said(folder: Path) -> Iterator[None]:
    """Raise InputError where a folder can't be made or written."""
    from vit_trainer.errors import InputError

    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to folder {folder} ({error.strerror}): give another --output") from error


def _check_images(paths: tuple[Path, ...]) -> None:
    """Decode every file before anything else is done; raises InputError for none, or one that is no image."""
    from vit_trainer.data.decoding import open_image
    from vit_trainer.errors import InputError

    if not paths:
        raise InputError("no image given: name one or more image files")
    for path in paths:
        open_image(path)


@app.command
def probe(
    *,
    model: str,
    dataset: str,
    resolution: int | None = None,
    dropout: float = 0.0,
    global_batch_size: int | None = None,
    seconds: float = 60.0,
    micro_batch_size: int | None = None,
    precision: Precision = "auto",
    require_gpu: Annotated[bool, Parameter(negative=())] = False,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Measure how fast a model trains and evaluates here, on random images: needs neither weights nor data.

    Parameters
    ----------
    model
        A name such as ViT-B_16, or ViT-B_16-mini.
    dataset
        Whose classes and image sizes: a name such as cifar10.
    resolution
        Side of the input image in pixels; the official recipe's unless given.
    dropout
        Probability in [0, 1).
    global_batch_size
        Images per optimiser step; the official recipe's unless given.
    seconds
        How long to measure; at least one step and one evaluation batch are, however long they take.
    micro_batch_size
        Images per forward and backward; halved until it fits.
    precision
        Numbers in matrix products; auto is bfloat16 on GPUs that have it, else float32.
    require_gpu
        Fail where there is no GPU, instead of measuring the CPU.
    json_
        Print the result as JSON instead of a line for people.
    """
    from vit_trainer.errors import InputError
    from vit_trainer.loop.probe import probe as measure

    overrides = {"resolution": resolution, "global_batch_size": global_batch_size}
    given = {name: value for name, value in overrides.items() if value is not None}
    config = FinetuneConfig.official(model, dataset, dropout=dropout, **given)
    execution = Execution(micro_batch_size=micro_batch_size, precision=precision)
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds {seconds:g} is not a positive number: give a time such as 60")
    if require_gpu:
        import torch

        if not torch.cuda.is_available():
            raise InputError("there is no GPU on this machine to measure: go to one that has it")
    result = measure(config, execution, seconds=seconds)
    memory = "" if result.peak_memory_bytes is None else f", {result.peak_memory_bytes / 2**30:.1f} GiB"
    line = (
        f"{model} at {config.resolution} px, dropout {dropout:g}, on {result.device_name}: "
        f"{result.train_images_per_second:.0f} training and {result.evaluation_images_per_second:.0f} evaluation "
        f"images/s with micro-batch {result.micro_batch_size}{memory}; {result.num_steps} steps"
    )
    print(json.dumps(asdict(result)) if json_ else line)


@app.command
def fetch(*names: str, upstream: str = "imagenet21k", source: str | None = None) -> None:
    """Download official checkpoints into $VIT_CHECKPOINTS and data sets into $VIT_DATA, and check them.

    Both are in the user's cache folder unless set. Goes on with what broke off; several processes or nodes may ask at
    once.

    Parameters
    ----------
    names
        Models such as ViT-B_16, and data sets such as cifar10.
    upstream
        imagenet21k, imagenet21k+imagenet2012, or imagenet21k+imagenet2012-224.
    source
        A mirror's address or a folder with the same layout (<upstream>/<model>.npz), or one .npz file.
    """
    from vit_trainer.architectures import MODELS
    from vit_trainer.data.datasets import DATASETS, data_folder
    from vit_trainer.data.load import require_dataset
    from vit_trainer.errors import InputError, one_of
    from vit_trainer.files.progress_bar import ProgressBar
    from vit_trainer.weights.fetch import fetch as fetch_checkpoint
    from vit_trainer.weights.npz_files import RELEASED, check_checkpoint

    if not names:
        raise InputError(f"no name given: give one or more of {', '.join([*RELEASED['imagenet21k'], *DATASETS])}")
    for name in names:
        if name not in MODELS and name not in DATASETS:
            raise one_of("model or data set", name, [*MODELS, *DATASETS])
    for dataset in (name for name in names if name in DATASETS):
        require_dataset(dataset)
        print(f"{dataset}: complete in {data_folder()}", flush=True)
    for model in (name for name in names if name in MODELS):
        with ProgressBar(f"{upstream}/{model}") as bar:
            path, downloaded = fetch_checkpoint(model, upstream, source=source, watcher=bar)
        contents, size = check_checkpoint(path, model), path.stat().st_size
        print(
            f"{path}: {model}, {contents.resolution(MODELS[model])} px, {contents.num_classes or 'no'} classes, "
            f"{size / 1e6:.1f} MB" + ("" if downloaded else ", was there already"),
            flush=True,
        )


@app.command
def export(
    *,
    model: str,
    output: Path,
    upstream: str | None = None,
    checkpoint: Path | None = None,
    resolution: int | None = None,
) -> None:
    """Write weights as .safetensors for plain timm, with the same logits, or as an official .npz.

    Parameters
    ----------
    model
        A name such as ViT-B_16.
    output
        File that ends in .safetensors or .npz.
    upstream
        Whose weights: imagenet21k, imagenet21k+imagenet2012, imagenet21k+imagenet2012-224, digits.
    checkpoint
        A local .npz instead, or a .safetensors such as a run folder's model.safetensors.
    resolution
        Side in pixels that the position embeddings are resized to; unchanged unless given.
    """
    from vit_trainer.architectures import MODELS
    from vit_trainer.errors import one_of
    from vit_trainer.weights.npz_files import require_weights

    if model not in MODELS:
        raise one_of("model", model, list(MODELS))
    own_weights = checkpoint is not None and checkpoint.suffix == ".safetensors" and upstream is None
    weights = checkpoint if own_weights else require_weights(model, upstream=upstream, file=checkpoint)
    assert weights is not None

    from vit_trainer.weights.export import export_weights

    print(f"{output}: load it with {export_weights(model, weights, output, resolution=resolution)}")


@app.command
def pretrain_mini(*models: str, output: Path | None = None, total_steps: int | None = None) -> None:
    """Make the miniature checkpoints anew: train on digits that no fine-tuning sees, write official-format .npz files.

    Parameters
    ----------
    models
        Names that end in -mini; all of them unless given.
    output
        Folder for the files; the project's own unless given.
    total_steps
        Optimiser steps of 64 images; enough for each unless given.
    """
    from vit_trainer.architectures import MODELS
    from vit_trainer.errors import one_of
    from vit_trainer.pretrain import pretrain_miniature
    from vit_trainer.weights.npz_files import MINIATURES

    miniatures = [name for name, architecture in MODELS.items() if architecture.is_miniature]
    for name in models:
        if name not in miniatures:
            raise one_of("miniature", name, miniatures)
    for name in models or miniatures:
        path = (output or MINIATURES) / f"{name}.npz"
        accuracy = pretrain_miniature(name, path, total_steps=total_steps)
        print(f"{path}: {100 * accuracy:.1f}% of the held-out digits", flush=True)


@app.command
def verify(*, golden: Path | None = None, full: bool = True) -> int:
    """Prove parity: compare every number that matters with what the official code computed.

    Exits with 0 if all hold, 1 if one doesn't.

    Parameters
    ----------
    golden
        Folder of golden values; the one that comes with the project unless given.
    full
        Whether to run the full-size models too, most of the time that this takes.
    """
    from vit_trainer.parity.golden import SHIPPED, GoldenFolder

    folder = GoldenFolder(golden or SHIPPED)
    from vit_trainer.parity.ladder import print_ladder

    return 0 if print_ladder(folder, full=full) else 1


@app.command
def sync(*, storage: str = "sweep-results", tracking_uri: str | None = None, experiment: str | None = None) -> int:
    """Ship every run folder of a storage to MLflow, and nothing twice; a sweep may go on meanwhile.

    Exits with 1 if the server can't be reached or refuses; the same command then ships the rest.

    Parameters
    ----------
    storage
        What the sweep or train was given: a path, or a URI such as s3://bucket/folder.
    tracking_uri
        MLflow server or store; a SQLite file in the storage unless given.
    experiment
        MLflow experiment for all runs; each sweep's own unless given.
    """
    from vit_trainer.errors import InputError, StoreError, VitTrainerError
    from vit_trainer.tracking.store import hide_password, require_store

    opened = Storage(storage)
    uri = tracking_uri or opened.tracking_uri
    if not opened.trial_ids():
        raise InputError(f"there are no run folders in {storage}: give the storage of a sweep or of train")
    try:
        require_store(uri)
    except StoreError as error:
        raise VitTrainerError(str(error)) from error
    from vit_trainer.tracking.sync import sync as ship_all

    with _mlflow_outage_said("the same command ships the rest"):
        synced = ship_all(opened, uri, experiment)
    for line in synced.passed_over:
        print(f"passed over: {line}", file=sys.stderr)
    counts = ", ".join(f"{count} {what}" for what, count in synced.num_runs.items())
    print(f"runs in MLflow at {hide_password(uri)}: {counts}; {len(synced.passed_over)} folders passed over")
    return 0


@contextmanager
def _mlflow_outage_said(advice: str) -> Iterator[None]:
    """Raise VitTrainerError, in one line, for whatever MLflow's client raises in an outage."""
    from vit_trainer.errors import InputError, VitTrainerError, cause_of
    from vit_trainer.tracking.store import hide_password

    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = hide_password(cause_of(error))
        raise VitTrainerError(f"MLflow broke off ({reason}): {advice}") from error


if __name__ == "__main__":
    run(app)
