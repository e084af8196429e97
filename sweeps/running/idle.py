"""Idle: says why nothing of a sweep runs, when that has lasted for minutes."""

import time
from collections.abc import Callable, Mapping, Sequence

import ray
from ray._private.state import available_resources_per_node

SECONDS_TO_START = 120.0
"""How long nothing may run before it is said; actors start in seconds."""
SECONDS_TO_SAY_AGAIN = 600.0

Amounts = Mapping[str, float]
"""Numbers of `GPU` and `CPU`; what is missing is 0."""


class Idle:
    """Looks again and again; says why, first after minutes and then now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since = time.monotonic()
        self._next_at = self._since + SECONDS_TO_START

    def look(self, is_idle: bool, bundles: Sequence[Amounts]) -> None:
        """
        Args:
            is_idle: whether nothing runs now.
            bundles: what the next trial asks for, on each of its nodes.
        """
        now = time.monotonic()
        if not is_idle:
            self._since, self._next_at = now, now + SECONDS_TO_START
        elif now >= self._next_at:
            self._next_at = now + SECONDS_TO_SAY_AGAIN
            free = available_resources_per_node()
            nodes = [(node["Resources"], free.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"]]
            self._say(f"nothing has run for {(now - self._since) / 60:.2g} min: {why(bundles, nodes)}")


def why(bundles: Sequence[Amounts], nodes: Sequence[tuple[Amounts, Amounts]]) -> str:
    """Why a trial isn't placed, with the numbers.

    Args:
        bundles: what it asks for, on each of its nodes.
        nodes: what each living node has, and what of that is free.
    """
    asked = f"a trial asks for {_text(bundles[0])}" + (f" on each of {len(bundles)} nodes" if len(bundles) > 1 else "")
    there, free = [node for node, _ in nodes], [left for _, left in nodes]
    if not _fits(bundles, there):
        largest = max(there, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        return (
            f"{asked}, and the largest of {len(nodes)} living nodes has {_text(largest)}: "
            "nodes were lost, or are still to come"
        )
    if not _fits(bundles, free):
        kinds = [kind for kind in ("GPU", "CPU") if bundles[0].get(kind)]
        left = [f"{_sum(free, kind):g} of {_sum(there, kind):g} {_NAMES[kind]}s" for kind in kinds]
        return f"{asked}, and {' and '.join(left)} are free: other jobs of this cluster hold the rest (`ray status`)"
    return f"{asked}, which is free: Ray is slow to start its process there (see /tmp/ray/session_latest/logs)"


_NAMES = {"GPU": "GPU", "CPU": "CPU core"}


def _fits(bundles: Sequence[Amounts], nodes: Sequence[Amounts]) -> bool:
    able = [node for node in nodes if all(node.get(kind, 0) >= count for kind, count in bundles[0].items())]
    return len(able) >= len(bundles)


def _sum(nodes: Sequence[Amounts], kind: str) -> float:
    return sum(node.get(kind, 0) for node in nodes)


def _text(amounts: Amounts) -> str:
    counts = {kind: amounts.get(kind, 0) for kind in _NAMES}
    parts = [f"{count:g} {_NAMES[kind]}{'s' * (count != 1)}" for kind, count in counts.items() if count]
    return " and ".join(parts) or "no GPU or CPU core"
