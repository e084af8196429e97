"""load_dataset(): a data set's images as Splits, read by the file of its family, which is imported only then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, Unpack, cast

from vit_trainer.data.datasets import dataset_info, folder_of, is_folder, listed_folder
from vit_trainer.data.decoding import Decoding
from vit_trainer.errors import DataError, reason_of

if TYPE_CHECKING:
    from vit_trainer.data.splits import Splits
    from vit_trainer.files.published import PublishedFile


class Reader(Protocol):
    """What each file of `families` has."""

    def require(self, name: str, *, may_download: bool, source: str | None = None) -> None:
        """As `require_dataset`."""

    def load(self, name: str, **decoding: Unpack[Decoding]) -> Splits:
        """As `load_dataset`."""

    def published(self, name: str) -> Mapping[str, PublishedFile]:
        """As `published_files`; only where the family is downloaded."""


def require_dataset(
    name: str, *, may_download: bool = True, skip_unreadable: bool = False, source: str | None = None
) -> None:
    """Check that a data set can be read here, without reading it; what can be downloaded is, if it may be.

    Args:
        source: a mirror, laid out as `data_folder()` is, that files come from instead of their authors' servers.

    Raises:
        DataError: it can't; says what to put where.
    """
    with _one_line(name):
        _reader(name).require(name, may_download=may_download, source=source)
        _require_readable(name, skip_unreadable=skip_unreadable)


def published_files(name: str) -> Mapping[str, PublishedFile]:
    """What a data set is downloaded as, by paths in `data_folder()`, and in a mirror; nothing if it isn't."""
    return _reader(name).published(name) if dataset_info(name).family.is_downloaded else {}


def load_dataset(name: str, **decoding: Unpack[Decoding]) -> Splits:
    """Read a data set's images, or find them, as train, validation and test.

    Raises:
        DataError: the files are missing or damaged; says what to put where.
    """
    with _one_line(name):
        _require_readable(name, skip_unreadable=decoding.get("skip_unreadable", False))
        return _reader(name).load(name, **decoding)


def _require_readable(name: str, *, skip_unreadable: bool) -> None:
    if is_folder(name) and not skip_unreadable and (unreadable := listed_folder(name).unreadable):
        (path, reason), *others = unreadable.items()
        more = f" and {len(others)} more" if others else ""
        raise DataError(
            f"cannot read {folder_of(name).root / path} ({reason}){more}: put it right or take it away, or give "
            "--skip-unreadable to go on without"
        )


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {error.filename or name}: {reason_of(error)}; make it readable") from error


def _reader(name: str) -> Reader:
    return cast(Reader, import_module(f"vit_trainer.data.families.{dataset_info(name).family.reader}"))
