"""GrowingGangs: where slots would idle, the trial that would end last goes on with more of them."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.planning.capacity import Resources
from sweeps.records.decisions import METRIC
from sweeps.running.session import Session
from sweeps.selection.asha_scheduler import trial_id_of

log = logging.getLogger(__name__)

STARTS_WORTH = 3.0
"""A trial is moved for savings of at least so many of its starts: it has to load, and on a GPU to compile, again."""


class GrowingGangs(FIFOScheduler):
    """At a trial's validation, once nothing else waits for a slot, decides whether it pauses to go on with more.

    What a trial learns doesn't depend on how many GPUs share its batch, but for rounding.
    """

    def __init__(self, session: Session, resources: Resources) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session, self._resources = session, resources

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its scheduler for Tuner.restore, which this project has no use for

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        trial_id = trial_id_of(trial)
        try:
            may_grow = METRIC in result and self._ends_last(trial_id)
            size = self._larger(trial_id, result) if may_grow else None
            if may_grow and size is None:
                # An actor that waits for its next trial holds its slot: the next validation will find that free.
                tune_controller._cleanup_cached_actors(force_all=True)
        except Exception:  # it would end the whole experiment
            log.exception("growing %s failed", trial_id)
            size = None
        if size is None:
            return str(TrialScheduler.CONTINUE)
        self._session.grows(trial_id, size)
        return str(TrialScheduler.STOP)

    def _ends_last(self, trial_id: str) -> bool:
        """Whether nothing waits or starts, and no other trial has longer to go."""
        left = self._seconds_left()
        own = left.get(trial_id)
        return (
            self._session.is_settled
            and own is not None
            and all(other is not None and other <= own for other in left.values())
        )

    def _seconds_left(self) -> dict[str, float | None]:
        now = time.time()
        return {each.trial_id: each.seconds_left(now) for each in self._session.display.standing().running}

    def _larger(self, trial_id: str, result: Mapping[str, Any]) -> int | None:
        """With how many slots a trial had better go on; None: with those that it has."""
        session, own = self._session, self._seconds_left()[trial_id] or 0.0
        trial, size, node = session.trials[trial_id], session.slots_of(trial_id), result.get("node")
        kind = "GPU" if self._resources.has_gpus else "CPU"
        free = ray._private.state.available_resources_per_node()
        room = max((int(there.get(kind, 0)) + (size if name == node else 0) for name, there in free.items()), default=0)
        batch, micro_batch = trial.config.global_batch_size, session.execution.micro_batch_size or 1
        sizes = [n for n in range(size + 1, room + 1) if batch % n == 0 and batch // n % micro_batch == 0]
        larger = max(sizes, default=size)
        saved = own * (1 - size / larger)
        return larger if saved > STARTS_WORTH * session.seconds_to_start(trial_id) else None
