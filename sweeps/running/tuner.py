"""run_trials(): hands trials to Ray Tune and follows what it does with them."""

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import ConcurrencyLimiter, Searcher

from sweeps.cluster.nodes import package_versions, require_answer, require_same_versions
from sweeps.machines.node_types import NodeType, nodes_to_come, types_of_cluster
from sweeps.options import SweepOptions
from sweeps.planning.plan import require_fit
from sweeps.running.session import Session
from sweeps.running.trial_actor import Assignment, TrialActor
from sweeps.selection.asha import PerCellASHA, trial_id_of
from sweeps.selection.rungs import METRIC
from sweeps.table.cells import Trial
from vit_trainer.errors import InputError, cause_of
from vit_trainer.files.folder import RemoteFolder
from vit_trainer.files.run_dir import RunDir
from vit_trainer.loop.interruption import signals_as_request

log = logging.getLogger(__name__)

MAX_LOST_ACTORS = 100
"""How often a trial moves after its actor or node was lost, which is not its fault; but nothing is retried for ever."""
SECONDS_TO_KEEP_STATES = 30.0
"""How long an interrupted sweep waits for its trials to write their checkpoints."""
RAY_LOGS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""What a trial prints is in Ray's log folder; why it failed is in its result.json."""
CPUS_PER_GPU = 8
"""CPU cores that a trial gets with each GPU, if the cluster has that many."""


class _Follower(Callback):
    """Passes Tune's events on. An error here would end the whole experiment, so it is logged instead."""

    def __init__(self, session: Session, asha: PerCellASHA, ends_early: Callable[[], bool]) -> None:
        self._session, self._asha, self._ends_early = session, asha, ends_early
        self._board = session.board
        self._last_words: dict[str, dict[str, Any]] = {}
        self.running: set[str] = set()
        """Trials that may have a process somewhere."""
        self.refused = ""
        """Why a node can't run trials, once one has said so."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks for Tuner.restore, which this project has no use for

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
                self._board.noted(trial_id, result["note"])
            elif "refused" in result:
                self.refused = result["refused"]
            elif "step" in result:
                self._session.reported(trial_id, result)
            self._last_words[trial_id] = result

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with _logged():
            self._board.noted(trial_id_of(trial), "its node or actor was lost; goes on from its last checkpoint")

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with _logged():
            trial_id = trial_id_of(trial)
            result, last_words = self._result(trial_id), self._last_words.get(trial_id, {})
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
            log_file = trial.pickled_error_file or trial.error_file
            cause = f"its actor was lost {trial.num_failures} times; see {log_file}"
            self._ended(trial_id, self._record_failure(trial_id, cause))

    def _result(self, trial_id: str) -> dict[str, Any] | None:
        """The run folder's, once what ASHA decided is written there too."""
        decision = self._asha.stop_of(trial_id)
        if decision is None:
            return self._session.run_dir(trial_id).result()
        return self._session.record(trial_id, {"status": "stopped", "cause": decision.rule})

    def _record_failure(self, trial_id: str, cause: str) -> dict[str, Any]:
        return self._session.record(trial_id, {"status": "failed", "cause": cause})

    def _ended(self, trial_id: str, result: dict[str, Any]) -> None:
        self.running.discard(trial_id)
        if result["status"] == "failed":
            self._asha.give_up(trial_id)
        self._session.ended(trial_id, result)


class _EndEarly(tune.Stopper):
    """Has Tune end all trials once there is a reason to."""

    def __init__(self, reason: Callable[[], object]) -> None:
        self._reason = reason

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for the callbacks

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self._reason())


class _Proposals(Searcher):
    """Hands Tune a trial whenever it has room for one."""

    def __init__(self, ask: Callable[[], Assignment | None]) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._ask = ask
        self._trouble = ""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for the callbacks

    def suggest(self, trial_id: str) -> Any:
        try:
            assignment = self._ask()
        except Exception as error:  # a database that is away for a while
            if (trouble := cause_of(error)) != self._trouble:
                log.warning("no proposals: %s", trouble)
            self._trouble = trouble
            return None
        return Searcher.FINISHED if assignment is None else {"assignment": assignment}

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


def _join() -> bool:
    """Join the Ray cluster that RAY_ADDRESS names or this machine runs; False if none is named and none runs.

    Raises:
        InputError: the one that is named doesn't answer. Without that, its grid would run on this machine.
    """
    if ray.is_initialized():
        return True
    address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "local":
        return False
    if address != "auto":
        require_answer(address)
    try:
        ray.init(address=address, **RAY_LOGS)
    except ConnectionError as error:
        if address == "auto":
            return False
        raise InputError(
            f"what listens at RAY_ADDRESS {address} doesn't let this process in: correct or unset it"
        ) from error
    return True


def count_gpus() -> int:
    """GPUs that the running Ray cluster has or may get, or those of this machine if there is none; starts nothing."""
    if _join():
        return sum(Resources.of_cluster().gpus_of_nodes)
    import torch

    return torch.cuda.device_count()


def worker_types() -> list[NodeType]:
    """The kinds of workers of the running Ray cluster, where its autoscaler starts them and this is its head."""
    return types_of_cluster(ray.nodes(), ray.util.get_node_ip_address()) if _join() else []


@dataclass(frozen=True)
class Resources:
    """What trials can be placed on."""

    gpus_of_nodes: tuple[int, ...]
    """Of the nodes that have some."""
    cpus_of_nodes: tuple[int, ...]

    @classmethod
    def of_cluster(cls) -> "Resources":
        """Of the Ray cluster's nodes, those included that its autoscaler may start."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        to_come = nodes_to_come(worker_types(), ray.nodes())
        gpus = [int(node.get("GPU", 0)) for node in nodes] + [node.num_gpus for node in to_come]
        cpus = [int(node.get("CPU", 0)) for node in nodes] + [node.num_cpus for node in to_come]
        return cls(tuple(number for number in gpus if number), tuple(cpus))

    @classmethod
    def of_types(cls, kinds: Iterable[NodeType]) -> "Resources":
        """Of a cluster that isn't there yet, at its largest."""
        nodes = nodes_to_come(kinds, [])
        return cls(tuple(node.num_gpus for node in nodes if node.num_gpus), tuple(node.num_cpus for node in nodes))

    @property
    def num_slots(self) -> int:
        """Trials of one process that run at once."""
        return sum(self.gpus_of_nodes) or sum(self.cpus_of_nodes)

    def processes_of_nodes(self, num_processes: int) -> tuple[int, ...]:
        """How a gang is spread over nodes: one if one holds it, else as few full ones as do.

        Raises:
            InputError: no such nodes.
        """
        per_node = sorted((size for size in self.gpus_of_nodes or self.cpus_of_nodes if size), reverse=True)
        if not per_node:
            raise InputError("no node of the Ray cluster has a GPU or CPU core for trials: add one")
        if num_processes <= per_node[0]:
            return (num_processes,)
        for share in sorted(set(per_node), reverse=True):
            count = num_processes // share
            if num_processes % share == 0 and sum(size >= share for size in per_node) >= count:
                return (share,) * count
        kind = "GPUs" if self.gpus_of_nodes else "CPU cores"
        raise InputError(
            f"a trial of {num_processes} {kind} does not fit on nodes with {', '.join(map(str, per_node))}: "
            "give a number of GPUs per trial that fits on one node or fills several"
        )


EndsEarly = Literal["interrupted", "over budget"]
"""Why a sweep ends before all of its trials have."""


def run_trials(session: Session, trainable: type[tune.Trainable] = TrialActor) -> EndsEarly | None:
    """Run the session's pending trials in their order, as many at once as the cluster holds.

    Args:
        trainable: what runs a trial, if not a TrialActor: it gets the same `Assignment` and leaves the same files.

    Returns:
        None, or why it ended before all of them had.

    Raises:
        InputError: a node has other versions than this process. One that joins later ends the sweep too, with all
            states kept: it would fail trials faster than the other nodes can run them.
    """
    # Tune's own loggers and tables repeat what journals and board hold; what fails is in result.json.
    # Signals are this process's business.
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every result is a validation
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if not _join():
        os.environ.pop("RAY_ADDRESS", None)  # "local" would send the new cluster's own processes astray
        ray.init(address="local", include_dashboard=False, **RAY_LOGS)
    require_same_versions()
    options, resources = session.options, Resources.of_cluster()
    session.board.connected(resources.num_slots, on_gpus=bool(resources.gpus_of_nodes))
    cpus_per_process = 1
    if resources.gpus_of_nodes:
        cpus_per_process = max(1, min(CPUS_PER_GPU, sum(resources.cpus_of_nodes) // resources.num_slots))

    def assignment(trial: Trial) -> Assignment:
        return Assignment(
            trial.config,
            options.run_dir(trial).location,
            session.execution,
            processes_of_nodes=resources.processes_of_nodes(options.gpus_of(trial.cell.model)),
            cpus_per_process=cpus_per_process,
            has_gpus=bool(resources.gpus_of_nodes),
            max_failures=options.max_failures,
            versions=package_versions(),
        )

    asha = PerCellASHA(
        session.trials.values(),
        reduction_factor=options.reduction_factor,
        grace_fraction=options.grace_fraction,
        scope=options.asha_scope,
        record=session.record_decision,
    )
    if options.early_stopping == "asha":
        session.replay(asha)
    search: dict[str, Any] = {}
    require_fit(options.planned_trials(session.cells), options.gpus_of, resources)
    assignments = [assignment(trial) for trial in session.pending]
    if session.studies is not None:

        def ask() -> Assignment | None:
            trial = session.ask()
            if trial is None:
                return None
            asha.add(trial)
            return assignment(trial)

        num_at_once = max(1, resources.num_slots)
        search = {
            "search_alg": ConcurrencyLimiter(_Proposals(ask), max_concurrent=num_at_once),
            "num_samples": session.num_expected,
        }
    elif not assignments:
        return None
    reasons: list[EndsEarly] = []
    with signals_as_request() as interrupted:

        def ends_early() -> EndsEarly | None:
            if not reasons and interrupted():
                reasons.append("interrupted")
            if not reasons and session.budget.is_used_up:
                reasons.append("over budget")
            return reasons[0] if reasons else None

        follower = _Follower(session, asha, lambda: ends_early() is not None)
        filesystem, path = _ray_storage(options)
        tuner = tune.Tuner(
            tune.with_resources(
                trainable, lambda config: tune.PlacementGroupFactory(config["assignment"].bundles, strategy="PACK")
            ),
            param_space=None if search else {"assignment": tune.grid_search(assignments)},
            tune_config=tune.TuneConfig(
                scheduler=asha if options.early_stopping == "asha" else None, reuse_actors=True, **search
            ),
            run_config=tune.RunConfig(
                storage_path=path,
                storage_filesystem=filesystem,
                stop=_EndEarly(lambda: follower.refused or ends_early()),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=MAX_LOST_ACTORS),
                callbacks=[follower],
                verbose=0,
            ),
        )
        if not ends_early():
            tuner.fit()
        _wait_for_states([session.run_dir(trial_id) for trial_id in follower.running])
        if follower.refused:
            raise InputError(follower.refused)
        return reasons[0] if session.pending and reasons else None


def _ray_storage(options: SweepOptions) -> tuple[Any, str]:
    """Where Tune keeps its own records, which this project has no use for: beside the run folders."""
    folder = options.opened_storage.ray
    if isinstance(folder, RemoteFolder):
        return folder.filesystem, folder.path
    return None, folder.location


def _wait_for_states(run_dirs: list[RunDir]) -> None:
    """Wait until the processes of interrupted trials have given their leases back, or the time is up."""
    deadline = time.monotonic() + SECONDS_TO_KEEP_STATES
    while time.monotonic() < deadline and any(run_dir.lease() for run_dir in run_dirs):
        time.sleep(0.1)  # they may be on any node: the lease is the only sign
