"""Evidence: a sweep as one file that a stranger can check without this project; and such files from elsewhere.

Command: python sweeps/evidence.py --storage sweep-results --output evidence.zip
"""

import sys
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.bundle.merge import merge
from sweeps.bundle.pack import pack, sign
from sweeps.options import SEVERAL
from sweeps.reporting.write import write_report
from vit_trainer.command_line import command_of, new_app, run
from vit_trainer.errors import InputError, one_of
from vit_trainer.files.storage import Storage

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
    root = pack(opened, output, sweep, hash_data=hash_data, author=author)
    if sign_with is not None:
        sign(output, sign_with)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, root {root}")


if __name__ == "__main__":
    run(app)
