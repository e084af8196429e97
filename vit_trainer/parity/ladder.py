"""The ladder of `python -m vit_trainer verify`: our numbers against what the official code computed, rung by rung.

Every rung runs the code that training runs, on the CPU in float32. The bounds are what rounding needs; the smallest
known mistake of each kind is above them, and a test makes each one.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.text import Text
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.data.crops import Crops, random_crops, resize_crops, whole_images
from vit_trainer.errors import InputError
from vit_trainer.loop.optim import OfficialSGD, learning_rate
from vit_trainer.loop.step import backward
from vit_trainer.model.build import build_model, dropout_keys_of
from vit_trainer.model.dropout import ImageDropout
from vit_trainer.parity.golden import (
    FinetuneFacts,
    ForwardFacts,
    FullFacts,
    GoldenFolder,
    UpdateFacts,
    make_images,
    make_labels,
    make_params,
)
from vit_trainer.parity.official_forward import LayerError, layer_errors
from vit_trainer.weights.load import export_arrays, load_arrays, resize_position_embedding
from vit_trainer.weights.npz_files import Arrays

NUM_CROPS = 100_000


@dataclass(frozen=True)
class Bounds:
    """Largest differences that rounding explains, for one kind of model."""

    logits: float
    gradient_norm: float
    """Relative to the run's largest."""
    loss: float
    """Over a run with float32 momentum."""
    weights: float
    """After a run with float32 momentum."""


VIT_BOUNDS = Bounds(logits=2e-6, gradient_norm=1e-5, loss=2e-6, weights=1e-6)
# Convolutions, ReLUs and max-pooling amplify rounding: after 20 steps of the tiny hybrid at rate 0.003, the official
# losses are 1.1e-5 from the same run in float64, and ours 2.2e-5.
HYBRID_BOUNDS = Bounds(logits=1e-5, gradient_norm=1e-3, loss=1e-4, weights=5e-5)
BFLOAT16_MOMENTUM_LOSS = 5e-5
BFLOAT16_MOMENTUM_WEIGHTS = 1e-4


@dataclass(frozen=True)
class Rung:
    """One comparison with the official code."""

    name: str
    error: float | None
    """Largest difference, NaN if there is one; None where the golden folder has nothing to compare with."""
    bound: float = 0.0
    """Largest error that passes."""
    note: str = ""
    """The first layer that differs, or why the rung was skipped."""

    @property
    def skipped(self) -> bool:
        return self.error is None

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= self.bound


@dataclass(frozen=True)
class Case:
    """Weights, and the model that they are put into."""

    architecture: Architecture
    weights: Arrays
    resolution: int
    num_classes: int
    keep_head: bool = True
    representation_size: int | None = None

    @property
    def bounds(self) -> Bounds:
        return HYBRID_BOUNDS if self.architecture.resnet_stages else VIT_BOUNDS

    def model(self, dropout: float = 0.0) -> VisionTransformer:
        """The loaded model, in evaluation mode."""
        model = build_model(
            self.architecture,
            num_classes=self.num_classes,
            resolution=self.resolution,
            dropout=dropout,
            representation_size=self.representation_size,
        )
        source = "the golden checkpoint"
        load_arrays(model, self.architecture, self.weights, keep_head=self.keep_head, source=source)
        model.eval()
        return model


def ladder(golden: GoldenFolder, *, full: bool = True) -> Iterator[Rung]:
    """Every rung in order, each computed when it is asked for.

    Args:
        full: whether to run the full-size models too.

    Raises:
        InputError: a file of the folder is damaged, or doesn't fit its meta.json.
    """
    yield from schedule(golden)
    yield from position_embeddings(golden)
    for name in golden.architectures:
        yield from forward(golden, name)
    yield from full_size(golden) if full else [Rung("logits of full-size models", None, note="not asked for")]
    for name in golden.architectures:
        yield from updates(golden, name)
    yield from finetuning(golden)
    yield from pixels(golden)
    yield from crops(golden)


def print_ladder(golden: GoldenFolder, *, full: bool = True) -> bool:
    """Print a line per rung as it is climbed, and a last one that counts them; whether all hold.

    Raises:
        InputError: the folder holds nothing to compare with, or see `ladder`.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{'rung':<48}{'error':>9}{'bound':>9}", style="bold")
    rungs = []
    for rung in ladder(golden, full=full):
        rungs.append(rung)
        style, verdict = (
            ("yellow", "skipped") if rung.skipped else ("green", "pass") if rung.passed else ("red", "FAIL")
        )
        error, bound = ("", "") if rung.error is None else (f"{rung.error:.1e}", f"{rung.bound:.0e}")
        line = Text(f"{rung.name:<48}{error:>9}{bound:>9}  ").append(verdict, style)
        console.print(line.append(f"  {rung.note}" if rung.note else ""))
    compared = [rung for rung in rungs if not rung.skipped]
    failed = [rung for rung in compared if not rung.passed]
    if not compared:
        raise InputError(f"{golden.path} holds nothing to compare with: give a folder laid out like the project's own")
    summary = f"{len(compared) - len(failed)} of {len(compared)} rungs hold, {len(rungs) - len(compared)} skipped"
    console.print(summary, style="red" if failed else "green")
    return not failed


def schedule(golden: GoldenFolder) -> Iterator[Rung]:
    """Learning rates; the error is relative to the base rate."""
    arrays = golden.arrays("schedule")
    if arrays is None:
        yield _missing("learning rates", "schedule.npz")
        return
    errors = []
    for name, (total_steps, base_lr, warmup_steps) in _keys(arrays, r"steps_(\d+)_([\d.]+)_(\d+)"):
        facts = {"base_lr": float(base_lr), "warmup_steps": int(warmup_steps), "total_steps": int(total_steps)}
        rates = [learning_rate(int(step), **facts) for step in arrays[name]]  # type: ignore[arg-type]
        errors.append(_error(rates, arrays, name.replace("steps", "lr")) / float(base_lr))
    yield Rung("learning rates", _largest(errors), 2e-7)


def position_embeddings(golden: GoldenFolder) -> Iterator[Rung]:
    """Tables resized from one grid to another."""
    arrays = golden.arrays("posembed")
    if arrays is None:
        yield _missing("position embeddings", "posembed.npz")
        return
    errors = []
    for name, (_, grid) in _keys(arrays, r"in_(\d+)_(\d+)"):
        resized = resize_position_embedding(torch.from_numpy(arrays[name]), int(grid))
        errors.append(_error(resized, arrays, name.replace("in", "out")))
    yield Rung("position embeddings", _largest(errors), 5e-6)


def forward(golden: GoldenFolder, name: str) -> Iterator[Rung]:
    """Logits, every layer, features before the head, and logits under the golden dropout masks.

    The layers are compared with our own reading of the official code in float64, since no file holds them.
    """
    given = golden.arrays(f"{name}_forward"), golden.checkpoint(name), golden.facts("forward", ForwardFacts)
    arrays, weights, facts = given
    if arrays is None or weights is None or facts is None:
        yield _missing(f"logits {name}", _first_missing(given, f"{name}_forward.npz", f"{name}_ckpt.npz", "forward"))
        return
    case = Case(golden.architectures[name], weights, golden.resolution(name), golden.num_classes)
    images = make_images(facts.batch, case.resolution, facts.image_seed)
    yield _logits(f"logits {name}", case, images, arrays, "logits", case.bounds.logits)
    layers = list(layer_errors(case.model(), case.architecture, case.weights, images))
    largest = max(layers, key=lambda layer: layer.error)
    yield Rung(f"layers {name}, in float64", largest.error, largest.tolerance, _first_difference(layers))
    if "features" in arrays:
        model = case.model()
        with torch.no_grad():
            features = model.forward_head(model.forward_features(torch.from_numpy(images)), pre_logits=True)
        yield Rung(f"features {name}", _error(features, arrays, "features"), 2 * case.bounds.logits)
    if "dropout01_logits" in arrays:
        model = case.model(dropout=0.1).train()
        dropout_keys_of(model).set(torch.zeros(facts.batch, dtype=torch.int32))
        sites = _fix_masks(model)
        with torch.no_grad():
            logits = model(torch.from_numpy(images))
        if "dropout_sites" in arrays:
            yield Rung(f"dropout {name}: places", abs(len(sites) - int(arrays["dropout_sites"])), 0)
        yield Rung(f"dropout {name}: logits", _error(logits, arrays, "dropout01_logits"), 1e-5)


def full_size(golden: GoldenFolder) -> Iterator[Rung]:
    """Logits of full-size models with weights from a seed, position embeddings resized where the resolution asks it."""
    arrays = golden.arrays("full_logits")
    if arrays is None:
        yield _missing("logits of full-size models", "full_logits.npz")
        return
    facts = golden.facts("full", FullFacts) or FullFacts()
    weights: Arrays = {}
    weights_of = None
    for name, (model_name, resolution) in _keys(arrays, r"(.+)_(\d+)"):
        rung = f"logits {model_name} at {resolution} px"
        architecture = golden.architectures.get(model_name) or MODELS.get(model_name)
        if architecture is None:
            yield Rung(rung, None, note=f"{model_name} is no architecture in meta.json, nor one of ours")
            continue
        num_classes = arrays[name].shape[-1]
        if model_name != weights_of:
            grid, weights_of = architecture.grid(facts.pretrain_resolution), model_name
            weights = make_params(architecture, grid, num_classes, seed=facts.weights_seed)
        images = make_images(facts.batch, int(resolution), facts.image_seed)
        yield _logits(rung, Case(architecture, weights, int(resolution), num_classes), images, arrays, name, 5e-5)


@dataclass(frozen=True)
class Run:
    """How one run of optimiser steps departs from the recipe, as the suffix of its golden arrays spells it."""

    suffix: str
    """Such as `_bf16mom_offset1`; empty for the run with float32 momentum and nothing else."""
    momentum_dtype: torch.dtype = torch.float32
    lr_offset: int = 0
    """Number that the first step has in the learning-rate schedule."""
    accumulation_steps: int = 1
    max_norm: float | None = None
    """Where gradients are clipped; None: where meta.json says."""
    own_lr: bool = False
    """Whether the base rate is the peak of the run's golden learning rates instead of meta.json's."""
    known: bool = True
    """Whether every word of the suffix is understood."""

    @classmethod
    def from_suffix(cls, suffix: str) -> "Run":
        """The run that a suffix spells."""
        run = cls(suffix)
        for word in suffix.split("_")[1:]:
            kind, number = re.sub(r"\d+$", "", word), re.search(r"\d+$", word)
            if word == "bf16mom":
                run = replace(run, momentum_dtype=torch.bfloat16)
            elif kind == "lr":
                run = replace(run, own_lr=True)
            elif kind == "offset" and number:
                run = replace(run, lr_offset=int(number[0]))
            elif kind == "accum" and number:
                run = replace(run, accumulation_steps=int(number[0]))
            elif kind == "clip" and number:
                run = replace(run, max_norm=float(number[0]))
            else:
                run = replace(run, known=False)
        return run


@dataclass(frozen=True)
class Course:
    """What happened at each step of a run, (steps,) each."""

    rates: list[float]
    losses: list[float]
    norms: list[float]
    """Of the gradient before it is clipped."""


def updates(golden: GoldenFolder, name: str) -> Iterator[Rung]:
    """Optimiser steps from an architecture's checkpoint, head kept: rates, gradient norms, losses and final weights."""
    given = golden.arrays(f"{name}_sgd"), golden.checkpoint(name), golden.facts("sgd", UpdateFacts)
    arrays, weights, facts = given
    if arrays is None or weights is None or facts is None:
        yield _missing(f"updates {name}", _first_missing(given, f"{name}_sgd.npz", f"{name}_ckpt.npz", "sgd"))
        return
    case = Case(golden.architectures[name], weights, golden.resolution(name), golden.num_classes)
    runs = _runs(arrays)
    if case.architecture.resnet_stages and any(run.own_lr for run in runs):
        # At the full rate a hybrid amplifies rounding until the official code differs from itself.
        others = ", ".join(run.suffix[1:] or "float32 momentum" for run in runs if not run.own_lr)
        yield Rung(f"updates {name}", None, note=f"at the base rate rounding is amplified: {others}")
        runs = [run for run in runs if run.own_lr]
    for run in runs:
        yield from _compared(f"updates {name}", case, run, facts, arrays | _finals(golden, f"{name}_sgd", run))
        if run.suffix == "_bf16mom" and not _finals(golden, f"{name}_sgd", run):
            yield _missing(f"updates {name} bf16mom: weights", f"{name}_sgd_bf16mom_final.npz")


def finetuning(golden: GoldenFolder) -> Iterator[Rung]:
    """The whole path: a checkpoint with `pre_logits`, other classes, another resolution, then optimiser steps."""
    facts = golden.facts("finetune", FinetuneFacts)
    if facts is None:
        yield _missing("fine-tuning", "`finetune` in meta.json")
        return
    name = facts.architecture
    if name not in golden.architectures:
        raise InputError(f"{golden.path}/meta.json: finetune.architecture {name!r} is not in architectures")
    given = golden.arrays(f"{name}_finetune"), golden.pretrained(facts), golden.facts("sgd", UpdateFacts)
    arrays, weights, update_facts = given
    if arrays is None or weights is None or update_facts is None:
        yield _missing("fine-tuning", _first_missing(given, f"{name}_finetune.npz", facts.checkpoint, "sgd"))
        return
    case = Case(golden.architectures[name], weights, facts.resolution, facts.num_classes, keep_head=False)
    forward_facts = golden.facts("forward", ForwardFacts)
    if "in21k_logits" in arrays and forward_facts is not None:
        before = replace(
            case,
            resolution=facts.pretrain_resolution,
            num_classes=facts.pretrain_classes,
            keep_head=True,
            representation_size=facts.representation_size,
        )
        images = make_images(forward_facts.batch, before.resolution, forward_facts.image_seed)
        rung, bound = "fine-tuning: logits of the checkpoint", case.bounds.logits
        yield _logits(rung, before, images, arrays, "in21k_logits", bound)
    if "pos_embedding" in arrays:
        error = _error(case.model().pos_embed, arrays, "pos_embedding")
        yield Rung("fine-tuning: position embeddings", error, 5e-6)
    for run in _runs(arrays):
        yield from _compared("fine-tuning", case, run, update_facts, arrays)


def _runs(arrays: Arrays) -> list[Run]:
    return [Run.from_suffix(suffix) for _, (suffix,) in _keys(arrays, r"loss((?:_\w+)?)")]


def _finals(golden: GoldenFolder, stem: str, run: Run) -> Arrays:
    """Final weights that lie in a file of their own, under the names that they would have beside the others."""
    arrays = golden.arrays(f"{stem}{run.suffix}_final") or {} if run.suffix else {}
    return {f"final{run.suffix}/{name}": arrays[key] for key, (name,) in _keys(arrays, "final/(.+)")}


def _compared(name: str, case: Case, run: Run, facts: UpdateFacts, arrays: Arrays) -> Iterator[Rung]:
    """Take a run's steps and compare what its golden arrays hold of them."""
    name, suffix = f"{name}{run.suffix.replace('_', ' ')}", run.suffix
    if not run.known or (run.own_lr and f"lr{suffix}" not in arrays):
        yield Rung(name, None, note=f"loss{suffix} is of a run of an unknown kind")
        return
    base_lr = float(f"{arrays[f'lr{suffix}'].max():.6g}") if run.own_lr else facts.base_lr
    facts = replace(facts, base_lr=base_lr, grad_clip=run.max_norm or facts.grad_clip)
    model = case.model()
    course = _course(model, case, run, facts)
    exact = run.momentum_dtype == torch.float32
    if f"lr{suffix}" in arrays:
        yield Rung(f"{name}: rate", _error(course.rates, arrays, f"lr{suffix}") / base_lr, 2e-7)
    if f"grad_norm{suffix}" in arrays and exact:
        error = _error(course.norms, arrays, f"grad_norm{suffix}") / float(arrays[f"grad_norm{suffix}"].max())
        yield Rung(f"{name}: gradient norm", error, case.bounds.gradient_norm)
    bound = case.bounds.loss if exact else BFLOAT16_MOMENTUM_LOSS
    yield Rung(f"{name}: loss", _error(course.losses, arrays, f"loss{suffix}"), bound)
    exported = export_arrays(model, case.architecture)
    if f"final{suffix}/head/kernel" in arrays:
        errors = [_error(array, arrays, f"final{suffix}/{layer}") for layer, array in exported.items()]
        bound = case.bounds.weights if exact else BFLOAT16_MOMENTUM_WEIGHTS
        yield Rung(f"{name}: weights", _largest(errors), bound)


def _course(model: VisionTransformer, case: Case, run: Run, facts: UpdateFacts) -> Course:
    """Take a run's steps with training's own backward pass and optimiser; the model is left as they make it."""
    accelerator = Accelerator(cpu=True)
    optimizer = OfficialSGD(model.parameters(), momentum_dtype=run.momentum_dtype, max_norm=facts.grad_clip)
    model.train()
    course = Course([], [], [])
    for step in range(facts.steps):
        images = torch.from_numpy(make_images(facts.batch, case.resolution, facts.image_seed + step))
        labels = torch.from_numpy(make_labels(facts.batch, case.num_classes, facts.label_seed + step))
        lr = learning_rate(
            step + run.lr_offset,
            base_lr=facts.base_lr,
            warmup_steps=facts.warmup_steps,
            total_steps=facts.steps,
        )
        micro_batches = list(
            zip(images.chunk(run.accumulation_steps), labels.chunk(run.accumulation_steps), strict=True)
        )
        losses = [
            backward(accelerator, model, some, theirs, i == len(micro_batches) - 1, facts.batch)
            for i, (some, theirs) in enumerate(micro_batches)
        ]
        course.rates.append(lr)
        course.losses.append(float(sum(losses)))
        course.norms.append(float(optimizer.step(lr)))
        optimizer.zero_grad()
    return course


def pixels(golden: GoldenFolder) -> Iterator[Rung]:
    """Whole images and crops, resized and scaled to [-1, 1]."""
    arrays = golden.arrays("preprocess")
    if arrays is None:
        yield _missing("pixels", "preprocess.npz")
        return
    whole, cropped = [], []
    for name, (height, width, resolution) in _keys(arrays, r"in_(\d+)x(\d+)_(\d+)"):
        image, suffix = torch.from_numpy(arrays[name])[None], name.removeprefix("in")
        everything = whole_images(np.array([int(height)]), np.array([int(width)]))
        resized = resize_crops(image, everything, int(resolution))[0].permute(1, 2, 0)
        whole.append(_error(resized, arrays, f"eval{suffix}"))
        if f"box{suffix}" in arrays:
            top, left, box_height, box_width = arrays[f"box{suffix}"].astype(np.int64).reshape(4, 1)
            box = Crops(top, left, box_height, box_width, np.array([False]))
            resized = resize_crops(image, box, int(resolution))[0].permute(1, 2, 0)
            cropped.append(_error(resized, arrays, f"crop{suffix}"))
    yield Rung("pixels: whole image", _largest(whole), 1e-5)
    yield Rung("pixels: crop", _largest(cropped), 1e-5)


def crops(golden: GoldenFolder) -> Iterator[Rung]:
    """The distribution of crops: Kolmogorov-Smirnov distances to the official quantiles, means, and flips."""
    arrays = golden.arrays("crop_stats")
    if arrays is None:
        yield _missing("crops", "crop_stats.npz")
        return
    flips = []
    for _, (size, height, width) in _keys(arrays, r"area_q_((\d+)x(\d+))"):
        sides = np.full(NUM_CROPS, int(height)), np.full(NUM_CROPS, int(width))
        drawn = random_crops(0, 0, slice(0, NUM_CROPS), *sides)
        values = {
            "area": drawn.height * drawn.width / (int(height) * int(width)),
            "aspect": drawn.width / drawn.height,
            "height": drawn.height,
        }
        distances = [
            _distance(values[kind], arrays, f"{kind}_q_{size}") for kind in values if f"{kind}_q_{size}" in arrays
        ]
        yield Rung(f"crops of {size} pixels: distance", _largest(distances), 0.01)
        if f"mean_{size}" in arrays:
            means = [edge.mean() for edge in (drawn.top, drawn.left, drawn.height, drawn.width)]
            error = _error(means, arrays, f"mean_{size}") / max(int(height), int(width))
            yield Rung(f"crops of {size} pixels: means", error, 0.005)
        flips.append(abs(float(drawn.flip.mean()) - 0.5))
    yield Rung("flips", _largest(flips), 0.01)


def _distance(values: NDArray[Any], arrays: Arrays, name: str) -> float:
    """Largest gap between the cumulative distribution of `values` and evenly spaced quantiles of the official one.

    Where a quantile falls on a value that occurs often, the distribution jumps: no gap if it jumps across.
    """
    quantiles, values = arrays[name], np.sort(values)
    shares = np.linspace(0, 1, len(quantiles))[1:-1]
    slack = 1e-9 * np.abs(quantiles[1:-1])  # the two divide in different orders
    below = np.searchsorted(values, quantiles[1:-1] - slack, side="left") / len(values)
    up_to = np.searchsorted(values, quantiles[1:-1] + slack, side="right") / len(values)
    return float(np.maximum(below - shares, shares - up_to).clip(min=0).max())


def _logits(rung: str, case: Case, images: NDArray[np.float32], arrays: Arrays, name: str, bound: float) -> Rung:
    """A rung for a forward pass, with the first layer that differs where it fails."""
    model = case.model()
    with torch.no_grad():
        error = _error(model(torch.from_numpy(images)), arrays, name)
    if error <= bound:
        return Rung(rung, error, bound)
    layers = layer_errors(model, case.architecture, case.weights, images)
    return Rung(rung, error, bound, _first_difference(layers) or "no layer differs from our float64 reference")


def _first_difference(layers: Iterable[LayerError]) -> str:
    """Which of some layers is the first to differ, in words; empty if none does."""
    first = next((layer for layer in layers if layer.differs), None)
    return f"first differs: {first.layer} (relative error {first.error:.1e} in float64)" if first else ""


def _fix_masks(model: VisionTransformer) -> list[ImageDropout]:
    """Have the k-th dropout of a forward pass keep element i of each image where (7919 i + 31 k) % 10 is not 0."""
    sites = [module for module in model.modules() if isinstance(module, ImageDropout)]
    calls = iter(range(len(sites)))

    def kept(keys: Tensor, size: int) -> Tensor:
        mask = (7919 * torch.arange(size) + 31 * next(calls)) % 10 != 0
        return mask.expand(len(keys), size)

    for site in sites:
        site.kept = kept  # type: ignore[method-assign]
    return sites


def _keys(arrays: Arrays, pattern: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of arrays that match a pattern as a whole, and its groups."""
    for name in arrays:
        if match := re.fullmatch(pattern, name):
            yield name, match.groups()


def _error(ours: ArrayLike | Tensor, arrays: Arrays, name: str) -> float:
    """Largest absolute difference to a golden array.

    Raises:
        InputError: the array isn't there, or has another shape than meta.json makes ours have.
    """
    if name not in arrays:
        raise InputError(f"the golden folder lacks array {name}, which others in its file belong to")
    value = ours.detach().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    if value.shape != arrays[name].shape:
        raise InputError(f"golden array {name} has shape {arrays[name].shape}, not {value.shape} as meta.json says")
    return float(np.abs(value - arrays[name].astype(np.float64)).max())


def _largest(errors: Iterable[float]) -> float | None:
    """The largest of some errors, NaN if one is; None of none."""
    listed = list(errors)
    return float(np.max(listed)) if listed else None


def _missing(rung: str, what: str) -> Rung:
    return Rung(rung, None, note=f"no {what}")


def _first_missing(given: tuple[object, ...], arrays: str, weights: str, section: str) -> str:
    names = (arrays, f"{weights} and no seed for it in meta.json", f"`{section}` in meta.json")
    return next(name for value, name in zip(given, names, strict=True) if value is None)
