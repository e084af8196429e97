"""Finding: the outcome of one check, as a line."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    kind: Literal["ok", "FAIL", "warn", "skip"]
    """FAIL: the sweep can't run, or not safely. warn: it can, at a cost. skip: couldn't be looked at."""
    what: str
    """What was looked at."""
    detail: str
    """What was found there, and what to do."""

    def __str__(self) -> str:
        return f"{self.kind:<4}  {self.what}: {self.detail}"


def ok(what: str, detail: str) -> Finding:
    return Finding("ok", what, detail)


def fail(what: str, detail: str) -> Finding:
    return Finding("FAIL", what, detail)


def warn(what: str, detail: str) -> Finding:
    return Finding("warn", what, detail)


def skip(what: str, detail: str) -> Finding:
    return Finding("skip", what, detail)


def have_failed(findings: Iterable[Finding]) -> bool:
    """Whether one of them says FAIL."""
    return any(finding.kind == "FAIL" for finding in findings)
