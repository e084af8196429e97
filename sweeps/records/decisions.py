"""Decisions: what was decided about candidates and from what, a line each in a sweep's folder of the storage."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from vit_trainer.files.schema import instance_of
from vit_trainer.files.storage import DECISIONS, Storage

METRIC = "val/accuracy"
"""What candidates are compared by; higher is better."""


@dataclass(frozen=True)
class Decision:
    """What was decided about a candidate at a rung, and from what."""

    trial_id: str
    """The candidate."""
    group: str
    """With whom it competes: the name of its cell, or of its data set."""
    rung: int
    """The optimiser step from which on this rung decides."""
    step: int
    """The optimiser step of the report: the candidate's first at or after the rung."""
    value: float | None
    """METRIC in the report; None if it was no number, which counts as WORST."""
    compared: tuple[float | None, ...]
    """What the group's other candidates had at this rung, in the order they came."""
    cutoff: float | None
    """A candidate below it stops; None for the first at the rung."""
    action: Literal["goes on", "stays paused", "stops"]
    """What became of the candidate."""
    rule: str
    """The reason as one line, for result.json too."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**vars(self), "compared": list(self.compared)}


def record_decision(storage: Storage, sweep: str, decision: Decision) -> None:
    """Write a decision of a sweep down; raises OSError for what the storage refuses."""
    storage.sweep(sweep).append(DECISIONS, (json.dumps(decision.to_dict()) + "\n").encode())


def read_decisions(storage: Storage, sweep: str) -> tuple[list[Decision], int]:
    """The decisions of a sweep in their order, and the number of lines that can't be read."""
    return storage.sweep_lines(sweep, DECISIONS, partial(instance_of, Decision))
