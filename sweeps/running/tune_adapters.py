"""Tune adapters: what Ray Tune calls while it runs trials, to follow its events, stop it, and propose trials."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from sweeps.checks.parity_on_nodes import refusal
from sweeps.records.decisions import METRIC
from sweeps.records.parity import NodeParity
from sweeps.running.assignment import Assignment
from sweeps.running.idle import Awaited, Idle
from sweeps.running.requests import Requests
from sweeps.running.session import Session
from sweeps.selection.asha_scheduler import PerCellASHA, trial_id_of
from vit_trainer.errors import cause_of
from vit_trainer.files.run_dir import Result
from vit_trainer.files.schema import instance_of

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 300.0
"""How long a search may not answer, its database restarting, before the sweep ends without it."""

MAX_LOST_ACTORS = 100
"""How often a trial moves after its actor or node was lost, which is not its fault; but nothing is retried for ever."""


class Follower(Callback):
    """Passes Tune's events on. An error here would end the whole experiment, so it is logged instead."""

    def __init__(
        self, session: Session, asha: PerCellASHA | None, awaited: Awaited, ends_early: Callable[[], bool]
    ) -> None:
        """asha: None where nothing is stopped at its rung."""
        self._session, self._asha, self._awaited, self._ends_early = session, asha, awaited, ends_early
        self._display = session.display
        self._last_words: dict[str, dict[str, Any]] = {}
        self._idle = Idle(session.display.warned)
        self._requests = Requests(session.options.opened_storage.sweep(session.name))
        self.num_lost: Counter[str] = Counter()
        """How often actors of trials were lost."""
        self.running: set[str] = set()
        """Trials that may have a process somewhere."""
        self.refused = ""
        """Why a node can't run trials, once one has said so."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks for Tuner.restore, which this project has no use for

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        with _logged():
            if what := self._requests.look():
                self._display.warned(f"asked to end {' '.join(what)}")
                self._session.end(what)
            waiting = next((trial for trial in trials if trial.status == TuneTrial.PENDING), None)
            if not self._awaited.look() and waiting is not None:
                self._idle.look(not self._session.holding, waiting.config["assignment"].bundles)

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with _logged():
            self.running.add(trial_id_of(trial))
            self._session.started(trial_id_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        with _logged():
            trial_id = trial_id_of(trial)
            if "note" in result:
                self._display.noted(trial_id, result["note"])
                if "starts_again" in result:
                    self._display.starts_again(trial_id)
            elif "stepped" in result:
                self._display.stepped(trial_id)
            elif "refused" in result:
                self.refused = result["refused"]
            elif "parity" in result:
                found = [instance_of(NodeParity, each) for each in result["parity"]]
                self._session.record_parity(found)
                self.refused = self.refused or refusal(found)
            elif "step" in result:
                self._session.reported(trial_id, result)
            self._last_words[trial_id] = result

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with _logged():
            trial_id = trial_id_of(trial)
            result, last_words = self._result(trial_id), self._last_words.get(trial_id, {})
            if result is None and ("paused" in last_words or self._session.is_growing(trial_id)):
                self.running.discard(trial_id)
                self._session.paused(trial_id)
                return
            if result is None and "taken_over" in last_words:
                result = {"status": "failed", "step": 0, "cause": last_words["taken_over"]}
            elif result is None and last_words.get("cause"):
                result = {"status": "failed", "step": 0, "cause": last_words["cause"]}  # not even that could be written
            elif result is None and (self.refused or self._ends_early()):
                return  # it keeps its state, and the same command goes on with it
            self._ended(trial_id, result or self._record_failure(trial_id, "it ended without a result"))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with _logged():
            trial_id = trial_id_of(trial)
            self.num_lost[trial_id] += 1
            if (result := self._result(trial_id)) is not None:
                self._ended(trial_id, result)
            elif self.num_lost[trial_id] <= MAX_LOST_ACTORS:
                # Another trial of Tune's goes on with it, on what nodes there are then.
                self.running.discard(trial_id)
                self._session.lost(trial_id, is_told="moves" in self._last_words.pop(trial_id, {}))
            else:
                log_file = trial.pickled_error_file or trial.error_file
                cause = f"its actor was lost {self.num_lost[trial_id]} times; see {log_file}"
                self._ended(trial_id, self._record_failure(trial_id, cause))

    def _result(self, trial_id: str) -> Result | None:
        """The run folder's, once what ASHA decided is written there too."""
        decision = self._asha.stop_of(trial_id) if self._asha else None
        if decision is None:
            run = self._session.options.run_of(self._session.trials[trial_id])
            return None if run is None else run.result
        return self._session.record(trial_id, {"status": "stopped", "cause": decision.rule})

    def _record_failure(self, trial_id: str, cause: str) -> dict[str, Any]:
        return self._session.record(trial_id, {"status": "failed", "cause": cause})

    def _ended(self, trial_id: str, result: Result) -> None:
        self.running.discard(trial_id)
        if result["status"] == "failed" and self._asha:
            self._asha.give_up(trial_id)
        self._session.ended(trial_id, result)


class EndEarly(tune.Stopper):
    """Has Tune end all trials once there is a reason to."""

    def __init__(self, reason: Callable[[], object]) -> None:
        self._reason = reason

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for the callbacks

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self._reason())


class Proposals(Searcher):
    """Hands Tune a trial whenever it has room for one; to Tune, a trial that goes on after a pause is another one."""

    def __init__(self, ask: Callable[[], Assignment | None], is_over: Callable[[], bool]) -> None:
        """
        Args:
            ask: the next one; None if there is none now.
            is_over: whether there will never be one again.
        """
        super().__init__(metric=METRIC, mode="max")
        self._ask, self._is_over = ask, is_over
        self._trouble, self._troubled_since = "", math.inf
        self.given_up = ""
        """Why it proposes nothing any more although there may be something, once that is so."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for the callbacks

    def suggest(self, trial_id: str) -> Any:
        try:
            assignment = self._ask()
            if assignment is None and self._is_over():
                return Searcher.FINISHED
        except Exception as error:  # a database that is away for a while
            if (trouble := cause_of(error)) != self._trouble:
                log.warning("no proposals: %s", trouble)
            self._trouble, self._troubled_since = trouble, min(self._troubled_since, time.monotonic())
            if time.monotonic() - self._troubled_since < PATIENCE_SECONDS:
                return None
            self.given_up = f"no proposals for {PATIENCE_SECONDS / 60:g} minutes ({trouble})"
            return Searcher.FINISHED
        self._troubled_since = math.inf
        return None if assignment is None else {"assignment": assignment}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass  # the session tells the study, with what the run folder holds

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


@contextmanager
def _logged() -> Any:
    try:
        yield
    except Exception:
        log.exception("following the sweep failed")
