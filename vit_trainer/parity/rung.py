"""Rung: one comparison with the official code, and what all of them are made with."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from vit_trainer.errors import InputError
from vit_trainer.weights.layouts import Arrays


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
class Setting:
    """Where and how the models of some rungs compute; their weights and inputs are made on the CPU."""

    device: str = "cpu"
    """As PyTorch names it, such as cuda."""
    bfloat16: bool = False
    """Whether matrix products are in bfloat16, by autocast as in training; else all is float32."""
    compiled: bool = False


CPU = Setting()


def matching(arrays: Arrays, pattern: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of arrays that match a pattern as a whole, and its groups."""
    for name in arrays:
        if match := re.fullmatch(pattern, name):
            yield name, match.groups()


def error_of(ours: ArrayLike | Tensor, arrays: Arrays, name: str) -> float:
    """Largest absolute difference to a golden array.

    Raises:
        InputError: the array isn't there, or has another shape than meta.json makes ours have.
    """
    if name not in arrays:
        raise InputError(f"the golden folder lacks array {name}, which others in its file belong to")
    value = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    if value.shape != arrays[name].shape:
        raise InputError(f"golden array {name} has shape {arrays[name].shape}, not {value.shape} as meta.json says")
    return float(np.abs(value - arrays[name].astype(np.float64)).max())


def largest(errors: Iterable[float]) -> float | None:
    """The largest of some errors, NaN if one is; None of none."""
    listed = list(errors)
    return float(np.max(listed)) if listed else None


def missing(rung: str, what: str) -> Rung:
    """A rung that is skipped, for want of something in the golden folder."""
    return Rung(rung, None, note=f"no {what}")


def first_missing(given: tuple[object, ...], arrays: str, weights: str, section: str) -> str:
    """What the first None of (arrays, weights, a section of meta.json) would have been read from."""
    names = (arrays, f"{weights} and no seed for it in meta.json", f"`{section}` in meta.json")
    return next(name for value, name in zip(given, names, strict=True) if value is None)
