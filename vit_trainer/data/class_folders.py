"""ClassFolders: which images lie in a folder of classes, from its listing or, if it is packed, its index alone.

    root/train/<class>/<image>     root/val/<class>/<image>     root/test/<class>/<image>

`val` or `test` must be there too. If both are, they are what they say. With one of them, that one is the test part
(as ImageNet's val/ is), and validation is held out from train. Classes are numbered in the order of their names, in
which 2 comes before 10. Names that begin with a dot and files that are no images are passed over. Of a packed folder,
see `shards`, the same is known from its index.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

from vit_trainer.data.shards.packed import Packed, open_packed
from vit_trainer.errors import DataError, counted, reason_of
from vit_trainer.files.location import is_uri, local_path

FIRST_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".bmp", ".webp"})
IMAGE_SUFFIXES = FIRST_SUFFIXES | {".jfif", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"}
"""What an image's name ends with, in lower case. What is inside decides how it is decoded."""
VERSION = 2
"""By which rules a folder is read; an id says which. Version 1, which is ImageNet's too: class names as text, so 10
before 2; only `FIRST_SUFFIXES`, and no folders in those of classes; images not turned, see `decoding`; an id from names
and sizes alone; whatever the size, 2% are held out, and the recipe is CIFAR's."""
HELD_OUT_PERCENT = 2
"""Share of train that is held out as validation at least where a folder has no part for it."""
MOST_HELD_OUT_PERCENT = 20
"""Share that is held out at most."""
HELD_OUT_IMAGES = 200
"""Images that are held out unless that is less than the one share, or more than the other."""

_OF_SYSTEMS = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""What systems leave in folders, beside names that begin with a dot; in lower case."""
_LAYOUT = "put train/ and val/ (or test/) there, each with a folder of images per class"

_Place = tuple[int, int]
"""Where a folder lies, whatever links lead there: device and inode."""


@dataclass(frozen=True)
class ClassFolders:
    """The listing of a folder of classes."""

    root: Path
    classes: tuple[str, ...]
    """Names of the class folders, in the order of their labels."""
    files: Mapping[str, tuple[tuple[str, ...], ...]]
    """`train` and the other parts that are used: per class, the names of its images, sorted."""
    version: int = VERSION
    """By which rules it is read."""
    passed_over: str = ""
    """What lies there and is no image, in words."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Path and reason of what can't be looked into, such as a link that leads nowhere; no part of `files`."""
    packed: Packed | None = None
    """The shards that the images are in."""

    @property
    def place(self) -> str:
        """Where the images are: a path or a URI."""
        return self.packed.place if self.packed else str(self.root)

    @property
    def validation(self) -> str:
        """The part that validation images come from: `val`, or `train` where they have to be held out."""
        return "val" if len(self.files) == 3 else "train"

    @property
    def test(self) -> str:
        """The part that test images come from."""
        return "test" if "test" in self.files else "val"

    @property
    def held_out_percent(self) -> int | None:
        """What `held_out_per_class` is to hold out of train where validation has to be."""
        return HELD_OUT_PERCENT if self.version == 1 else None

    def counts(self, part: str) -> list[int]:
        """Images per class."""
        return [len(names) for names in self.files[part]]

    def paths(self, part: str) -> list[str]:
        """Every image of a part, relative to the root, class after class."""
        return [
            f"{part}/{name}/{file}"
            for name, files in zip(self.classes, self.files[part], strict=True)
            for file in files
        ]

    def contents_id(self, hashes: Mapping[str, str]) -> str:
        """The folder's own name, the version unless it is the first, and 12 hex digits from its contents.

        From the path of every image in it, with the hash of a sample of it; of version 1 with its size, which two
        different JPEGs of one name hardly ever share.

        Args:
            hashes: as from `sample_files`; version 1 has no need of any.
        """
        digest = hashlib.sha256()
        size_of: Callable[[str], int] = self._size_of
        if self.packed and self.version == 1:
            size_of = self.packed.by_path(self.packed.index.sizes).__getitem__
        for part in sorted(self.files):
            for path in self.paths(part):
                known_by = size_of(path) if self.version == 1 else hashes.get(path)
                digest.update(f"{path}\0{known_by}\0".encode(errors="surrogateescape"))
        readable = re.sub(
            r"[^A-Za-z0-9._-]+", "_", self.packed.header.name if self.packed else self.root.resolve().name
        )
        return f"{readable}{'' if self.version == 1 else f'-v{self.version}'}-{digest.hexdigest()[:12]}"

    def _size_of(self, path: str) -> int:
        try:
            status = os.stat(f"{self.root}/{path}")
        except OSError as error:
            raise DataError(f"cannot read {self.root}/{path} ({reason_of(error)}): take it away") from error
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise DataError(f"{self.root}/{path} is a device or pipe, whose end may never come: take it away")
        return status.st_size


class Walk:
    """Looks into folders, and takes note of what there is no image."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._passed_over: Counter[tuple[str, str]] = Counter()
        self.unreadable: dict[str, str] = {}

    def look(self, folder: str, above: frozenset[_Place]) -> tuple[dict[str, str], list[str]]:
        """Paths of the folders in a folder by name, and names of its files.

        above: what it lies in, and itself.
        """
        folders, files = dict[str, str](), list[str]()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _OF_SYSTEMS:
                    continue
                try:
                    is_folder = entry.is_dir()
                    if entry.is_symlink() and _place_of(entry.path) in above:  # raises where a link leads nowhere
                        raise OSError("it lies in that folder")
                    if not (is_folder or entry.is_file()):
                        raise OSError("a device or pipe, whose end may never come")
                except OSError as error:
                    link = f"a link to {os.readlink(entry.path)}: " if entry.is_symlink() else ""
                    self.unreadable[os.path.relpath(entry.path, self._root)] = link + reason_of(error)
                    continue
                if is_folder:
                    folders[entry.name] = entry.path
                else:
                    files.append(entry.name)
        return folders, files

    def images(self, folder: str, above: frozenset[_Place], within: str = "") -> Iterator[str]:
        """Every image in a folder and in its folders, by its path in it."""
        above |= {_place_of(folder)}
        folders, files = self.look(folder, above)
        images = [name for name in files if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        self.pass_over(folder, set(files).difference(images))
        yield from (within + name for name in images)
        for name, path in folders.items():
            yield from self.images(path, above, f"{within}{name}/")

    def pass_over(self, folder: str, names: Iterable[str]) -> None:
        """Take note of files that are no images."""
        self._passed_over.update((folder, os.path.splitext(name)[1].lower() or "no suffix") for name in names)

    @property
    def passed_over(self) -> str:
        """What was, in words: `5 files in 1 folder: .psd, .txt`."""
        files, folders = self._passed_over.total(), len({folder for folder, _ in self._passed_over})
        suffixes = sorted({suffix for _, suffix in self._passed_over})
        more = f" and {len(suffixes) - 5} other kinds" if len(suffixes) > 5 else ""
        counts = f"{counted(files, 'file')} in {counted(folders, 'folder')}"
        return f"{counts}: {', '.join(suffixes[:5])}{more}" if files else ""


def find_class_folders(root: Path | str, test: str | None = None, version: int = VERSION) -> ClassFolders:
    """List a folder of classes.

    Args:
        root: its path, or the URI of a packed one.
        test: the only part to use beside `train`; unless given, whichever of `val` and `test` are there.
        version: by which rules.

    Raises:
        DataError: a part is missing or without classes, a class without images, there are fewer than two classes, or
            the parts differ in them.
    """
    if not is_uri(str(root)):
        root = local_path(root, "dataset")
        if not root.is_dir():
            raise DataError(f"no folder of classes at {root}: {_LAYOUT}")
    packed = open_packed(str(root))
    root = packed.folder if packed else Path(root)
    has_part = packed.header.num_images.__contains__ if packed else lambda part: (root / part).is_dir()
    others = [part for part in ("val", "test") if (test is None or part == test) and has_part(part)]
    if not has_part("train") or not others:
        missing = " or ".join(f"{part}/" for part in ((test,) if test else ("val", "test")))
        raise DataError(f"no {missing if has_part('train') else 'train/'} in {root}: {_LAYOUT}")
    walk = Walk(root)
    try:
        if packed:
            listed = packed.listed(("train", *others), _is_of_first_version if version == 1 else lambda file: True)
        else:
            listed = {part: _list_part(root / part, version, walk) for part in ("train", *others)}
    except OSError as error:
        raise DataError(f"cannot list {error.filename}: {reason_of(error)}; make it readable") from error
    classes = sorted(listed["train"], key=None if version == 1 else _natural)
    if len(classes) < 2:
        raise DataError(f"only one class in {root / 'train'} ({classes[0]}): give at least two")
    for part in others:
        if surplus := sorted(listed[part].keys() ^ set(classes)):
            place, other = (part, "train") if surplus[0] in listed[part] else ("train", part)
            raise DataError(
                f"the classes of {root} differ: {len(surplus)} are not in every part, such as {surplus[0]} "
                f"in {place}/ but not in {other}/; give all parts the same class folders"
            )
    files = {part: tuple(listed[part][name] for name in classes) for part in listed}
    unreadable = dict(sorted(walk.unreadable.items()))
    return ClassFolders(root, tuple(classes), files, version, walk.passed_over, unreadable, packed)


def _place_of(folder: str | Path) -> _Place:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """To sort by: numbers in names count as numbers.

    >>> sorted(["10", "b", "9", "a2", "09", "a10"], key=_natural)
    ['09', '9', '10', 'a2', 'a10', 'b']
    """
    parts = re.split("([0-9]+)", name)  # at odd places the numbers
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], name


def held_out_per_class(counts: Sequence[int], percent: int | None) -> list[int]:
    """Images to hold out from each class of `counts[i]` images; a class of one image keeps it.

    A class gives its share, rounded so that the total is exact.

    Args:
        percent: of all images. However small, a class then gives at least one and keeps at least one, and the total
            is not exact. None: as many as can decide between candidates: of those in classes that can give one 2%,
            or 200 images if that is more, but at most 20%.

    >>> held_out_per_class([500] * 3, 2), held_out_per_class([150, 151, 150], 1), held_out_per_class([5, 2, 1], 2)
    ([10, 10, 10], [2, 1, 2], [1, 1, 0])
    >>> held_out_per_class([5000] * 3, None), held_out_per_class([500] * 3, None), held_out_per_class([9, 2, 1], None)
    ([100, 100, 100], [67, 66, 67], [2, 1, 0])
    """
    able = counts if percent is not None else [count if count > 1 else 0 for count in counts]
    num_images = max(1, sum(able))
    total = num_images - num_images * (100 - (percent or HELD_OUT_PERCENT)) // 100
    if percent is None:
        most = num_images - num_images * (100 - MOST_HELD_OUT_PERCENT) // 100
        total = min(max(total, HELD_OUT_IMAGES), most)
    ends = [(2 * end * total + num_images) // (2 * num_images) for end in accumulate(able, initial=0)]
    shares = [end - start for start, end in pairwise(ends)]
    least = 0 if percent is None else 1
    return [min(max(share, least), count - 1) for share, count in zip(shares, counts, strict=True)]


def _list_part(folder: Path, version: int, walk: Walk) -> dict[str, tuple[str, ...]]:
    above = frozenset(map(_place_of, (folder, *folder.resolve().parents)))
    classes, others = walk.look(str(folder), above)
    walk.pass_over(str(folder), others)
    if not classes:
        raise DataError(f"no class folders in {folder}: {_LAYOUT}")
    listed = _list_first_version if version == 1 else partial(walk.images, above=above)
    files = {name: tuple(sorted(listed(path))) for name, path in classes.items()}
    if empty := sorted(name for name, names in files.items() if not names):
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        what = [f"{path}: {reason}" for path, reason in sorted(walk.unreadable.items())[:1]]
        what += [f"{walk.passed_over} passed over"] if walk.passed_over else []
        beside = f" ({'; '.join(what)})" if what else ""
        raise DataError(f"no images in {folder / empty[0]}{beside}: put files there that end with {suffixes}")
    return files


def _is_of_first_version(file: str) -> bool:
    return "/" not in file and os.path.splitext(file)[1].lower() in FIRST_SUFFIXES


def _list_first_version(folder: str) -> list[str]:
    names = (name for name in os.listdir(folder) if not name.startswith("."))
    return list(filter(_is_of_first_version, names))
