"""Pack: everything that a sweep or a storage has, in one zip file with a manifest of SHA-256 hashes."""

import hashlib
import io
import json
import os
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from sweeps.bundle.crate import CRATE, crate
from sweeps.bundle.data_hashes import hash_data as hash_files
from sweeps.bundle.facts import facts
from sweeps.bundle.snapshot import EVALUATIONS, REPEATS, snapshot
from sweeps.records.results import Results, gather
from sweeps.records.unpacked import MANIFEST, Packed, read_data_hashes, root_of
from sweeps.reporting.write import files_of
from sweeps.table.published import PUBLISHED
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.predictions import Predictions
from vit_trainer.files.run_dir import CONFIG, ENVIRONMENTS, JOURNAL, PREDICTIONS, RESULT
from vit_trainer.files.storage import DATA_HASHES, Storage

FACTS, CHECKER = "facts.json", "check_evidence.py"
TIME = (1980, 1, 1, 0, 0, 0)
"""The date of every file inside, so that the same storage makes the same zip."""
README = """# Evidence

Unzip, and run `python check_evidence.py`: it needs Python and NumPy, no network and nothing of the project that made
this. It computes again every accuracy, choice, decision and verdict from predictions, labels and journals, and prints
a line for each claim. It is one file that can be read first. `report/report.html` is the report that it checks.

Files are as the runs left them, but for what is nobody's business: folders are `...`, hosts have the hashes of their
names, secrets are `***`.
"""


def pack(
    storage: Storage, output: Path, sweep: str | None = None, *, hash_data: bool = False, author: str | None = None
) -> tuple[Packed, tuple[str, ...]]:
    """Write the evidence of a storage, or of one of its sweeps; the file appears whole or not at all.

    Args:
        hash_data: whether to read every file of the data sets that are here, for their hashes.
        author: who ran all this.

    Returns:
        What to note of it, and what could not be read and is left out, a line each.

    Raises:
        InputError: nothing was begun, the storage can't be read, or the file can't be written.
    """
    output = output.absolute()
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    with tempfile.TemporaryDirectory(prefix="evidence-") as folder:
        taken, complaints = snapshot(storage, sweep, Path(folder))
        results = gather(taken, sweep)
        if not results.trials:
            raise InputError(f"no trial has begun in {storage.location}: give the --storage of a sweep that has")
        if hash_data:
            hash_files(storage, sorted({str(trial.config["dataset"]) for trial in results.trials}))
            taken.folder.write(DATA_HASHES, storage.folder.read(DATA_HASHES) or b"{}")
            results = replace(results, data_hashes=read_data_hashes(taken))
        results = replace(results, complaints=(*complaints, *results.complaints))
        hashes: dict[str, str] = {}
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:

                def write(name: str, content: bytes) -> None:
                    if name not in hashes:  # else the same environment of another trial
                        hashes[name] = hashlib.sha256(content).hexdigest()
                        archive.writestr(zipfile.ZipInfo(name, TIME), content, zipfile.ZIP_DEFLATED)

                for name, content in _files(taken, results):
                    write(name, content)
                write(CRATE, json.dumps(crate(results, list(hashes), author), indent=1).encode())
                root = root_of(hashes)
                manifest = {"format": 1, "files": dict(hashes), "root": root}
                write(MANIFEST, json.dumps(manifest, indent=1).encode())
            temporary.replace(output)
        except OSError as error:
            raise InputError(f"cannot write {output} ({reason_of(error)}): give another --output") from error
        finally:
            with suppress(OSError):
                temporary.unlink()
    return Packed(time.time(), root, output.name, len(results.trials), sweep), results.complaints


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
                    f"cannot sign with {key} ({said[-1] if said else error}): give --sign-with a key"
                ) from error
            archive.writestr(zipfile.ZipInfo(f"{MANIFEST}.sig", TIME), manifest.with_suffix(".json.sig").read_bytes())


def _files(storage: Storage, results: Results) -> Iterator[tuple[str, bytes]]:
    """Each file's name and content, but the crate's and the manifest; storage: a snapshot."""
    here = Path(__file__).parent
    yield "README.md", README.encode()
    yield CHECKER, (here / CHECKER).read_bytes()
    kept: dict[str, bytes] = {}
    for trial in results.trials:
        folder = storage.run_dir(trial.trial_id).folder
        for name in (CONFIG, JOURNAL, RESULT, PREDICTIONS):
            if (content := folder.read(name)) is None:
                continue
            yield f"runs/{trial.trial_id}/{name}", content
            if name == PREDICTIONS:
                kept.setdefault(str(trial.config["dataset"]), content)
        for name in folder.child(ENVIRONMENTS).names():
            yield f"{ENVIRONMENTS}/{name}", folder.read(f"{ENVIRONMENTS}/{name}") or b""
    for top in ("sweeps", REPEATS, EVALUATIONS):
        for name in storage.folder.child(top).stamps():
            yield f"{top}/{name}", storage.folder.read(f"{top}/{name}") or b""
    for path in sorted(PUBLISHED.glob("*.csv")):
        yield f"published/{path.name}", path.read_bytes()
    for dataset, content in kept.items():
        yield f"labels/{dataset}.npz", _labels(Predictions.from_bytes(content))
    yield FACTS, (json.dumps(facts(storage, results), indent=1) + "\n").encode()
    place, name_of_place = results.location.encode(), PurePosixPath(results.location).name.encode()
    for name, content in files_of(results).items():
        yield f"report/{name}", content if name.endswith(".png") else content.replace(place, name_of_place)


def _labels(predictions: Predictions) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, labels=predictions.labels, names=predictions.names)
    return file.getvalue()
