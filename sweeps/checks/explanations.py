"""Explanations: why a result may differ from the published one, as far as that shows without training."""

import dataclasses
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from sweeps.checks.finding import Finding, ok, skip, warn
from sweeps.records.cell_record import CellRecord, accuracies_of
from sweeps.records.results import Results
from sweeps.records.trial_record import TrialRecord
from sweeps.table.cells import Cell, cell_of, name_of_cell
from sweeps.table.published import TABLES, PublishedFigure, figures_for, published_figures, published_for
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import data_folder
from vit_trainer.data.load import require_dataset
from vit_trainer.errors import InputError, counted
from vit_trainer.weights.npz_files import checkpoint_path, file_sha256

SYNONYMS = {
    "model": ("model", "model_name", "model_type", "arch"),
    "dataset": ("dataset", "data"),
    "upstream": ("upstream", "pretrained", "checkpoint"),
    "resolution": ("resolution", "img_size", "image_size", "input_size"),
    "total_steps": ("total_steps", "num_steps", "max_steps", "steps"),
    "warmup_steps": ("warmup_steps", "warmup"),
    "global_batch_size": ("global_batch_size", "batch_size", "train_batch_size"),
    "dropout": ("dropout", "dropout_rate"),
    "base_lr": ("base_lr", "learning_rate", "lr"),
    "seed": ("seed",),
    "accuracy": ("accuracy", "test/accuracy", "test_accuracy", "top1", "acc"),
}
"""What others call the fields of a FinetuneConfig, and the accuracy on the test images."""


def explain_cell(record: CellRecord, results: Results) -> Iterator[Finding]:
    """What may be behind a cell's difference, from its run folders, this machine's files and the published tables."""
    runs = record.judged or record.chosen
    if not runs:
        yield skip("result", "no run of this cell has finished")
        return
    accuracy = fmean(accuracies_of(runs))
    verdict = f"{record.verdict.status}, {record.verdict}" if record.verdict else "nothing to compare it with"
    yield ok("result", f"{100 * accuracy:.2f}% of {counted(len(runs), 'seed')}: {verdict}")
    yield from _recipe(dict(runs[0].config), record.figure)
    yield from _run(runs)
    yield from _weights(record.cell, runs)
    yield from _parity(results)
    yield from _images(record.cell)
    yield from tables(record.cell, accuracy)


def explain_config(values: Mapping[str, Any]) -> Iterator[Finding]:
    """The same for a run made elsewhere, as far as its values tell.

    Args:
        values: by names as in SYNONYMS; accuracies above 1 are taken as percent.

    Raises:
        InputError: no model or data set that is known, or a value of the wrong kind.
    """
    found = {
        own: values[name] for own, names in SYNONYMS.items() for name in names if values.get(name) not in (None, "")
    }
    for name in ("model", "dataset"):
        if name not in found:
            raise InputError(f"no {name} given: give one under {', '.join(SYNONYMS[name])}")
    kinds = {field.name: field.type for field in dataclasses.fields(FinetuneConfig)}
    try:
        given = {
            name: int(float(value)) if kinds[name] is int else float(value) if kinds[name] is float else str(value)
            for name, value in found.items()
            if name not in ("accuracy", "model", "dataset")
        }
        accuracy = float(found["accuracy"]) if "accuracy" in found else None
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"a value is of the wrong kind ({error}): give numbers as numbers") from error
    config = FinetuneConfig.official(str(found["model"]), str(found["dataset"]), **given)
    known = {name for names in SYNONYMS.values() for name in names}
    if unknown := [name for name in values if name not in known]:
        yield skip("values", f"not looked at: {', '.join(map(str, unknown))}")
    if missing := [name for name in SYNONYMS if name not in found and name not in ("seed", "accuracy")]:
        yield skip("values", f"not given, taken as the official recipe has them: {', '.join(missing)}")
    cell = cell_of(config.to_dict())
    yield from _recipe(config.to_dict(), published_for(cell))
    yield from _images(cell)
    if accuracy is not None:
        yield from tables(cell, accuracy / 100 if accuracy > 1 else accuracy)


def _recipe(config: dict[str, Any], figure: PublishedFigure | None) -> Iterator[Finding]:
    """Where a config leaves the official recipe."""
    try:
        official = FinetuneConfig.official(config["model"], config["dataset"]).to_dict()
    except InputError:  # a folder of classes, by its id
        yield skip("recipe", "no official one for this data set")
        return
    if figure is not None:  # one that was tuned is beside the best of ours, whatever its rate
        official["base_lr"] = config["base_lr"] if figure.base_lr is None else figure.base_lr
    different = [
        f"{name} {config[name]}, not {official[name]}"
        for name in official
        if config[name] != official[name] and name not in ("seed", "dropout")  # dropout is the cell's
    ]
    if different:
        yield warn("recipe", f"{'; '.join(different)}: a run of the official recipe is the one to compare")
    else:
        yield ok(
            "recipe", "the official one" + (", with the published learning rate" if figure and figure.base_lr else "")
        )


def _run(runs: tuple[TrialRecord, ...]) -> Iterator[Finding]:
    """What the processes noted, and how they computed."""
    notes = list(dict.fromkeys(note for run in runs for note in run.notes))
    skipped = [note for note in notes if "skipped" in note]
    yield warn("images", "; ".join(skipped)) if skipped else ok("images", "none was skipped while training")
    attempts = [attempt for run in runs for attempt in run.attempts]
    for name in ("precision", "device_name", "compiled", "commit"):
        values = dict.fromkeys(str(attempt[name]) for attempt in attempts if attempt.get(name) is not None)
        if len(values) > 1:
            yield warn(name, f"differs between runs and attempts: {', '.join(values)}")
        elif values:
            yield ok(name, next(iter(values)))


def _weights(cell: Cell, runs: tuple[TrialRecord, ...]) -> Iterator[Finding]:
    """Whether all began with the same file, and whether that is the one here."""
    used = dict.fromkeys(
        attempt["weights_sha256"] for run in runs for attempt in run.attempts if attempt.get("weights_sha256")
    )
    path = None if cell.upstream == "scratch" else checkpoint_path(cell.model, cell.upstream)
    if len(used) > 1:
        yield warn("weights", f"runs began with {len(used)} different files: {', '.join(each[:12] for each in used)}")
    elif used and path is not None and path.is_file():
        own, (ran,) = file_sha256(path), used
        name = f"{path}, SHA-256 {own[:12]}"
        yield ok("weights", name) if own == ran else warn("weights", f"{name}: the runs began with {ran[:12]}")
    else:
        yield skip("weights", f"SHA-256 {next(iter(used), 'not recorded')[:12]}; the file isn't here to compare")
    if cell.upstream.startswith("imagenet21k"):
        command = f"python -m vit_trainer evaluate --model {cell.model} --upstream imagenet21k+imagenet2012"
        yield skip("pipeline", f"how good a published checkpoint is through it: {command} --dataset imagenet2012")


def _parity(results: Results) -> Iterator[Finding]:
    """Whether the cards that trained compute as the official code does."""
    if not results.parity:
        yield skip("parity", "not asked on the cards that trained: python -m vit_trainer verify --device cuda")
    for each in {found.environment: found for found in results.parity}.values():
        where = f"{each.environment or each.node}: {each.outcome}"
        yield warn("parity", f"{where}; {', '.join(each.failures)}") if each.failures else ok("parity", where)


def _images(cell: Cell) -> Iterator[Finding]:
    """Whether the data set here is whole."""
    try:
        require_dataset(cell.dataset, may_download=False)
    except InputError as error:
        yield skip("data set", str(error))
    else:
        yield ok("data set", f"{cell.dataset} in {data_folder()} is there and whole, as far as names and sizes tell")


def tables(cell: Cell, accuracy: float) -> Iterator[Finding]:
    """Every published figure of the cell, with what keeps it from being an exact counterpart."""
    figures, judged = figures_for(cell), published_for(cell)
    if not figures:
        yield skip("tables", f"nothing is published for {name_of_cell(cell)}")
    for figure in figures:
        text = (
            f"{100 * figure.accuracy:.2f}% ({figure.table}), this is {100 * (accuracy - figure.accuracy):+z.2f} points"
        )
        about = "; the verdict is about this one" if figure == judged else ""
        traps = [f"dropout {figure.dropout_basis}"] if "inferred" in figure.dropout_basis else []
        traps += [figure.caveat] if figure.caveat else []
        traps += ["the last incomplete batch of the test images is left out"] if figure.table == "official" else []
        yield ok("table", f"{text}{about}" + (f"; {'; '.join(traps)}" if traps else ""))
    others = [each for table in TABLES for each in published_figures(table) if each.cell != cell]
    for each in (each for each in others if (each.cell.model, each.cell.dataset) == (cell.model, cell.dataset)):
        difference = f"{100 * (accuracy - each.accuracy):+z.2f} points"
        yield skip("table", f"{100 * each.accuracy:.2f}% ({each.table}) is of {name_of_cell(each.cell)}: {difference}")
