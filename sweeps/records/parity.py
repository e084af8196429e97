"""Parity: what the nodes of a sweep came to when they were compared with the official code, a line each."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial

from vit_trainer.files.schema import instance_of
from vit_trainer.files.storage import PARITY, Storage


@dataclass(frozen=True)
class NodeParity:
    """What `verify --short` said on one card of a node."""

    node: str
    """Address."""
    environment: str
    """Card, driver, CUDA, cuDNN and PyTorch, as it names them; empty if it didn't come to that."""
    outcome: str
    """Its last line, such as `30 of 30 rungs hold, 0 skipped`."""
    failures: tuple[str, ...] = ()
    """Names of the rungs that don't hold; what else went wrong, if it didn't come to an end."""
    rungs: tuple[str, ...] = ()
    """All that it said between the first line and the last: each rung with its error and bound."""


def record_parity(storage: Storage, sweep: str, found: Iterable[NodeParity]) -> None:
    """Write down what nodes came to; raises OSError for what the storage refuses."""
    lines = "".join(json.dumps(asdict(each)) + "\n" for each in found)
    if lines:
        storage.sweep(sweep).append(PARITY, lines.encode())


def read_parity(storage: Storage, sweep: str) -> tuple[list[NodeParity], int]:
    """What the nodes of a sweep came to, in the order of asking, and the number of lines that can't be read."""
    return storage.sweep_lines(sweep, PARITY, partial(instance_of, NodeParity))
