"""Facts: what a bundle says beside its run folders: deviations, data, weights, what was compared, the code."""

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweeps.bundle.private import without_secrets
from sweeps.bundle.snapshot import EVALUATIONS
from sweeps.records.results import Results
from sweeps.reporting.origin import deviations, recipes
from vit_trainer.data.datasets import family_of
from vit_trainer.files.schema import json_of
from vit_trainer.files.storage import Storage
from vit_trainer.provenance import commit
from vit_trainer.tracking.catalogue import Catalogue
from vit_trainer.weights.choice import UPSTREAM_DATASETS

PACKAGES = ("vit_trainer", "sweeps")
HERE = Path(__file__).resolve().parents[2]
MAX_DIFF = 1_000_000
"""Characters of a diff that are packed."""


def facts(storage: Storage, results: Results) -> dict[str, Any]:
    """The content of facts.json; storage: a snapshot."""
    weights: dict[str, list[str]] = {}
    for trial in results.trials:
        for attempt in trial.attempts:
            digest = str(attempt.get("weights_sha256") or "random")
            of = weights.setdefault(f"{trial.config['model']} {trial.config['upstream']}", [])
            of += [] if digest in of else [digest]
    datasets = sorted({str(trial.config["dataset"]) for trial in results.trials})
    return {
        "begun": [trial.trial_id for trial in results.trials],
        "not_here": _not_here(storage, results),
        "recipes": recipes(results),
        "datasets": {
            name: {"known_by": family_of(name).origin, **results.data_hashes.get(name, {})} for name in datasets
        },
        "checkpoints": weights,
        "evaluated_before": _evaluations(storage, results),
        "verified": _verified(results),
        "code": _code(results),
        "deviations": deviations(results),
        "left_out": list(results.complaints),
    }


def _not_here(storage: Storage, results: Results) -> list[str]:
    """Trials that sweeps had planned and that haven't begun, or can't be read."""
    names = storage.sweep_names() if results.sweep is None else [results.sweep]
    planned = {trial_id for name in names for trial_id in Catalogue(storage, name).entries}
    unread = set() if results.sweep else set(storage.trial_ids())
    return sorted((planned | unread) - {trial.trial_id for trial in results.trials})


def _evaluations(storage: Storage, results: Results) -> dict[str, Any]:
    """What published checkpoints achieve here with their own heads, by `<model> <data set>`; or why nobody knows it."""
    folder, found, known = storage.folder.child(EVALUATIONS), {}, []
    for name in folder.names():
        with suppress(ValueError, TypeError):
            known.append(dict(json_of(folder.read(name) or b"")))
    for model, dataset in sorted({(str(each.config["model"]), str(each.config["dataset"])) for each in results.trials}):
        own = [each for each in known if (each.get("model"), each.get("dataset")) == (model, dataset)]
        upstreams = [upstream for upstream, of in UPSTREAM_DATASETS.items() if of == dataset]
        command = f"python -m vit_trainer evaluate --model {model} --upstream {(upstreams or [''])[0]} --json "
        not_known = f"not evaluated; {command}STORAGE/{EVALUATIONS}/{model}.json does it"
        found[f"{model} {dataset}"] = own or (not_known if upstreams else "no published checkpoint has a head for it")
    return found


def _verified(results: Results) -> dict[str, list[str]]:
    """By what trials ran on: how many rungs of `verify` held there; nothing where it wasn't run."""
    devices = sorted(
        {str(each["device_name"]) for trial in results.trials for each in trial.attempts if each.get("device_name")}
    )
    return {
        device: sorted(
            {f"{each.outcome} ({each.environment})" for each in results.parity if device in each.environment}
        )
        for device in devices
    }


def _code(results: Results) -> dict[str, Any]:
    """The commits that trials ran, and what a checkout of the packages has beside them at packing."""
    trained_by = sorted({str(attempt.get("commit")) for trial in results.trials for attempt in trial.attempts})
    packed_by = commit()
    is_of_dirty = any(each.endswith("-dirty") for each in trained_by)
    return {
        "trained_by": trained_by,
        "packed_by": packed_by,
        "uncommitted_at_packing": uncommitted(HERE) if packed_by and is_of_dirty else None,
    }


def uncommitted(root: Path) -> str | None:
    """A diff of a checkout's packages to its last commit, new files too; None where git has nothing to say."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with tempfile.TemporaryDirectory() as folder:
        environment["GIT_INDEX_FILE"] = f"{folder}/index"  # new files are said in one of our own

        def git(*arguments: str) -> str:
            command = ["git", "-C", str(root), *arguments]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, errors="replace", timeout=60, env=environment
            )
            return done.stdout

        try:
            git("read-tree", "HEAD")
            git("add", "--intent-to-add", "--", *PACKAGES)
            diff = without_secrets(git("diff", "--no-ext-diff", "HEAD", "--", *PACKAGES))
        except (OSError, subprocess.SubprocessError):
            return None
    return diff if len(diff) <= MAX_DIFF else f"{diff[:MAX_DIFF]}\n… {len(diff) - MAX_DIFF} more characters"
