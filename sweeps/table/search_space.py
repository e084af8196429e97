"""Search space: which values of a cell Optuna proposes, and within which ends. Imports no Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sweeps.table.cells import Cell, Trial
from sweeps.table.published import published_base_lr
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import dataset_info
from vit_trainer.errors import InputError

Searched = Literal["base_lr", "dropout", "warmup_steps"]
"""What can be searched, by its name in FinetuneConfig."""

BASE_LR_MARGIN = 3
"""The range of rates reaches from the smallest of a grid's candidates, divided by this, to the largest, times this."""
DROPOUTS = (0.0, 0.5)
"""Range of dropouts; the official recipes use 0.0 and 0.1."""
MAX_WARMUP_FRACTION = 0.2
"""Longest warm-up as a fraction of all steps; the official recipes use 0.025 to 0.1."""


@dataclass(frozen=True)
class Space:
    """The ends, both included, of what is searched in one cell; None where a value is not searched."""

    base_lr: tuple[float, float] | None
    """Positive, searched on a log scale; where not searched, trials have the published rate."""
    dropout: tuple[float, float] | None = None
    """In [0, 1); where not searched, trials have the cell's."""
    warmup_steps: tuple[int, int] | None = None
    """Optimiser steps; where not searched, trials have the cell's."""

    @classmethod
    def around_official(cls, cell: Cell, searched: tuple[Searched, ...]) -> "Space":
        """The ends unless told otherwise, around the paper's candidates for the cell's data set."""
        rates = dataset_info(cell.dataset).base_lrs
        max_warmup_steps = int(MAX_WARMUP_FRACTION * cell.schedule.total_steps)
        return cls(
            (_rounded("base_lr", min(rates) / BASE_LR_MARGIN), _rounded("base_lr", max(rates) * BASE_LR_MARGIN))
            if "base_lr" in searched
            else None,
            DROPOUTS if "dropout" in searched else None,
            (0, max_warmup_steps) if "warmup_steps" in searched else None,
        )

    @property
    def ends(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each that is searched, by name."""
        given = {"base_lr": self.base_lr, "dropout": self.dropout, "warmup_steps": self.warmup_steps}
        return {name: ends for name, ends in given.items() if ends is not None}

    def contains(self, values: Mapping[str, float]) -> bool:
        """Whether values, one for each that is searched, lie within the ends."""
        return all(low <= values[name] <= high for name, (low, high) in self.ends.items())

    def rounded(self, values: Mapping[str, float]) -> dict[str, float]:
        """Values as they are trained and recorded: short enough to read in a trial id, and within the ends."""
        return {name: min(max(_rounded(name, values[name]), low), high) for name, (low, high) in self.ends.items()}

    def trial(self, cell: Cell, values: Mapping[str, float], seed: int) -> Trial:
        """The trial with these values, one for each that is searched."""
        return Trial(
            cell,
            values["base_lr"] if self.base_lr else published_base_lr(cell),
            seed,
            values["dropout"] if self.dropout else None,
            int(values["warmup_steps"]) if self.warmup_steps else None,
        )

    def trial_of(self, cell: Cell, config: Mapping[str, Any]) -> Trial | None:
        """The trial with this config, content of a config.json, if it is the cell's and has values in the space."""
        try:
            if not self.contains(config):
                return None
            trial = self.trial(cell, config, config["seed"])
            return trial if trial.config.to_dict() == dict(config) else None
        except (KeyError, TypeError, InputError):
            return None  # of another version, which had other fields

    def published(self, cell: Cell) -> dict[str, float]:
        """The cell's published values, else the official, one for each that is searched; may lie outside the ends."""
        values = {
            "base_lr": published_base_lr(cell),
            "dropout": FinetuneConfig.official(cell.model, cell.dataset).dropout,
            "warmup_steps": cell.schedule.warmup_steps,
        }
        return {name: values[name] for name in self.ends}


def _rounded(name: str, value: float) -> float:
    """Learning rates to 3 significant digits, dropouts to 2 decimals, steps to whole ones."""
    if name == "base_lr":
        return float(f"{value:.3g}")
    return round(value, 2) if name == "dropout" else round(value)
