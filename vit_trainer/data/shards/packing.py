"""pack(): a folder of classes into shards, the same bytes each time; what was killed goes on with the shards it has."""

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vit_trainer.data.class_folders import ClassFolders
from vit_trainer.data.samples import sample_of
from vit_trainer.data.shards.packed import FORMAT, HEADER, INDEX, Header, Index, PackedFile, open_packed
from vit_trainer.errors import DataError, InputError, reason_of
from vit_trainer.files.download import Watcher
from vit_trainer.files.folder import Folder, LocalFolder, open_folder
from vit_trainer.files.schema import json_of

NUM_READERS = 16
"""Images read at a time: a disk of the network answers each late, but many at once."""
UNFINISHED = "packing"
"""Folder beside the shards with what is known of each, until the header is there."""
_OURS = re.compile(rf"(?:train|val|test)-\d{{5}}\.tar|{re.escape(INDEX)}|{UNFINISHED}/.*|\.[^/]+\.[0-9a-f]{{8}}\.tmp")
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


class _Plan(NamedTuple):
    """A shard, before its images are read."""

    name: str
    paths: list[str]
    source: str
    """A hash of its images' paths, sizes and times: what it was made of."""
    num_bytes: int
    """Of its images."""


def pack(folders: ClassFolders, dataset_id: str, output: str, shard_bytes: int, watcher: Watcher) -> Header:
    """Write a folder of classes into another folder or bucket as shards, index and header.

    Two shards are in memory at a time: one is written while the next is read.

    Args:
        dataset_id: what trials on it are called by.
        shard_bytes: what a shard has at most, unless a single image has more.

    Raises:
        InputError: the output holds something else, lies in the folder, or can't be written.
        DataError: an image can't be read, or changes meanwhile.
    """
    target = open_folder(output, "output")
    root = folders.root.resolve()
    if folders.packed:
        raise InputError(f"{folders.root} is packed already: copy its files as they are")
    if isinstance(target, LocalFolder) and target.path.is_relative_to(root):
        raise InputError(f"output {output} lies in {root}, which is to be packed: give a folder beside it")
    plans = list(_planned(folders, shard_bytes))
    try:
        kept = _kept(target, plans, folders, dataset_id)
        if isinstance(kept, Header):
            return kept
        packed = _packed(target, root, plans, kept, watcher)
        return _finish(target, plans, packed, folders, root.name, dataset_id)
    except OSError as error:
        raise InputError(f"output {output} cannot be written ({reason_of(error)}): the same command goes on") from error


def _planned(folders: ClassFolders, shard_bytes: int) -> Iterator[_Plan]:
    for part in folders.files:
        paths, num_bytes, in_tar, number = list[str](), 0, len(_END), 0
        digest = hashlib.sha256()
        for path in (*folders.paths(part), None):
            status = None
            if path is not None:
                try:
                    status = os.stat(folders.root / path)
                except OSError as error:
                    raise DataError(_unreadable(folders.root, path, error)) from error
            needed = _BLOCK + _padded(status.st_size) if status else 0
            if paths and (path is None or in_tar + needed > shard_bytes):
                yield _Plan(f"{part}-{number:05}.tar", paths, digest.hexdigest(), num_bytes)
                paths, num_bytes, in_tar, number, digest = [], 0, len(_END), number + 1, hashlib.sha256()
            if path is not None and status is not None:
                paths.append(path)
                num_bytes, in_tar = num_bytes + status.st_size, in_tar + needed
                stamp = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0"
                digest.update(stamp.encode(errors="surrogateescape"))


def _kept(target: Folder, plans: list[_Plan], folders: ClassFolders, dataset_id: str) -> dict[str, Any] | Header:
    """By name what is known of shards that are whole; the header if all is packed already.

    Raises InputError: the output holds something else.
    """
    names = target.names()
    if HEADER in names:
        packed = open_packed(target.location)
        assert packed is not None
        here = {path: os.stat(folders.root / path).st_size for plan in plans for path in plan.paths}
        if packed.header.id != dataset_id or packed.by_path(packed.index.sizes) != here:
            raise InputError(f"output {target.location} holds {packed.header.id}, packed: give another --output")
        packed.require_shards()
        return packed.header
    others = [name for name in names if not name.startswith(".")]
    if UNFINISHED in names:
        others = [name for name in others if name != UNFINISHED and not _OURS.fullmatch(name)]
    if others:
        raise InputError(f"output {target.location} holds something else, such as {others[0]}: give an empty folder")
    stamps, kept = target.stamps(), {}
    for plan in plans:
        try:
            known = json_of(target.read(f"{UNFINISHED}/{plan.name}.json") or b"{}")
            if known["source"] == plan.source and stamps[plan.name].num_bytes == known["num_bytes"]:
                kept[plan.name] = known
        except (ValueError, KeyError, TypeError):
            pass  # it is packed anew
    return kept


def _packed(
    target: Folder, root: Path, plans: list[_Plan], kept: dict[str, Any], watcher: Watcher
) -> dict[str, dict[str, Any]]:
    """Write the shards that aren't there; returns what is known of each, by name."""
    target.write(f"{UNFINISHED}/begun", b"")  # from now on tar files here are ours
    total = sum(plan.num_bytes for plan in plans)
    arrived = sum(plan.num_bytes for plan in plans if plan.name in kept)
    writing: Future[None] | None = None
    with ThreadPoolExecutor(NUM_READERS) as readers, ThreadPoolExecutor(1) as writer:
        for plan in plans:
            if plan.name in kept:
                continue
            contents = readers.map(lambda path: _read(root, path), plan.paths)
            blocks, known = _shard(plan, contents)
            if writing is not None:
                writing.result()
            writing = writer.submit(_write, target, plan.name, blocks, known)
            kept[plan.name] = known
            arrived += plan.num_bytes
            watcher.received(arrived, total)
            del blocks
        if writing is not None:
            writing.result()
    return kept


def _shard(plan: _Plan, contents: Iterator[bytes]) -> tuple[list[bytes], dict[str, Any]]:
    """A tar file in pieces, and what is known of it."""
    blocks, rows, offset, digest = list[bytes](), list[tuple[int, int, int, str]](), 0, hashlib.sha256()
    for path, content in zip(plan.paths, contents, strict=True):
        member = tarfile.TarInfo(path)
        member.size = len(content)
        head = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        rows.append((offset + len(head), len(content), zlib.crc32(content), sample_of(content)))
        blocks += (head, content, bytes(_padded(len(content)) - len(content)))
        offset += len(head) + _padded(len(content))
    blocks.append(_END)
    for block in blocks:
        digest.update(block)
    return blocks, {
        "source": plan.source,
        "num_bytes": offset + len(_END),
        "sha256": digest.hexdigest(),
        "rows": rows,
    }


def _write(target: Folder, name: str, blocks: list[bytes], known: dict[str, Any]) -> None:
    target.write(name, *blocks)
    target.write(f"{UNFINISHED}/{name}.json", json.dumps(known).encode())


def _finish(
    target: Folder, plans: list[_Plan], packed: dict[str, Any], folders: ClassFolders, name: str, dataset_id: str
) -> Header:
    """Write the index and, last, the header; take away what nobody needs any more."""
    rows = [row for plan in plans for row in packed[plan.name]["rows"]]
    offsets, sizes, crcs, samples = zip(*rows, strict=True)
    index = Index(
        np.array([os.fsencode(path) for plan in plans for path in plan.paths]),
        np.repeat(np.arange(len(plans), dtype=np.int32), [len(plan.paths) for plan in plans]),
        np.array(offsets),
        np.array(sizes),
        np.array(crcs),
        np.array(samples, dtype="S16"),
    )
    content = index.to_parquet()
    shards = tuple(PackedFile(plan.name, packed[plan.name]["num_bytes"], packed[plan.name]["sha256"]) for plan in plans)
    header = Header(
        FORMAT,
        name,
        dataset_id,
        len(folders.classes),
        {part: sum(folders.counts(part)) for part in folders.files},
        sum(shard.num_bytes for shard in shards),
        PackedFile(INDEX, len(content), hashlib.sha256(content).hexdigest()),
        shards,
    )
    target.write(INDEX, content)
    target.write(HEADER, header.to_json())
    needed = {HEADER, INDEX, *(shard.name for shard in shards)}
    for each in filter(_OURS.fullmatch, target.stamps()):
        if each not in needed:
            target.remove(each)
    if isinstance(target, LocalFolder):
        (target.path / UNFINISHED).rmdir()
    return header


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise DataError(_unreadable(root, path, error)) from error


def _unreadable(root: Path, path: str, error: OSError) -> str:
    return (
        f"cannot read {root / path} ({reason_of(error)}): put it right or take it away, then the same command goes on"
    )


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
