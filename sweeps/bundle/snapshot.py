"""Snapshot: what of a storage goes into a bundle, as of one moment, without what is private."""

import hashlib
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from sweeps.bundle.private import Private
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.predictions import Predictions
from vit_trainer.files.run_dir import CONFIG, ENVIRONMENTS, JOURNAL, PREDICTIONS, RESULT
from vit_trainer.files.storage import COMMANDS, DECISIONS, PARITY, PROBES, SLOTS, TRACKING, Storage, in_parallel
from vit_trainer.tracking.catalogue import Catalogue

SWEEP_FILES = (COMMANDS, DECISIONS, SLOTS, PARITY, TRACKING)
REPEATS = "repeats"
"""In a storage: trials that a second site ran too, a folder for each bundle."""
EVALUATIONS = "evaluations"
"""In a storage: what `python -m vit_trainer evaluate --json` said of published checkpoints."""
NUM_TRIES = 5
"""How often a storage is read in which sweeps go on."""
Files = dict[str, bytes]


def snapshot(storage: Storage, sweep: str | None, into: Path) -> tuple[Storage, list[str]]:
    """Copy what a bundle is made of to a local folder.

    Results are read before journals, and all of it again if a sweep wrote meanwhile.

    Returns:
        The copy, and what could not be read, a line each.

    Raises:
        OSError: the storage can't be read.
    """
    for _ in range(NUM_TRIES):
        names = [sweep] if sweep else storage.sweep_names()
        sweeps = _sweep_files(storage, names)
        own = None if sweep is None else Catalogue(storage, sweep).entries
        ids = [trial_id for trial_id in storage.trial_ids() if own is None or trial_id in own]
        found = dict(zip(ids, in_parallel(lambda trial_id: _trial(storage, trial_id), ids), strict=True))
        if _sweep_files(storage, [sweep] if sweep else storage.sweep_names()) == sweeps:
            break
    else:
        print("a sweep is going on here: pack again once it has ended", file=sys.stderr)
    complaints = [each for each in found.values() if isinstance(each, str)]
    runs = {trial_id: each for trial_id, each in found.items() if not isinstance(each, str)}
    others = _others(storage)
    place = PurePosixPath(urlsplit(storage.location).path).name
    texts = [content for files in (*runs.values(), sweeps, others) for content in files.values()]
    private = Private(texts, {storage.location: place, **_folders(storage, names)})
    copy = into / (place or "storage")

    def write(name: str, content: bytes) -> None:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)

    for trial_id, files in runs.items():
        for name in sorted(files, key=lambda name: not name.startswith(ENVIRONMENTS)):  # journals name these
            content = files[name]
            if name == PREDICTIONS:
                try:
                    Predictions.from_bytes(content)
                except InputError as error:
                    complaints.append(f"runs/{trial_id}/{name}: {error}")
                    continue
            elif name != CONFIG:  # whose hash is the trial's id
                content = private.content(name, content)
            if name.startswith(ENVIRONMENTS):
                digest = hashlib.sha256(content).hexdigest()[:16]
                private.environments[Path(name).stem] = digest
                write(f"runs/{trial_id}/{ENVIRONMENTS}/{digest}.json", content)
            else:
                write(f"runs/{trial_id}/{name}", content)
    for name, content in {**sweeps, **others}.items():
        write(name, content if name.endswith(f"/{CONFIG}") else private.content(name, content))
    return Storage(copy), complaints


def _sweep_files(storage: Storage, names: Iterable[str]) -> Files:
    found: Files = {}
    for sweep in names:
        for name in SWEEP_FILES:
            try:
                if content := storage.sweep(sweep).read(name):
                    found[f"sweeps/{sweep}/{name}"] = content
            except (NotADirectoryError, IsADirectoryError):
                continue  # named among what is damaged
    return found


def _others(storage: Storage) -> Files:
    """What else there is, but for what is no file."""
    found, names = Files(), [PROBES]
    names += [f"{EVALUATIONS}/{each}" for each in storage.folder.child(EVALUATIONS).names() if each.endswith(".json")]
    repeated = storage.folder.child(REPEATS).stamps()
    names += [f"{REPEATS}/{each}" for each in repeated if each.endswith((CONFIG, JOURNAL, RESULT))]
    for name in names:
        with suppress(IsADirectoryError):
            if content := storage.folder.read(name):
                found[name] = content
    return found


def _trial(storage: Storage, trial_id: str) -> Files | str:
    """A trial's files, or why they can't be read. One without a result has no predictions that count."""
    folder, found = storage.run_dir(trial_id).folder, Files()
    try:
        for name in (RESULT, JOURNAL, CONFIG, PREDICTIONS):
            if (name != PREDICTIONS or RESULT in found) and (content := folder.read(name)) is not None:
                found[name] = content
        for name in folder.child(ENVIRONMENTS).names():
            found[f"{ENVIRONMENTS}/{name}"] = folder.read(f"{ENVIRONMENTS}/{name}") or b""
    except NotADirectoryError:
        return Files()
    except OSError as error:
        return f"runs/{trial_id} cannot be read ({reason_of(error)})"
    return found


def _folders(storage: Storage, sweeps: Iterable[str]) -> dict[str, str]:
    """The ids of folders of classes by the paths that sweeps were given."""
    memberships = [each for name in sweeps for each in Catalogue(storage, name).entries.values()]
    pairs = ((each.tags.get("dataset", ""), each.params.get("dataset", "")) for each in memberships)
    return {path: folder_id for path, folder_id in pairs if "/" in path and folder_id and "/" not in folder_id}
