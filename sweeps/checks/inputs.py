"""Inputs: whether checkpoints and data sets are where trials run, which may not be where a sweep is begun."""

import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from sweeps.cluster.join import join, nodes_that_train
from sweeps.cluster.nodes import on_every_node
from sweeps.table.cells import Cell
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import DATASETS, IMAGENET, data_folder, family_of, folder_of, is_folder
from vit_trainer.data.load import require_dataset
from vit_trainer.data.shards.cache import RESERVE, cache_folder, cached_path
from vit_trainer.data.shards.packed import Packed, open_packed
from vit_trainer.errors import InputError
from vit_trainer.files.location import is_uri
from vit_trainer.weights.fetch import doubt_of
from vit_trainer.weights.npz_files import RELEASED, checkpoint_path, require_checkpoint

Problems = list[tuple[Literal["FAIL", "warn", "skip", "ok"], str]]
"""What was found, each with its kind, see `Finding`."""


@dataclass(frozen=True)
class Inputs:
    """What trials read."""

    checkpoints: tuple[tuple[str, str], ...] = ()
    """(model, upstream) of each."""
    datasets: tuple[str, ...] = ()
    skip_unreadable: bool = False
    """Whether trials go on without images that can't be read."""

    @classmethod
    def of(cls, cells: Iterable[Cell], *, skip_unreadable: bool = False) -> "Inputs":
        """Those of the trials of these cells."""
        cells = tuple(cells)
        checkpoints = dict.fromkeys((cell.model, cell.upstream) for cell in cells)
        return cls(tuple(checkpoints), tuple(dict.fromkeys(cell.dataset for cell in cells)), skip_unreadable)

    def problems(self) -> Problems:
        """What isn't on this machine, with one command that fetches it; a line for each that isn't right."""
        problems, lacking, to_come, own = Problems(), dict[str, list[str]](), list[str](), list[str]()
        for model, upstream in self.checkpoints:
            if model in RELEASED.get(upstream, ()) and not checkpoint_path(model, upstream).exists():
                lacking.setdefault(upstream, []).append(model)
                continue
            try:
                require_checkpoint(model, upstream)
                if doubt := doubt_of(model, upstream):
                    problems.append(("warn", doubt))
            except InputError as error:
                problems.append(("FAIL", str(error)))
        for dataset in self.datasets:
            try:
                require_dataset(dataset, may_download=False, skip_unreadable=self.skip_unreadable)
            except InputError as error:
                if family_of(dataset).is_downloaded:
                    to_come.append(dataset)
                elif dataset in DATASETS and not (data_folder() / dataset).exists():
                    own.append(dataset)
                else:
                    problems.append(("FAIL", str(error)))
        if to_come or own:
            lacking.setdefault(next(iter(lacking), "imagenet21k"), []).extend([*to_come, *own])
        for upstream, names in lacking.items():
            flags = f" --upstream {upstream}" * (upstream != "imagenet21k")
            flags += " --source s3://bucket/inputs" * any(name in own for name in names)
            text = f"missing: python -m vit_trainer fetch {' '.join(names)}{flags}"
            is_late = all(name in to_come for name in names)
            problems.append(("warn", f"{text}, else with the first trial") if is_late else ("FAIL", text))
        return problems

    def cache(self) -> Problems:
        """Whether this machine has room for the shards of packed data sets in a bucket; empty if there are none."""
        packed = list[Packed | None]()
        for name in self.datasets:
            with suppress(InputError):  # of which `problems` speaks
                packed.append(folder_of(name).packed if is_folder(name) else open_packed(str(data_folder() / name)))
        shards = {shard for each in packed if each and is_uri(each.place) for shard in each.header.shards}
        if not shards:
            return []
        folder, total = cache_folder(), sum(shard.num_bytes for shard in shards)
        missing = sum(shard.num_bytes for shard in shards if not cached_path(folder, shard).exists())
        usage = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
        room = max(0.0, usage.free - RESERVE * usage.total)
        if missing <= room:
            return [("ok", f"{total / 1e9:.1f} GB of shards fit in {folder}")]
        much = f"{room / 1e9:.1f} of {missing / 1e9:.1f} GB of shards"
        return [("warn", f"{folder} has room for {much}: what does not fit is read by range")]

    def require(self) -> None:
        """Check that they are where trials train: on this machine, or on the nodes of the cluster that it joins.

        A head that trains nothing needs none of them but folders of classes, which all nodes read in one place. What is
        downloaded by itself may be missing elsewhere.

        Raises:
            InputError: something is missing or damaged, on this machine or on a node, which is named.
        """
        nodes = nodes_that_train() if join() else {"": True}
        trains_here, elsewhere = any(nodes.values()), [name for name, is_here in nodes.items() if not is_here]
        for model, upstream in self.checkpoints if trains_here else ():
            require_checkpoint(model, upstream)
            if doubt := doubt_of(model, upstream):
                print(doubt, file=sys.stderr)
        for dataset in self.datasets:
            if trains_here or is_folder(dataset):
                require_dataset(dataset, skip_unreadable=self.skip_unreadable)
        if elsewhere:
            named = tuple(dataset for dataset in self.datasets if not is_folder(dataset))
            found = on_every_node(_problems_here, replace(self, datasets=named))
            _refuse({node: problems for node, problems in found.items() if node in elsewhere})
        elif not trains_here:
            print("No node that trains is up yet: each is asked for checkpoints and data as it comes", file=sys.stderr)


def _problems_here(inputs: Inputs) -> Problems:
    return inputs.problems()


def _refuse(found: Mapping[str, Problems | Exception]) -> None:
    """Raise InputError for the first node that lacks something; print what is only to be said."""
    lines = [(*each, node) for node, answer in found.items() if isinstance(answer, list) for each in answer]
    failed = [f"node {node}: {text}" for kind, text, node in lines if kind == "FAIL"]
    if failed:
        raise InputError(failed[0] + (f"; and {len(failed) - 1} more such" if len(failed) > 1 else ""))
    for text in dict.fromkeys(text for _, text, _ in lines):
        print(f"on nodes: {text}", file=sys.stderr)


def lacking(config: FinetuneConfig) -> str:
    """What a trial needs that isn't on this node and doesn't come by itself, in a line. Imports no torch."""
    try:
        require_checkpoint(config.model, config.upstream)
    except InputError as error:
        return str(error)
    root = data_folder() / config.dataset
    if family_of(config.dataset) != IMAGENET or root.exists():
        return ""
    return f"no {root}: python -m vit_trainer fetch {config.dataset} --source s3://bucket/inputs"
