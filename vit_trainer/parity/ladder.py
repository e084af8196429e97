"""The ladder of `python -m vit_trainer verify`: our numbers against what the official code computed, rung by rung.

Every rung runs the code that training runs, on the CPU or a GPU, in float32. The bounds are what rounding needs; the
smallest known mistake of each kind is above them, and a test makes each one. Further rungs are in bfloat16, with bounds
of their own, of compiled models, and of bits that must be equal. Tested on the CPU; not yet run on GPUs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from rich.console import Console
from rich.text import Text

from vit_trainer.errors import InputError
from vit_trainer.machine import card_and_versions
from vit_trainer.parity.bfloat16 import in_bfloat16
from vit_trainer.parity.forward_pass import forward, full_size, position_embeddings
from vit_trainer.parity.golden import GoldenFolder
from vit_trainer.parity.pixels import crops, pixels
from vit_trainer.parity.rung import CPU, Rung, Setting
from vit_trainer.parity.same_bits import dropout_masks, resume
from vit_trainer.parity.updates import finetuning, schedule, updates

DEVICE_SLACK = 10
"""How much wider the short form's bounds in float32 are on GPUs. Other kernels add up in other orders, and no card has
been seen yet: a sweep must not be refused for that. A card, driver or library that is broken is off by far more."""


@dataclass(frozen=True)
class Climb:
    """Which rungs to climb, and where."""

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16", "both"] = "float32"
    """Of the models that are compared with the golden values."""
    full: bool = True
    """Whether to run the full-size models too."""
    short: bool = False
    """Whether to leave out what takes long or isn't every trial's business: full-size models, compilation, resuming."""
    compiled: bool = False
    """Whether to compile a model too, which takes a minute or two."""


def ladder(golden: GoldenFolder, *, full: bool = True, setting: Setting = CPU) -> Iterator[Rung]:
    """Every rung in float32, in order, each computed when it is asked for.

    Args:
        full: whether to run the full-size models too.

    Raises:
        InputError: a file of the folder is damaged, or doesn't fit its meta.json.
    """
    yield from schedule(golden)
    yield from position_embeddings(golden)
    for name in golden.architectures:
        yield from forward(golden, name, setting)
    yield from full_size(golden, setting) if full else [Rung("logits of full-size models", None, note="not asked for")]
    for name in golden.architectures:
        yield from updates(golden, name, setting)
    yield from finetuning(golden, setting)
    yield from pixels(golden, setting)
    yield from crops(golden)


def short_ladder(golden: GoldenFolder, setting: Setting) -> Iterator[Rung]:
    """The rungs in float32 that a device could spoil: logits, one run of optimiser steps, pixels."""
    slack = 1 if setting == CPU else DEVICE_SLACK
    for name in golden.architectures:
        yield from (replace(rung, bound=slack * rung.bound) for rung in forward(golden, name, setting))
    steps = updates(golden, _first_vit(golden), setting, one_run=True)
    yield from (replace(rung, bound=slack * rung.bound) for rung in (*steps, *pixels(golden, setting)))


def _first_vit(golden: GoldenFolder) -> str:
    return next((name for name, each in golden.architectures.items() if not each.resnet_stages), "")


def compared(golden: GoldenFolder, climb: Climb) -> Iterator[Rung]:
    """The rungs that compare with golden values."""
    here = Setting(climb.device)
    if climb.precision != "bfloat16":
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # of products it is off anyway
            yield from short_ladder(golden, here) if climb.short else ladder(golden, full=climb.full, setting=here)
    if climb.precision != "float32":
        for name, architecture in golden.architectures.items():
            with_steps = not (climb.short and architecture.resnet_stages)
            yield from in_bfloat16(golden, name, here, with_steps=with_steps)
    if climb.compiled and (name := _first_vit(golden)):
        if climb.precision != "bfloat16":
            yield from updates(golden, name, replace(here, compiled=True), one_run=True)
        if climb.precision != "float32":
            yield from in_bfloat16(golden, name, replace(here, compiled=True))


def same_bits(climb: Climb) -> Iterator[Rung]:
    """The rungs of bits that must be equal."""
    yield from dropout_masks(Setting(climb.device))
    if climb.compiled:
        yield from dropout_masks(Setting(climb.device, compiled=True))
    if not climb.short:
        yield from resume()


def print_ladder(golden: GoldenFolder, climb: Climb = Climb()) -> bool:
    """Print what computes, a line per rung as it is climbed, and a last one that counts them; whether all hold.

    Raises:
        InputError: the folder holds nothing to compare with, or see `ladder`.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(card_and_versions())
    console.print(f"{'rung':<48}{'error':>9}{'bound':>9}", style="bold")
    rungs = []

    def show(rung: Rung) -> None:
        rungs.append(rung)
        style, verdict = (
            ("yellow", "skipped") if rung.skipped else ("green", "pass") if rung.passed else ("red", "FAIL")
        )
        error, bound = ("", "") if rung.error is None else (f"{rung.error:.1e}", f"{rung.bound:.0e}")
        line = Text(f"{rung.name:<48}{error:>9}{bound:>9}  ").append(verdict, style)
        console.print(line.append(f"  {rung.note}" if rung.note else ""))

    for rung in compared(golden, climb):
        show(rung)
    if all(rung.skipped for rung in rungs):
        raise InputError(f"{golden.path} holds nothing to compare with: give a folder laid out like the project's own")
    for rung in same_bits(climb):
        show(rung)
    climbed = [rung for rung in rungs if not rung.skipped]
    failed = [rung for rung in climbed if not rung.passed]
    summary = f"{len(climbed) - len(failed)} of {len(climbed)} rungs hold, {len(rungs) - len(climbed)} skipped"
    console.print(summary, style="red" if failed else "green")
    return not failed
