"""Evidence: a sweep as one file that a stranger can check without this project; and such files from elsewhere.

Command: python sweeps/evidence.py --storage sweep-results --output evidence.zip
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.bundle.merge import merge
from sweeps.bundle.pack import pack, sign
from sweeps.options import SEVERAL
from sweeps.records.unpacked import Packed, note_packed
from sweeps.reporting.write import write_report
from vit_trainer.command_line import TrackingUri, command_of, new_app, run
from vit_trainer.errors import InputError, StoreError, cause_of, one_of, reason_of
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.database import database_of
from vit_trainer.tracking.store import require_store

app = new_app("Packs what a sweep came to, with all that shows it, for anyone to check.", name=command_of("evidence"))


@app.default
def evidence(
    *,
    storage: str = "sweep-results",
    sweep: str | None = None,
    output: Path = Path("evidence.zip"),
    from_bundles: Annotated[tuple[str, ...], SEVERAL] = (),
    sign_with: Path | None = None,
    hash_data: bool = False,
    author: str | None = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Pack every trial that was begun, decisions, labels, figures, environments and the report, with hashes of all.

    Whoever gets the file runs the check_evidence.py in it, which needs Python and NumPy alone.

    Args:
        storage: That of the sweeps: a folder, or a URI such as s3://bucket/folder.
        sweep: Name of one sweep, such as paper_grid-mini, to leave out what others of the storage came to.
        output: The file to write.
        from_bundles: Instead of packing: lay the trials of these files into --storage, where they count as one
            table, beside what is there; a seed that several have counts once, and how far they agree is said.
        sign_with: Private key of ssh-keygen to sign the manifest with.
        hash_data: Whether to read every file of the data sets that are here, for their hashes: once, then it is kept.
        author: Whose name the file has; unless given, nobody's.
        tracking_uri: MLflow server or store whose runs of the sweeps get the root hash as the tag evidence/root; the
            SQLite file in the storage, if there is one, unless given.
    """
    if from_bundles:
        print("\n".join(merge(from_bundles, storage)))
        print(write_report(Storage(storage))[0])
        return
    opened = Storage.existing(storage)
    if sweep is not None and sweep not in opened.sweep_names():
        raise one_of("sweep of this storage", sweep, opened.sweep_names())
    if sign_with is not None and not sign_with.is_file():
        raise InputError(f"sign_with {sign_with} is no file: give a private key that ssh-keygen made")
    packed, complaints = pack(opened, output, sweep, hash_data=hash_data, author=author)
    if sign_with is not None:
        sign(output, sign_with)
    for complaint in complaints:
        print(f"left out: {complaint}", file=sys.stderr)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, root {packed.root}")
    try:
        note_packed(opened, packed)
        write_report(opened, sweep)
    except OSError as error:
        print(f"the storage doesn't know of it, for it can't be written ({reason_of(error)})", file=sys.stderr)
    _tag(opened, packed, tracking_uri)


def _tag(storage: Storage, packed: Packed, tracking_uri: str | None) -> None:
    """Put the root hash on the sweeps' own runs in MLflow; says in a line why that wasn't possible."""
    uri = tracking_uri or storage.tracking_uri
    names = [packed.sweep] if packed.sweep else storage.sweep_names()
    path = database_of(uri)
    if not names or (path is not None and not path.exists()):
        return
    try:
        require_store(uri)
        from vit_trainer.tracking.sync import tag_sweeps

        date = datetime.fromtimestamp(packed.time, UTC).isoformat(timespec="seconds")
        tags = {"evidence/root": packed.root, "evidence/file": packed.file, "evidence/packed": date}
        tag_sweeps(storage, uri, names, tags)
    except Exception as error:  # an outage: the bundle is there all the same
        said = str(error) if isinstance(error, InputError | StoreError) else f"MLflow broke off ({cause_of(error)})"
        print(f"not told of the root hash: {said}", file=sys.stderr)


if __name__ == "__main__":
    run(app)
