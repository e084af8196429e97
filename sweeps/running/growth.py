"""GrowingGangs: where slots would idle, the trials that would end last go on with more of them."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray._private.state import available_resources_per_node
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.cluster.join import cluster_resources
from sweeps.cluster.leaving import leaving_nodes
from sweeps.planning.capacity import Resources
from sweeps.running.idle import Awaited
from sweeps.running.session import Session
from sweeps.selection.asha_scheduler import PerCellASHA, trial_id_of

log = logging.getLogger(__name__)

SECONDS_TO_KEEP = 10.0
"""How long an actor may wait for a next trial where none is to come."""
SECONDS_BETWEEN_LOOKS = 1.0
"""How often it is looked whether nodes will hold what waits for them."""
STARTS_WORTH = 3.0
"""A trial is moved for savings of at least so many of its starts: it has to load, and on a GPU to compile, again."""


class GrowingGangs(FIFOScheduler):
    """At a trial's report, once nothing waits for a slot, decides whether it ends there to go on with more.

    What a trial learns doesn't depend on how many GPUs share its batch, but for rounding.
    """

    def __init__(self, session: Session, resources: Resources, awaited: Awaited) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session, self._resources, self._awaited = session, resources, awaited
        self._shrinks_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its scheduler for Tuner.restore, which this project has no use for

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """As Tune's, in every round; before that, a gang that no node will hold is asked for anew, with fewer slots."""
        try:
            self._shrink(tune_controller)
        except Exception:
            log.exception("asking for fewer slots failed")
        return super().choose_trial_to_run(tune_controller)

    def _shrink(self, tune_controller: Any) -> None:
        session, now = self._session, time.monotonic()
        larger = {each: size for each, size in session.unplaced.items() if size > session.fewest_slots_of(each)}
        if not larger or now < self._shrinks_at:
            return
        self._shrinks_at, resources = now + SECONDS_BETWEEN_LOOKS, cluster_resources()
        slots = resources.certain_slots if self._awaited.is_late else resources.slots_of_nodes
        for trial in list(tune_controller.get_live_trials()):
            if trial.status == TuneTrial.PENDING and larger.get(trial_id_of(trial), 0) > max(slots, default=0):
                session.ask_anew(trial_id_of(trial))
                tune_controller._unstage_trial_with_resources(trial)  # else it keeps an actor for this one
                tune_controller._schedule_trial_stop(trial)
                tune_controller._live_trials.discard(trial)

    def _free(self) -> dict[str, int]:
        """Free slots of each node that stays, by its id."""
        kind, leaving = "GPU" if self._resources.has_gpus else "CPU", leaving_nodes()
        free = available_resources_per_node()
        return {name: int(own.get(kind, 0)) for name, own in free.items() if name not in leaving}

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        trial_id, size = trial_id_of(trial), None
        try:
            if self._session.studies is None and not self._session.has_waiting:
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
        free = self._free()
        claimed, size = session.num_claimed, sizes[trial_id][0]
        wanted = fair_sizes(work, sizes, sum(free.values()) - claimed + sum(own[0] for own in sizes.values()))[trial_id]
        room = max((count + (size if name == node else 0) for name, count in free.items()), default=0) - claimed
        larger = max((each for each in sizes[trial_id] if each <= min(wanted, room)), default=size)
        saved = work[trial_id] / size - work[trial_id] / larger
        return larger if saved > STARTS_WORTH * session.seconds_to_start(trial_id) else None


def letting_go(scheduler: PerCellASHA | GrowingGangs, session: Session) -> PerCellASHA | GrowingGangs:
    """A scheduler of Tune's, so that no actor waits for a next trial where none is to come: it would keep its node."""
    choose, since = scheduler.choose_trial_to_run, math.inf

    def choose_and_let_go(tune_controller: Any) -> TuneTrial | None:
        nonlocal since
        since = math.inf if session.has_waiting or session.unplaced else min(since, time.monotonic())
        if time.monotonic() - since > SECONDS_TO_KEEP:
            tune_controller._cleanup_cached_actors(force_all=True)
        return choose(tune_controller)

    scheduler.choose_trial_to_run = choose_and_let_go  # type: ignore[method-assign]
    return scheduler


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
