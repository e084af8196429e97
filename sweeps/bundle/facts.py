"""Facts: what a bundle says beside its run folders: deviations, data, weights, the code, what official recipes are."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sweeps.records.results import Results
from sweeps.records.trial_record import TrialRecord
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import data_folder, family_of
from vit_trainer.errors import InputError
from vit_trainer.files.outgoing import hide_secrets
from vit_trainer.files.schema import json_of
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.catalogue import Catalogue
from vit_trainer.weights.npz_files import file_sha256

HASHES = "data-hashes.json"
"""In a storage: hashes of data sets, which take long."""
BY_DECISION = (
    "The held-out validation images (2% of CIFAR's training images, 1% of ImageNet's) are chosen by a hash of seed 0; "
    "tensorflow_datasets chose the official ones.",
    "The order of images, crops and flips come from Philox streams of (seed, step), not from TensorFlow's.",
    "Dropout masks come from the same streams, not from JAX's threefry.",
    "Test accuracy counts every image once; the official evaluation leaves out the rest of its last batch.",
    "The learning rate is chosen on the validation images where several were tried; official figures have fixed ones.",
)
"""What differs from the official protocol in every run of this project."""


def facts(storage: Storage, results: Results, *, hash_data: bool = False) -> dict[str, Any]:
    """The content of facts.json.

    Args:
        hash_data: whether to read every file of the data sets that are here.
    """
    datasets = sorted({str(trial.config["dataset"]) for trial in results.trials})
    recipes = {}
    for trial in results.trials:
        try:
            official = FinetuneConfig.official(trial.config["model"], trial.config["dataset"]).to_dict()
        except InputError:
            continue  # a folder of classes by its id
        recipes[f"{trial.config['model']} {trial.config['dataset']}"] = official
    weights: dict[str, list[str]] = {}
    for trial in results.trials:
        for attempt in trial.attempts:
            digest = str(attempt.get("weights_sha256") or "random")
            of = weights.setdefault(f"{trial.config['model']} {trial.config['upstream']}", [])
            of += [] if digest in of else [digest]
    return {
        "begun": [trial.trial_id for trial in results.trials],
        "not_here": _not_here(storage, results),
        "recipes": recipes,
        "datasets": {name: _dataset(storage, name, hash_data=hash_data) for name in datasets},
        "checkpoints": weights,
        "code": _code(results),
        "deviations": [*BY_DECISION, *_own_deviations(results, recipes), *_by_hardware(results.trials)],
        "left_out": list(results.complaints),
    }


def _not_here(storage: Storage, results: Results) -> list[str]:
    """Trials that sweeps had planned and that haven't begun, or can't be read."""
    names = storage.sweep_names() if results.sweep is None else [results.sweep]
    planned = {trial_id for name in names for trial_id in Catalogue(storage, name).entries}
    return sorted(planned - {trial.trial_id for trial in results.trials})


def _own_deviations(results: Results, recipes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What cells' values are others than the official recipe's, besides what the table varies."""
    said: dict[str, int] = {}
    for trial in results.trials:
        official = recipes.get(f"{trial.config['model']} {trial.config['dataset']}", {})
        for name, value in official.items():
            if name not in ("dropout", "seed", "base_lr") and trial.config.get(name) != value:
                line = f"{name} is {trial.config.get(name)} where the official recipe has {value}"
                said[line] = said.get(line, 0) + 1
    return [f"{line}, in {count} of {len(results.trials)} trials." for line, count in said.items()]


def _by_hardware(trials: Iterable[TrialRecord]) -> list[str]:
    """What machines made different: number formats, kernels, processes, faults."""
    found: dict[str, int] = {}
    for trial in trials:
        last = trial.last_attempt
        if not last:
            continue
        lines = [f"matrix products in {last.get('precision', 'a precision that was not recorded')}, weights in float32"]
        lines += [f"on {last.get('num_processes', 1)} x {last.get('device_name') or last.get('device')}"]
        lines += ["the model compiled by PyTorch"] if last.get("compiled") else []
        lines += [f"attention by {last['attention_backend']}"] if last.get("attention_backend") else []
        lines += ["kernels that need not give the same bits twice"] if last.get("deterministic") is False else []
        lines += ["gone on with after a pause or a fault"] if len(trial.attempts) > 1 else []
        for line in lines:
            found[line] = found.get(line, 0) + 1
    return [f"{line[0].upper()}{line[1:]}: {count} trials." for line, count in found.items()]


def _code(results: Results) -> dict[str, Any]:
    """The commits that trials ran, and what the tree had beside that, where this is a checkout of it."""
    commits = sorted({str(attempt.get("commit")) for trial in results.trials for attempt in trial.attempts})
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here), *arguments]
        try:
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError):
            return None

    diff = git("diff", "HEAD") if any(commit.endswith("-dirty") for commit in commits) else None
    packed_by = (git("rev-parse", "HEAD") or "").strip() or None
    return {"trained_by": commits, "packed_by": packed_by, "uncommitted_at_packing": diff and hide_secrets(diff)}


def _dataset(storage: Storage, name: str, *, hash_data: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"known_by": family_of(name).origin}
    root = data_folder() / name
    if hash_data and root.is_dir():
        found |= _tree_hash(storage, name, root)
    return found


def _tree_hash(storage: Storage, name: str, root: Path) -> dict[str, Any]:
    """SHA-256 of a folder's files, of the lines of `sha256sum` in the order of their names; kept with their sizes."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    stamp = hashlib.sha256(repr([(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]).encode()).hexdigest()
    try:
        kept = {key: dict(values) for key, values in json_of(storage.folder.read(HASHES) or b"{}").items()}
    except (OSError, ValueError, TypeError, AttributeError):
        kept = {}  # damaged: hashed again
    if kept.get(name, {}).get("stamp") != stamp:
        digest = hashlib.sha256()
        for i, path in enumerate(paths):
            if i % 10_000 == 0:
                print(f"hashing {name}: {i} of {len(paths)} files", file=sys.stderr)
            digest.update(f"{file_sha256(path)}  {path.relative_to(root).as_posix()}\n".encode())
        kept[name] = {"stamp": stamp, "sha256": digest.hexdigest(), "num_files": len(paths)}
        storage.folder.write(HASHES, json.dumps(kept).encode())
    return {"sha256": kept[name]["sha256"], "num_files": kept[name]["num_files"]}
