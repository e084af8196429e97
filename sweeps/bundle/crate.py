"""Crate: what a bundle holds, described as a research object: RO-Crate 1.1, profile Process Run Crate 0.5.

Source: https://www.researchobject.org/ro-crate/specification/1.1 and https://w3id.org/ro/wfrun/process.
"""

import mimetypes
import time
from collections.abc import Iterable
from typing import Any

from sweeps.records.results import Results

CRATE = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
LICENCE = "https://spdx.org/licenses/Apache-2.0"
ORIGINAL = "https://github.com/google-research/vision_transformer"
"""The code whose protocol is followed."""


def crate(results: Results, files: Iterable[str], author: str | None = None) -> dict[str, Any]:
    """The metadata of a bundle: an action for each trial, with the files that it left.

    Args:
        files: names of all files in the bundle.
        author: who ran all this; None: nobody is named.
    """
    names = sorted(files)
    ends = [trial.last_time for trial in results.trials if trial.last_time is not None]
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Evidence of {results.sweep or 'a sweep'}",
        "description": f"{len(results.trials)} fine-tunes of {len(results.cells)} cells, with all that they left",
        "datePublished": _date(max(ends, default=0.0)),
        "license": {"@id": LICENCE},
        "conformsTo": {"@id": PROFILE},
        "hasPart": [{"@id": name} for name in names],
        "mentions": _one_or_all([{"@id": f"#{trial.trial_id}"} for trial in results.trials]),
    }
    entities: list[dict[str, Any]] = [
        {
            "@id": CRATE,
            "@type": "CreativeWork",
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            "about": {"@id": "./"},
        },
        root,
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {"@id": LICENCE, "@type": "CreativeWork", "name": "Apache License 2.0"},
        {
            "@id": "#vit-sweeps",
            "@type": "SoftwareApplication",
            "name": "vit-sweeps",
            "description": "fine-tunes Vision Transformers by the published protocol",
            "isBasedOn": ORIGINAL,
            "softwareVersion": _version(results),
        },
    ]
    if author is not None:
        root["author"] = {"@id": "#author"}
        entities.append({"@id": "#author", "@type": "Person", "name": author})
    entities += [{"@id": name, "@type": "File", "name": name, "encodingFormat": _format(name)} for name in names]
    for trial in results.trials:
        own = [{"@id": name} for name in names if name.startswith(f"runs/{trial.trial_id}/")]
        action: dict[str, Any] = {
            "@id": f"#{trial.trial_id}",
            "@type": "CreateAction",
            "name": trial.trial_id,
            "instrument": {"@id": "#vit-sweeps"},
            "object": {"@id": f"runs/{trial.trial_id}/config.json"},
            "result": _one_or_all([each for each in own if not each["@id"].endswith("config.json")]),
            "actionStatus": f"http://schema.org/{_STATUSES.get(trial.status, 'ActiveActionStatus')}",
        }
        if author is not None:
            action["agent"] = {"@id": "#author"}
        if trial.attempts:
            action["startTime"] = _date(trial.attempts[0]["time"])
        if trial.result is not None and trial.last_time is not None:
            action["endTime"] = _date(trial.last_time)
        if trial.status == "failed":
            action["error"] = str((trial.result or {}).get("cause"))
        entities.append(action)
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": entities}


_STATUSES = {
    "finished": "CompletedActionStatus",
    "stopped": "CompletedActionStatus",
    "failed": "FailedActionStatus",
}


def _one_or_all(values: list[Any]) -> Any:
    """As JSON-LD wants it: a single value is no array."""
    return values[0] if len(values) == 1 else values


def _version(results: Results) -> str:
    commits = {str(trial.last_attempt["commit"]) for trial in results.trials if trial.last_attempt.get("commit")}
    return ", ".join(sorted(commits)) or "not recorded"


def _format(name: str) -> str:
    known = {".jsonl": "application/jsonl", ".npz": "application/x-npz", ".md": "text/markdown"}
    return known.get(f".{name.rpartition('.')[2]}") or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))
