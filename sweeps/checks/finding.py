"""Finding: the outcome of one check, as a line."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from rich.console import Console

from vit_trainer.files.outgoing import outgoing

STYLES = {"FAIL": "bold red", "warn": "yellow", "skip": "dim", "ok": "green"}
"""By kind, the first to read first."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    kind: Literal["ok", "FAIL", "warn", "skip"]
    what: str
    """What was looked at."""
    detail: str
    """What was found there, and what to do."""


def ok(what: str, detail: str) -> Finding:
    """A check that found all as it should be."""
    return Finding("ok", what, detail)


def fail(what: str, detail: str) -> Finding:
    """A check after which the sweep can't run, or not safely."""
    return Finding("FAIL", what, detail)


def warn(what: str, detail: str) -> Finding:
    """A check after which the sweep can run, at a cost."""
    return Finding("warn", what, detail)


def skip(what: str, detail: str) -> Finding:
    """A check that couldn't be made."""
    return Finding("skip", what, detail)


def print_finding(finding: Finding) -> None:
    """A line, the kind in its colour where there is a terminal."""
    console = _console()
    console.print(f"[{STYLES[finding.kind]}]{finding.kind:<4}[/]", end="  ")
    console.print(outgoing(f"{finding.what}: {finding.detail}"), markup=False)


@cache
def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
