"""fetch(): official checkpoints from the web, a mirror or a folder into the cache. Imports no torch."""

from pathlib import Path

from vit_trainer.errors import InputError, one_of
from vit_trainer.files.download import Check, Watcher, address_of, download
from vit_trainer.files.folder import write_atomically
from vit_trainer.weights.npz_files import (
    OFFICIAL_SOURCE,
    RELEASED,
    check_checkpoint,
    check_whole,
    checkpoint_path,
    file_sha256,
    released_name,
    require_released,
)

SHARED = ("ViT-B_16", "ViT-B_32", "ViT-L_16")
"""Of which AugReg (https://arxiv.org/abs/2106.10270) has files with the same arrays as imagenet21k+imagenet2012."""


def fetch(model: str, upstream: str, *, watcher: Watcher, source: str | None = None) -> tuple[Path, bool]:
    """Have a model's official file in the cache folder: checked, whole, downloaded once for all who ask.

    Args:
        model: a key of MODELS.
        upstream: a key of RELEASED.
        source: a mirror of `OFFICIAL_SOURCE` as an address, a bucket's URI or a folder, or the .npz file itself.

    Returns:
        Where the file lies, and whether it had to be downloaded.

    Raises:
        InputError: no such file was released.
        CheckpointError: the file at the source is damaged or another model's; it isn't put in place.
        DownloadError: the source can't be reached; says which file to put where.
    """
    require_upstream(model, upstream, source)
    path = checkpoint_path(model, upstream)
    address = file_address(OFFICIAL_SOURCE if source is None else source, model, upstream)
    downloaded = download(address, path, check=check_of(model, upstream), watcher=watcher)
    if downloaded and address.startswith(f"{OFFICIAL_SOURCE}/"):
        write_atomically(_known_hash(path), file_sha256(path).encode())
    return path, downloaded


def require_upstream(model: str, upstream: str, source: str | None = None) -> None:
    """Raise InputError if there can be no such file, at the source or (None) as it was released."""
    if upstream not in RELEASED:
        raise one_of("upstream to fetch", upstream, list(RELEASED))
    if source is None and model not in RELEASED[upstream]:
        raise InputError(f"no {upstream} file of {model} was released; valid: {', '.join(RELEASED[upstream])}")


def check_of(model: str, upstream: str) -> Check:
    """What decides whether a file is a model's official one: every byte of it is read."""

    def check(path: Path, name: str) -> None:
        check_checkpoint(path, model, source=name)
        check_whole(path, source=name)
        require_released(path, model, upstream, source=name)

    return check


def doubt_of(model: str, upstream: str) -> str | None:
    """What to say of a file whose arrays AugReg's has too, unless `fetch` had it from its authors' address.

    Raises:
        CheckpointError: the file isn't there.
    """
    if model not in SHARED or not upstream.startswith("imagenet21k+"):
        return None
    path = checkpoint_path(model, upstream)
    own, known = file_sha256(path), _known_hash(path)
    if known.is_file() and known.read_text() == own:
        return None
    return (
        f"{path} (SHA-256 {own[:12]}) may be another than the released {upstream} file, since AugReg's has the same "
        f"arrays: to be sure, move it away and run python -m vit_trainer fetch {model} --upstream {upstream}"
    )


def _known_hash(path: Path) -> Path:
    """Where the SHA-256 of a file stands that came from its authors' address."""
    return path.with_name(f"{path.name}.sha256")


def file_address(source: str, model: str, upstream: str) -> str:
    """Where a model's file is at a source.

    >>> file_address(OFFICIAL_SOURCE, "R50+ViT-B_16", "imagenet21k")
    'https://storage.googleapis.com/vit_models/imagenet21k/R50%2BViT-B_16.npz'
    """
    return source if source.endswith(".npz") else address_of(source, *released_name(model, upstream))
