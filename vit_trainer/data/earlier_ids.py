"""as_known(): a folder of classes under the id that a storage knows it by. Standard library only.

What was begun goes on: by the rules of the version that began it, and whatever the folder is called by now. Where it
has other images than a storage's trials were trained on, it is said how many, by a listing that these left there.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache

from vit_trainer.architectures import MODELS
from vit_trainer.data.class_folders import VERSION, find_class_folders
from vit_trainer.data.datasets import id_and_path, is_folder, listed_folder, resolved, version_of
from vit_trainer.errors import DataError
from vit_trainer.files.schema import json_of
from vit_trainer.files.storage import Storage


def as_known(name: str, storage: Storage, say: Callable[[str], object] = lambda line: None) -> str:
    """A data set's name, with the id that a storage has trials of it under if that isn't its own.

    Args:
        say: is told under which id a folder goes on, or how it has changed.

    Raises:
        DataError: as `dataset_info`.
    """
    if not is_folder(name) or id_and_path(name)[0] is not None:
        return name
    path = resolved(name)
    listed = listed_folder(path)
    known = sorted(_ids_in(storage), key=lambda each: _readable(each) != _readable(listed.id))
    if listed.id in known:
        return path
    for earlier in known:
        if (found := under_id(path, earlier)) is not None:
            rules = (
                ": class names sorted as text, photographs not turned, held-out images and recipe of then; another "
                "--storage begins by the rules of now"
            )
            say(f"{path}: goes on as {earlier}, as it began here{rules if version_of(earlier) == 1 else ''}")
            return found
    if change := _change(listed.id, listed.hashes, known, storage):
        say(f"{path} changed since {change}; what is there of that stays, and {listed.id} begins")
    return path


def under_id(name: str, earlier: str) -> str | None:
    """The name of a data set under an id that it has had; None if that is the id of another."""
    if not is_folder(name):
        return name if name == earlier else None
    path = resolved(id_and_path(name)[1])
    own = _id_by(path, version_of(earlier))
    if own is None or own[-12:] != earlier[-12:]:
        return None
    return path if own == earlier and version_of(earlier) == VERSION else f"{earlier}:{path}"


@lru_cache(maxsize=64)
def _id_by(path: str, version: int) -> str | None:
    """What a folder is called by the rules of a version, if it can be read by these."""
    with suppress(DataError):
        return find_class_folders(path, version=1).contents_id({}) if version == 1 else listed_folder(path).id
    return None


def _change(now: str, hashes: Mapping[str, str], known: Iterable[str], storage: Storage) -> str | None:
    """Since which id a folder has changed, and how: of the nearest that share half of their images, or its name."""
    changes = list[tuple[int, str]]()
    for earlier in known:
        before = _listing(earlier, storage)
        same = len(before.items() & hashes.items())
        if _readable(earlier) == _readable(now) or 2 * same > min(len(before), len(hashes)):
            changed = len(before.keys() & hashes.keys()) - same
            added, removed = len(hashes) - same - changed, len(before) - same - changed
            how = f"{added} added, {removed} removed, {changed} changed" if before else "nobody knows what"
            changes.append((same, f"{earlier}: {how}"))
    return max(changes)[1] if changes else None


def _ids_in(storage: Storage) -> set[str]:
    """What folders of classes are called in the ids of a storage's trials, as far as these tell where a name begins."""
    form = re.compile(r"(.+-[0-9a-f]{12})-d[\d.e-]+-lr.+-s\d+-[0-9a-f]{6}")
    models = sorted(MODELS, key=len)  # of ViT-B_16 and ViT-B_16-mini the longer one is meant
    named = ((each, [name for name in models if each.startswith(f"{name}-")]) for each in storage.trial_ids())
    parts = (each.removeprefix(f"{names[-1]}-") for each, names in named if names)
    return {match[1] for part in parts if (match := form.fullmatch(part))}


def _readable(folder_id: str) -> str:
    return re.sub(r"(-v\d+)?-[0-9a-f]{12}$", "", folder_id)


def _listing(folder_id: str, storage: Storage) -> dict[str, str]:
    """By path what each image was known by; empty where that wasn't kept, or is damaged."""
    with suppress(OSError, EOFError, ValueError, zlib.error, AttributeError):
        return dict(json_of(gzip.decompress(storage.listings.read(f"{folder_id}.json.gz") or b"")).items())
    return {}


def keep_listing(name: str, storage: Storage) -> None:
    """Leave in a storage what is in a folder of classes, for `as_known`."""
    if not is_folder(name) or not (listed := listed_folder(name)).hashes:
        return
    if storage.listings.read(file := f"{listed.id}.json.gz") is None:
        storage.listings.write(file, gzip.compress(json.dumps(listed.hashes).encode(), mtime=0))
