"""GrowingGangs: where slots would idle, the trials that would end last go on with more of them."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.cluster.leaving import leaving_nodes
from sweeps.planning.capacity import Resources
from sweeps.running.session import Session
from sweeps.selection.asha_scheduler import trial_id_of

log = logging.getLogger(__name__)

STARTS_WORTH = 3.0
"""A trial is moved for savings of at least so many of its starts: it has to load, and on a GPU to compile, again."""


class GrowingGangs(FIFOScheduler):
    """At a trial's report, once nothing waits for a slot, decides whether it ends there to go on with more.

    What a trial learns doesn't depend on how many GPUs share its batch, but for rounding.
    """

    def __init__(self, session: Session, resources: Resources) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session, self._resources = session, resources

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its scheduler for Tuner.restore, which this project has no use for

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        trial_id, size = trial_id_of(trial), None
        try:
            if not self._session.has_waiting:
                # An actor that waits for its next trial holds its slots: the next report finds them free.
                tune_controller._cleanup_cached_actors(force_all=True)
                size = self._larger(trial_id, str(result.get("node"))) if "step" in result else None
        except Exception:  # it would end the whole experiment
            log.exception("growing %s failed", trial_id)
        if size is None:
            return str(TrialScheduler.CONTINUE)
        self._session.grows(trial_id, size)
        return str(TrialScheduler.STOP)

    def _larger(self, trial_id: str, node: str) -> int | None:
        """With how many slots a trial had better go on; None: with those that it has."""
        session, now = self._session, time.time()
        rests = {
            each.trial_id: each.seconds_of_rest if each.is_starting else each.seconds_left(now)
            for each in session.display.standing().running
            if not session.is_growing(each.trial_id)
        }
        if not rests.get(trial_id):
            return None
        work = {own: session.slots_of(own) * (rest or 0.0) for own, rest in rests.items()}
        sizes = {own: session.sizes_of(own) for own in work}
        kind = "GPU" if self._resources.has_gpus else "CPU"
        leaving, there = leaving_nodes(), ray._private.state.available_resources_per_node()
        free = {name: int(own.get(kind, 0)) for name, own in there.items() if name not in leaving}
        claimed, size = session.num_claimed, sizes[trial_id][0]
        wanted = fair_sizes(work, sizes, sum(free.values()) - claimed + sum(own[0] for own in sizes.values()))[trial_id]
        room = max((count + (size if name == node else 0) for name, count in free.items()), default=0) - claimed
        larger = max((each for each in sizes[trial_id] if each <= min(wanted, room)), default=size)
        saved = work[trial_id] / size - work[trial_id] / larger
        return larger if saved > STARTS_WORTH * session.seconds_to_start(trial_id) else None


def fair_sizes(work: Mapping[str, float], sizes: Mapping[str, Sequence[int]], num_slots: int) -> dict[str, int]:
    """With how many slots each had better go on, so that the last ends soonest; none gets more than that takes.

    Args:
        work: slot-seconds to the end of each.
        sizes: slots that each can have, ascending, first those that it has.
        num_slots: for all together.

    >>> fair_sizes({"a": 80.0, "b": 40.0, "c": 10.0}, dict.fromkeys("abc", [1, 2, 4, 8]), 8)
    {'a': 4, 'b': 2, 'c': 1}
    """
    fair = {own: allowed[0] for own, allowed in sizes.items()}
    for end in sorted({work[own] / size for own, allowed in sizes.items() for size in allowed}, reverse=True):
        least = {own: next((n for n in allowed if work[own] / n <= end), 0) for own, allowed in sizes.items()}
        if not all(least.values()) or sum(least.values()) > num_slots:
            break
        fair = least
    return fair
