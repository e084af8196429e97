"""Schema: what may stand in the files of a storage; all that is read of them has passed it. Standard library only.

What an older version didn't write may be missing, and what a newer one adds may be there.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from vit_trainer.architectures import MODELS
from vit_trainer.errors import one_of

T = TypeVar("T")

UNFINISHED = "unfinished"
"""Status of a trial without a result: it waits to be gone on with, or runs."""
STATUSES = ("finished", "stopped", "failed", UNFINISHED)
"""Every status; all but the last are those of a result."""
LARGEST = 2**63
"""Whole numbers beyond are no metrics, which are floating-point numbers to whoever shows them."""


class _Field(NamedTuple):
    types: tuple[type, ...]
    low: float | None
    high: float
    what: str


def _whole(low: int) -> _Field:
    return _Field((int,), low, 1e15, f"a whole number of at least {low}")


def _optional(field: _Field) -> _Field:
    return field._replace(types=(*field.types, type(None)))


_TEXT = _Field((str,), None, 0, "text")
_FRACTION = _Field((int, float), 0, 1, "a fraction in [0, 1]")
_HOURS = _Field((int, float), 0, 1e6, "hours from 0 to a million")
_AMOUNT = _Field((int, float), 0, 1e15, "a number of at least 0")
_TIME = _Field((int, float), 0, 1e12, "a time in Unix seconds")

_METRICS = {"val/accuracy": _FRACTION, "test/accuracy": _FRACTION, "runtime_hours": _HOURS, "gpu_hours": _HOURS}
_METRICS |= dict.fromkeys(("images_per_second", "mfu", "peak_memory_gib", "input_wait_fraction"), _AMOUNT)
_LINE = _METRICS | {"time": _TIME, "step": _whole(1), "paused": _whole(0), "note": _TEXT, "host": _TEXT}
_LINE |= {"attempt": _whole(1), "from_step": _whole(0), "from_seconds": _AMOUNT, "num_processes": _whole(1)}
_LINE |= {"device": _TEXT, "device_name": _optional(_TEXT), "micro_batch_size": _optional(_whole(1))}
_LINE |= dict.fromkeys(("weights_sha256", "commit", "environment"), _optional(_TEXT))
_LINE |= {"versions": _optional(_Field((dict,), None, 0, "an object"))}
_ATTEMPT = ("time", "from_step", "host", "device", "num_processes")
_RESULT = _METRICS | {"status": _TEXT, "step": _whole(0), "cause": _optional(_TEXT)}
_CONFIG = {"model": _TEXT, "dataset": _TEXT, "upstream": _TEXT, "seed": _whole(0), "warmup_steps": _whole(0)}
_CONFIG |= dict.fromkeys(("resolution", "total_steps", "global_batch_size"), _whole(1))
_CONFIG |= {"dropout": _FRACTION, "base_lr": _Field((int, float), 1e-300, 1e300, "a number above 0")}
_LEASE = {"host": _TEXT, "pid": _Field((int,), 1, 2**31, "a process id"), "time": _TIME}


def json_of(content: bytes | str) -> Any:
    """As `json.loads`; what is nested too deep is a ValueError too, as all else that is none."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def config_of(content: bytes | dict[str, Any]) -> dict[str, Any]:
    """What a config.json holds; raises ValueError if that is none, and says why in one line, as the others do."""
    values = _checked(content if isinstance(content, dict) else _object(content), _CONFIG, _CONFIG)
    if values["model"] not in MODELS:
        raise one_of("model", values["model"], list(MODELS))
    return values


def result_of(content: bytes) -> dict[str, Any]:
    """What a result.json holds."""
    values = _object(content)
    accuracies = ("val/accuracy", "test/accuracy") if values.get("status") == "finished" else ()
    _checked(values, _RESULT, ("status", "step", *accuracies))
    if values["status"] not in (valid := STATUSES[:-1]):
        raise one_of("status", values["status"], list(valid))
    return values


def lease_of(content: bytes) -> dict[str, Any]:
    """What a lease.json holds."""
    return _checked(_object(content), _LEASE, _LEASE)


def lines_of(content: bytes) -> list[dict[str, Any]]:
    """What a journal holds; lines that are on their way, or that a kill or a power cut tore, are passed over."""
    lines, parts = [], content.split(b"\n")
    for i, part in enumerate(parts):
        try:
            values = json_of(part)
        except ValueError:
            # A kill tears between braces, a power cut leaves zeros.
            if i == len(parts) - 1 or not part.strip(b"\0 \r") or part.count(b"{") > part.count(b"}"):
                continue
            raise ValueError(f"line {i + 1} is no JSON") from None
        if type(values) is not dict:
            raise ValueError(f"line {i + 1} is no object")
        try:
            lines.append(_checked(values, _LINE, _ATTEMPT if "attempt" in values else ("time",)))
        except ValueError as error:
            raise ValueError(f"line {i + 1}: {error}") from error
    return lines


def instance_of(kind: type[T], values: Any) -> T:
    """A dataclass's instance from what `asdict` and JSON made of one, each field as it is annotated.

    Raises:
        ValueError: a field is missing or of another type; other objects' fields may be there.
    """
    if type(values) is not dict:
        raise ValueError(f"no object: {json.dumps(values)[:40]}")
    hints = _hints(kind)  # type: ignore[arg-type]
    given = {name: _value(hint, values[name], name) for name, hint in hints.items() if name in values}
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(str(error)) from error


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, value: Any, name: str) -> Any:
    origin, parts, kind = get_origin(hint), get_args(hint), type(value)
    if origin is UnionType:
        hint = next((part for part in parts if part is kind or (kind is int and part is float)), parts[0])
        origin, parts = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return instance_of(hint, value)  # type: ignore[arg-type]
    if origin is tuple and kind is list:
        return tuple(_value(parts[0], each, name) for each in value)
    if origin is Mapping and kind is dict:
        return {key: _value(parts[1], each, name) for key, each in value.items()}
    if origin is Literal and kind is str and value in parts:
        return value
    is_number = kind in (int, float) and (kind is float or -LARGEST <= value < LARGEST) and not math.isnan(value)
    if (is_number and hint in (kind, float)) or (kind is hint and kind in (str, bool, type(None))):
        return value
    raise ValueError(f"{name} is {json.dumps(value)[:40]}, not {getattr(hint, '__name__', hint)}")


def _object(content: bytes) -> dict[str, Any]:
    try:
        values = json_of(content)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}" if content else "it is empty") from error
    if not isinstance(values, dict):
        raise ValueError("no object")
    return values


def _checked(values: dict[str, Any], fields: Mapping[str, _Field], required: Iterable[str]) -> dict[str, Any]:
    for name in required:
        if name not in values:
            raise ValueError(f"{name} is missing")
    for name, value in values.items():
        kind = type(value)
        if (field := fields.get(name)) is None:
            if kind is int and not -LARGEST <= value < LARGEST:
                raise ValueError(f"{json.dumps(name)[:40]} is too large a number")
        elif kind not in field.types or not (field.low is None or value is None or field.low <= value <= field.high):
            raise ValueError(f"{name} is {json.dumps(value)[:40]}, not {field.what}")
    return values


def trial_id_of(values: Mapping[str, Any]) -> str:
    """The trial id of `FinetuneConfig.to_dict()`, which is the content of a config.json."""
    digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
    name = "{model}-{dataset}-d{dropout:g}-lr{base_lr:g}-s{seed}".format(**values)
    return f"{name}-{digest[:6]}"


def row_text(row: Mapping[str, Any]) -> str:
    """A row of the journal in words; older versions' rows know less."""
    parts = [
        f"step {row['step']}: train/loss {row['train/loss']:.3f}" if "train/loss" in row else f"step {row['step']}"
    ]
    parts += [f"val/accuracy {100 * row['val/accuracy']:.2f}%"] if "val/accuracy" in row else []
    if "images_per_second" in row:
        share = f" ({row['mfu']:.0%} of the peak)" if "mfu" in row else ""
        parts.append(f"{row['images_per_second']:.0f} images/s{share}")
    parts += [f"{row['peak_memory_gib']:.1f} GiB"] if "peak_memory_gib" in row else []
    parts += [f"input wait {row['input_wait_fraction']:.0%}"] if "input_wait_fraction" in row else []
    return ", ".join(parts)
