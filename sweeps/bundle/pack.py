"""Pack: everything that a sweep or a storage has, in one zip file with a manifest of SHA-256 hashes."""

import hashlib
import io
import json
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from sweeps.bundle.checklist import checklist
from sweeps.bundle.crate import CRATE, crate
from sweeps.bundle.facts import facts
from sweeps.records.results import Results, gather
from sweeps.records.unpacked import MANIFEST, root_of
from sweeps.reporting.write import files_of
from sweeps.table.published import PUBLISHED
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.predictions import Predictions
from vit_trainer.files.run_dir import CONFIG, ENVIRONMENTS, JOURNAL, PREDICTIONS, RESULT
from vit_trainer.files.storage import COMMANDS, DECISIONS, PARITY, SLOTS, TRACKING, Storage

FACTS, CHECKER = "facts.json", "check_evidence.py"
TIME = (1980, 1, 1, 0, 0, 0)
"""The date of every file inside, so that the same storage makes the same zip."""
README = """# Evidence

Unzip, and run `python check_evidence.py`: it needs Python and NumPy, no network and nothing of the project that made
this. It computes again every accuracy, choice, decision and verdict from predictions, labels and journals, and prints
a line for each claim. It is one file that can be read first. `report/report.html` is the report that it checks.
"""


def pack(
    storage: Storage, output: Path, sweep: str | None = None, *, hash_data: bool = False, author: str | None = None
) -> str:
    """Write the evidence of a storage, or of one of its sweeps; returns the manifest's root hash.

    The file appears whole or not at all.

    Args:
        hash_data: whether to read every file of the data sets that are here, for their hashes.
        author: who ran all this.

    Raises:
        InputError: nothing was begun, or the file can't be written.
    """
    results = gather(storage, sweep)
    if not results.trials:
        raise InputError(f"no trial has begun in {storage.location}: give the --storage of a sweep that has")
    hashes: dict[str, str] = {}
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in _files(storage, results, sweep, hash_data=hash_data):
                if name in hashes:
                    continue  # the same environment of another trial
                hashes[name] = hashlib.sha256(content).hexdigest()
                archive.writestr(zipfile.ZipInfo(name, TIME), content, zipfile.ZIP_DEFLATED)
            crate_file = json.dumps(crate(results, list(hashes), author), indent=1).encode()
            hashes[CRATE] = hashlib.sha256(crate_file).hexdigest()
            archive.writestr(zipfile.ZipInfo(CRATE, TIME), crate_file, zipfile.ZIP_DEFLATED)
            manifest = {"format": 1, "files": hashes, "root": root_of(hashes)}
            archive.writestr(zipfile.ZipInfo(MANIFEST, TIME), json.dumps(manifest, indent=1), zipfile.ZIP_DEFLATED)
        temporary.replace(output)
    except OSError as error:
        raise InputError(f"cannot write {output} ({reason_of(error)}): give another --output") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return str(manifest["root"])


def sign(bundle: Path, key: Path) -> None:
    """Add a signature of the manifest, by a key of one's own that `ssh-keygen` made.

    Raises:
        InputError: ssh-keygen isn't here, or refuses the key.
    """
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / MANIFEST
        with zipfile.ZipFile(bundle, "a") as archive:
            manifest.write_bytes(archive.read(MANIFEST))
            command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", "evidence", str(manifest)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            except (OSError, subprocess.SubprocessError) as error:
                said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
                raise InputError(
                    f"cannot sign with {key} ({said[-1] if said else error}): give --sign a key"
                ) from error
            archive.writestr(zipfile.ZipInfo(f"{MANIFEST}.sig", TIME), manifest.with_suffix(".json.sig").read_bytes())


def _files(storage: Storage, results: Results, sweep: str | None, *, hash_data: bool) -> Iterator[tuple[str, bytes]]:
    """Each file's name and content, but the crate's and the manifest."""
    here = Path(__file__).parent
    yield "README.md", README.encode()
    yield CHECKER, (here / CHECKER).read_bytes()
    kept: dict[str, bytes] = {}
    for trial in results.trials:
        folder = storage.run_dir(trial.trial_id).folder
        for name in (CONFIG, JOURNAL, RESULT, PREDICTIONS):
            content = folder.read(name)
            if content is None:
                continue
            yield f"runs/{trial.trial_id}/{name}", content
            if name == PREDICTIONS:
                kept.setdefault(str(trial.config["dataset"]), content)
        for name in folder.child(ENVIRONMENTS).names():
            yield f"{ENVIRONMENTS}/{name}", folder.read(f"{ENVIRONMENTS}/{name}") or b""
    for name in [sweep] if sweep else storage.sweep_names():
        for file in (COMMANDS, DECISIONS, SLOTS, PARITY, TRACKING):
            if content := storage.sweep(name).read(file):
                yield f"sweeps/{name}/{file}", content
    for path in sorted(PUBLISHED.glob("*.csv")):
        yield f"published/{path.name}", path.read_bytes()
    for dataset, content in kept.items():
        yield f"labels/{dataset}.npz", _labels(Predictions.from_bytes(content))
    known = facts(storage, results, hash_data=hash_data)
    yield FACTS, (json.dumps(known, indent=1) + "\n").encode()
    yield "checklist.md", checklist(results, known).encode()
    place, name_of_place = results.location.encode(), PurePosixPath(urlsplit(results.location).path).name.encode()
    for name, content in files_of(results).items():  # where it lies is nobody's business
        yield f"report/{name}", content if name.endswith(".png") else content.replace(place, name_of_place)


def _labels(predictions: Predictions) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, labels=predictions.labels, names=predictions.names)
    return file.getvalue()
