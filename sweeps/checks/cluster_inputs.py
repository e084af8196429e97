"""Cluster inputs: what a file's machines fetch, whether one's bucket has it, and whether their disks hold it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeps.checks.cluster_file_promises import commands
from sweeps.checks.finding import Finding, fail, ok, skip
from sweeps.planning.memory_and_disk import upstream_bytes
from vit_trainer.architectures import MODELS
from vit_trainer.data.datasets import DATASETS, IMAGENET
from vit_trainer.data.load import published_files
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.folder import open_folder
from vit_trainer.weights.npz_files import released_name

FETCHES = re.compile(r"(?:clusters/inputs\.sh|vit_trainer fetch)\s+([^\n;&|#]+)")
COPIES = re.compile(r"\b(?:sync|rsync|cp)\b.*\bimagenet2012\b")
SYSTEM_GB = 60
"""Of a system with its driver, and this project's packages: assumed."""

Wanted = dict[str, str]
"""Models with their upstream, and data sets."""


def check_inputs(config: dict[str, Any], bucket: Path, *, may_look: bool) -> Iterator[Finding]:
    """Look at what a file's machines fetch.

    Args:
        config: of a file for `ray up`.
        bucket: the file that names the bucket.
        may_look: whether there are credentials to look into it.
    """
    types = config.get("available_node_types") or {}
    kinds = {name: _commands_of(config, name) for name in types} or {"hosts": commands(config, "setup_commands")}
    wanted = {name: dict(_wanted(text)) for name, text in kinds.items()}
    is_packed = True
    if "clusters/inputs.sh" in commands(config):
        name = bucket.read_text().strip() if bucket.exists() else ""
        if not re.fullmatch(r"(s3|gs)://[^/\s]\S*", name):
            advice = f"for clusters/inputs.sh: echo s3://my-bucket > {bucket}"
            yield fail("bucket", f"{bucket} holds no bucket's name, {advice}")
        elif not may_look:
            yield skip("inputs", f"{name} is not looked into without credentials")
        else:
            finding, is_packed = _in_bucket(name, {name: up for each in wanted.values() for name, up in each.items()})
            yield finding
    fine = []
    for kind, text in kinds.items():
        disk, copied = _disk_gib(types.get(kind, {})), _copied_bytes(wanted[kind], text, is_packed=is_packed) / 1e9
        if disk and disk * 1.074 < SYSTEM_GB + copied:
            yield fail(
                "disk",
                f"{kind} has {disk:.0f} GB, and {copied:.0f} GB are copied to it beside some {SYSTEM_GB} GB of system "
                "and packages: give it a larger one, or pack ImageNet, whose shards stay in the bucket",
            )
        elif disk:
            fine.append(f"{kind} {copied:.0f} of {disk:.0f} GB")
    if fine:
        yield ok("disk", f"holds what is copied: {', '.join(fine)}")


def _commands_of(config: dict[str, Any], kind: str) -> str:
    """What sets a kind of node up."""
    own = "head_setup_commands" if kind == config.get("head_node_type") else "worker_setup_commands"
    return commands(config | config["available_node_types"][kind], "setup_commands", own)


def _wanted(text: str) -> Iterator[tuple[str, str]]:
    for match in FETCHES.finditer(text):
        words = match[1].split()
        upstream = words[words.index("--upstream") + 1] if "--upstream" in words[:-1] else "imagenet21k"
        yield from ((word, upstream) for word in words if word in MODELS or word in DATASETS)


def _in_bucket(name: str, wanted: Wanted) -> tuple[Finding, bool]:
    """Whether a bucket has what is fetched from it, and whether ImageNet doesn't lie there as single files."""
    place = f"{name.partition('?')[0].rstrip('/')}/inputs"
    try:
        mirror = open_folder(name + "?retry_limit_seconds=10" * name.startswith("gs:"), "bucket").child("inputs")
        paths = {each: _paths(each, upstream) for each, upstream in wanted.items()}
        folders = {os.path.dirname(path) for each in paths.values() for path in each}
        there = {f"{folder}/{file}".lstrip("/") for folder in folders for file in mirror.child(folder).names()}
    except (OSError, InputError) as error:
        return fail("inputs", f"{place} can't be looked into ({reason_of(error):.200})"), True
    in_files = "imagenet2012/train" in there
    lacking = [each for each, files in paths.items() if not there.issuperset(files)]
    to_pack = ["imagenet2012"] if "imagenet2012" in lacking and not in_files else []
    to_send = [each for each in lacking if each != "imagenet2012"]
    if not to_send and not to_pack:
        return ok("inputs", f"{place} has {', '.join(wanted)}"), not in_files
    todo = [f"python -m vit_trainer fetch {' '.join(to_send)} --to {place}"] if to_send else []
    todo += [f"python -m vit_trainer pack {each} --output {place}/{each}" for each in to_pack]
    return fail("inputs", f"{place} lacks {', '.join(to_send + to_pack)}: {'; '.join(todo)}"), not in_files


def _paths(name: str, upstream: str) -> list[str]:
    """The files in a mirror, by which it is known that something is there."""
    if name in MODELS:
        return ["/".join(released_name(name, upstream))]
    return ["imagenet2012/shards.json"] if DATASETS[name].family == IMAGENET else list(published_files(name))


def _copied_bytes(wanted: Wanted, text: str, *, is_packed: bool) -> float:
    """What is brought to a machine; of a packed ImageNet nothing, since its shards are read from where they are."""
    copied = (DATASETS["imagenet2012"].num_bytes or 0.0) if COPIES.search(text) else 0.0
    for name, upstream in wanted.items():
        if name in MODELS:
            copied += upstream_bytes(name, upstream) or 0.0
        elif DATASETS[name].family != IMAGENET or not is_packed:
            copied += DATASETS[name].num_bytes or 0.0
    return copied


def _disk_gib(kind: dict[str, Any]) -> float:
    """Of a machine's system disk as AWS's or Google's words have it; 0 if they don't say."""
    node = kind.get("node_config") or {}
    sizes = [(disk.get("Ebs") or {}).get("VolumeSize", 0) for disk in node.get("BlockDeviceMappings") or []]
    boot = [disk.get("initializeParams") or {} for disk in node.get("disks") or [] if disk.get("boot")]
    return float(sum([*sizes, *(params.get("diskSizeGb", 0) for params in boot)]))
