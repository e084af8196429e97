"""Whether nodes compute what the official code does: `verify --short`, before a sweep spends anything there.

Once per session of a sweep, node and model of its cards; never where trials run on CPUs. Tested on CPUs, not yet run on
GPUs.
"""

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import ray
from filelock import FileLock

from sweeps.cluster.nodes import living_nodes, on_every_node
from sweeps.records.parity import NodeParity
from vit_trainer.files.schema import instance_of
from vit_trainer.machine import gpus_from_outside

SWITCH = "VIT_SWEEPS_VERIFY"
"""Environment variable of a sweep, for tests: `cpu` has nodes' CPUs verified; `off`, where GPUs are only counted."""
SECONDS = 240
"""How long the short form may take: a busy node's imports take most of it."""


@dataclass(frozen=True)
class ParityCheck:
    """What the nodes of one session of a sweep are asked."""

    device: Literal["cpu", "cuda"]
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @classmethod
    def of(cls, *, on_gpus: bool) -> "ParityCheck | None":
        """What to ask where trials run on GPUs; None where there is nothing to ask."""
        switch = os.environ.get(SWITCH)
        if switch == "cpu":
            return cls("cpu")
        return cls("cuda") if on_gpus and switch != "off" else None

    def on_living_nodes(self) -> list[NodeParity]:
        """What all nodes come to that have GPUs now."""
        asked = {
            address: node["NodeID"]
            for address, node in living_nodes().items()
            if node["Resources"].get("GPU" if self.device == "cuda" else "CPU")
        }
        found = on_every_node(_here_if_asked, self, set(asked.values()))
        every: list[NodeParity] = []
        for address, answer in found.items():
            if not isinstance(answer, Exception):
                every += answer
            elif address in asked:
                lines = str(answer).strip().splitlines() or [type(answer).__name__]
                every.append(NodeParity(address, "", "no answer", (lines[-1],)))
        return every

    def here(self) -> tuple[list[NodeParity], bool]:
        """What this process's node comes to, and whether that wasn't known; others on the node wait for it."""
        node = ray.get_runtime_context().get_node_id()
        path = Path(tempfile.gettempdir()) / f"vit-parity-{self.session}-{node[:12]}.json"
        with FileLock(f"{path}.lock"):
            if path.exists():
                return [instance_of(NodeParity, each) for each in json.loads(path.read_text())], False
            found = [_verify(self.device, card) for card in (_cards() if self.device == "cuda" else [""])]
            path.write_text(json.dumps([asdict(each) for each in found]))
        return found, True


def _here_if_asked(check: ParityCheck, asked: set[str]) -> list[NodeParity]:
    """Args: asked: ids of the nodes that are meant."""
    return check.here()[0] if ray.get_runtime_context().get_node_id() in asked else []


def _cards() -> list[str]:
    """A card of each model that this node has, by its number."""
    names = [str(gpu["name"]) for gpu in gpus_from_outside(of_machine=True)]
    return [str(names.index(name)) for name in dict.fromkeys(names)] or ["0"]


def _verify(device: str, card: str) -> NodeParity:
    """Args: card: what the process may see of CUDA."""
    address = ray.util.get_node_ip_address()
    root = str(Path(__file__).parents[2])
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": card,  # Ray hides GPUs from who has asked for none
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    command = [sys.executable, "-m", "vit_trainer", "verify", "--short", "--device", device]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=root
        )
    except subprocess.TimeoutExpired:
        return NodeParity(address, "", "no answer", (f"it took more than {SECONDS} s",))
    lines = done.stdout.strip().splitlines()
    failures = tuple(line.split("  ")[0].strip() for line in lines if "  FAIL" in line)
    if failures or done.returncode == 0:
        return NodeParity(address, lines[0], lines[-1], failures, tuple(lines[1:-1]))
    cause = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return NodeParity(address, "", "no answer", (cause,))


def refusal(found: Iterable[NodeParity]) -> str:
    """Why a sweep doesn't run on nodes that computed this, in a line; empty if they computed what they should."""
    failed = [each for each in found if each.failures]
    if not failed:
        return ""
    first, more = failed[0], f", and {len(failed) - 1} more" if len(failed) > 1 else ""
    advice = "take it out of the cluster, or look with python -m vit_trainer verify --device cuda there"
    if not first.environment:
        return f"node {first.node}{more} couldn't be verified ({first.failures[0]}): {advice}"
    others = f" and {len(first.failures) - 1} more rungs" if len(first.failures) > 1 else ""
    return (
        f"node {first.node}{more} computes otherwise than the official code, its {first.environment} at rung "
        f"{first.failures[0]!r}{others}: {advice}"
    )
