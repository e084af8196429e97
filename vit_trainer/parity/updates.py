"""Rungs of training: learning rates, runs of optimiser steps from a checkpoint, and fine-tuning as a whole."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from timm.models.vision_transformer import VisionTransformer

from vit_trainer.errors import InputError
from vit_trainer.loop.accelerator import start_accelerator
from vit_trainer.loop.optim import OfficialSGD, learning_rate
from vit_trainer.loop.step import backward
from vit_trainer.parity.forward_pass import Case, logits_rung
from vit_trainer.parity.golden import FinetuneFacts, ForwardFacts, GoldenFolder, UpdateFacts, make_images, make_labels
from vit_trainer.parity.rung import CPU, Rung, Setting, error_of, first_missing, largest, matching, missing
from vit_trainer.weights.layouts import Arrays
from vit_trainer.weights.load import export_arrays

BFLOAT16_MOMENTUM_LOSS = 5e-5
BFLOAT16_MOMENTUM_WEIGHTS = 1e-4


@dataclass(frozen=True)
class GoldenRun:
    """A run of optimiser steps in a golden folder: the suffix of its arrays spells how it departs from the recipe."""

    suffix: str
    """Such as `_bf16mom_offset1`; empty for the run with float32 momentum and nothing else."""
    momentum_dtype: torch.dtype = torch.float32
    lr_offset: int = 0
    """Number that the first step has in the learning-rate schedule."""
    accumulation_steps: int = 1
    max_norm: float | None = None
    """Norm at which gradients are clipped; None: what meta.json says."""
    own_lr: bool = False
    """Whether the base rate is the peak of the run's golden learning rates instead of meta.json's."""
    known: bool = True
    """Whether every word of the suffix is understood."""

    @classmethod
    def from_suffix(cls, suffix: str) -> "GoldenRun":
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
    """Norms of the gradient before it is clipped."""


def schedule(golden: GoldenFolder) -> Iterator[Rung]:
    """Learning rates; the error is relative to the base rate."""
    arrays = golden.arrays("schedule")
    if arrays is None:
        yield missing("learning rates", "schedule.npz")
        return
    errors = []
    for name, (total_steps, base_lr, warmup_steps) in matching(arrays, r"steps_(\d+)_([\d.]+)_(\d+)"):
        facts = {"base_lr": float(base_lr), "warmup_steps": int(warmup_steps), "total_steps": int(total_steps)}
        rates = [learning_rate(int(step), **facts) for step in arrays[name]]  # type: ignore[arg-type]
        errors.append(error_of(rates, arrays, name.replace("steps", "lr")) / float(base_lr))
    yield Rung("learning rates", largest(errors), 2e-7)


def updates(golden: GoldenFolder, name: str, setting: Setting = CPU, *, one_run: bool = False) -> Iterator[Rung]:
    """Optimiser steps from an architecture's checkpoint, head kept: rates, gradient norms, losses and final weights.

    Args:
        one_run: whether to take the steps of the first of the golden runs only.
    """
    given = golden.arrays(f"{name}_sgd"), golden.checkpoint(name), golden.facts("sgd", UpdateFacts)
    arrays, weights, facts = given
    if arrays is None or weights is None or facts is None:
        yield missing(f"updates {name}", first_missing(given, f"{name}_sgd.npz", f"{name}_ckpt.npz", "sgd"))
        return
    case = Case(golden.architectures[name], weights, golden.resolution(name), golden.num_classes, setting=setting)
    runs = golden_runs(arrays)
    if case.architecture.resnet_stages and any(run.own_lr for run in runs):
        # At the full rate a hybrid amplifies rounding until the official code differs from itself.
        others = ", ".join(run.suffix[1:] or "float32 momentum" for run in runs if not run.own_lr)
        yield Rung(f"updates {name}", None, note=f"at the base rate rounding is amplified: {others}")
        runs = [run for run in runs if run.own_lr]
    for run in runs[: 1 if one_run else None]:
        yield from _compared(
            f"{'compiled ' if setting.compiled else ''}updates {name}",
            case,
            run,
            facts,
            arrays | _finals(golden, f"{name}_sgd", run),
        )
        if run.suffix == "_bf16mom" and not _finals(golden, f"{name}_sgd", run):
            yield missing(f"updates {name} bf16mom: weights", f"{name}_sgd_bf16mom_final.npz")


def finetuning(golden: GoldenFolder, setting: Setting = CPU) -> Iterator[Rung]:
    """The whole path: a checkpoint with `pre_logits`, other classes, another resolution, then optimiser steps."""
    facts = golden.facts("finetune", FinetuneFacts)
    if facts is None:
        yield missing("fine-tuning", "`finetune` in meta.json")
        return
    name = facts.architecture
    if name not in golden.architectures:
        raise InputError(f"{golden.path}/meta.json: finetune.architecture {name!r} is not in architectures")
    given = golden.arrays(f"{name}_finetune"), golden.pretrained(facts), golden.facts("sgd", UpdateFacts)
    arrays, weights, update_facts = given
    if arrays is None or weights is None or update_facts is None:
        yield missing("fine-tuning", first_missing(given, f"{name}_finetune.npz", facts.checkpoint, "sgd"))
        return
    case = Case(
        golden.architectures[name], weights, facts.resolution, facts.num_classes, keep_head=False, setting=setting
    )
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
        yield logits_rung(rung, before, images, arrays, "in21k_logits", bound)
    if "pos_embedding" in arrays:
        error = error_of(case.model().pos_embed, arrays, "pos_embedding")
        yield Rung("fine-tuning: position embeddings", error, 5e-6)
    for run in golden_runs(arrays):
        yield from _compared("fine-tuning", case, run, update_facts, arrays)


def golden_runs(arrays: Arrays) -> list[GoldenRun]:
    """The runs that a file's arrays are of."""
    return [GoldenRun.from_suffix(suffix) for _, (suffix,) in matching(arrays, r"loss((?:_\w+)?)")]


def _finals(golden: GoldenFolder, stem: str, run: GoldenRun) -> Arrays:
    """Final weights that lie in a file of their own, under the names that they would have beside the others."""
    arrays = golden.arrays(f"{stem}{run.suffix}_final") or {} if run.suffix else {}
    return {f"final{run.suffix}/{name}": arrays[key] for key, (name,) in matching(arrays, "final/(.+)")}


def _compared(name: str, case: Case, run: GoldenRun, facts: UpdateFacts, arrays: Arrays) -> Iterator[Rung]:
    """Take a run's steps and compare what its golden arrays hold of them."""
    name, suffix = f"{name}{run.suffix.replace('_', ' ')}", run.suffix
    if not run.known or (run.own_lr and f"lr{suffix}" not in arrays):
        yield Rung(name, None, note=f"loss{suffix} is of a run of an unknown kind")
        return
    facts = facts_of(run, facts, arrays)
    base_lr = facts.base_lr
    model = case.model()
    course = take_steps(model, case, run, facts)
    exact = run.momentum_dtype == torch.float32
    if f"lr{suffix}" in arrays:
        yield Rung(f"{name}: rate", error_of(course.rates, arrays, f"lr{suffix}") / base_lr, 2e-7)
    if f"grad_norm{suffix}" in arrays and exact:
        error = error_of(course.norms, arrays, f"grad_norm{suffix}") / float(arrays[f"grad_norm{suffix}"].max())
        yield Rung(f"{name}: gradient norm", error, case.bounds.gradient_norm)
    bound = case.bounds.loss if exact else BFLOAT16_MOMENTUM_LOSS
    yield Rung(f"{name}: loss", error_of(course.losses, arrays, f"loss{suffix}"), bound)
    exported = export_arrays(model, case.architecture)
    if f"final{suffix}/head/kernel" in arrays:
        errors = [error_of(array, arrays, f"final{suffix}/{layer}") for layer, array in exported.items()]
        bound = case.bounds.weights if exact else BFLOAT16_MOMENTUM_WEIGHTS
        yield Rung(f"{name}: weights", largest(errors), bound)


def facts_of(run: GoldenRun, facts: UpdateFacts, arrays: Arrays) -> UpdateFacts:
    """What the steps of one run were given, from what all of them were."""
    base_lr = float(f"{arrays[f'lr{run.suffix}'].max():.6g}") if run.own_lr else facts.base_lr
    return replace(facts, base_lr=base_lr, grad_clip=run.max_norm or facts.grad_clip)


def take_steps(model: VisionTransformer, case: Case, run: GoldenRun, facts: UpdateFacts) -> Course:
    """Take a run's steps with training's own backward pass and optimiser; the model is left as they make it."""
    accelerator = start_accelerator()  # as the trials of `resume` do: a process has one kind
    optimizer = OfficialSGD(model.parameters(), momentum_dtype=run.momentum_dtype, max_norm=facts.grad_clip)
    model.train()
    course = Course([], [], [])
    for step in range(facts.steps):
        images = case.tensor(make_images(facts.batch, case.resolution, facts.image_seed + step))
        labels = case.tensor(make_labels(facts.batch, case.num_classes, facts.label_seed + step))
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
