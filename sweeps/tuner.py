"""run_trials(): hands trials to Ray Tune and follows what it does with them."""

import logging
import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from sweeps.board import Board
from sweeps.cells import Trial
from sweeps.launcher import Start
from sweeps.options import SweepOptions
from sweeps.per_cell import PerCellASHA, trial_id_of
from sweeps.trainable import TrialActor
from vit_trainer.config import Execution

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""How often a trial is started again after its process died. A failure of the training itself isn't repeated."""
RAY_LOGS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""What a trial prints is in Ray's log folder; why it failed is in its result.json."""
CPUS_PER_GPU = 8
"""CPU cores that a trial gets with each GPU, if the cluster has that many."""


class _Follower(Callback):
    """Passes Tune's events on. An error here would end the whole experiment, so it is logged instead."""

    def __init__(
        self,
        trials: list[Trial],
        options: SweepOptions,
        asha: PerCellASHA,
        board: Board,
        changed: Callable[[Trial], None],
    ) -> None:
        self._trials = {trial.trial_id: trial for trial in trials}
        self._options, self._asha, self._board, self._changed = options, asha, board, changed

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks for Tuner.restore, which this project has no use for

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with _logged():
            self._board.started(trial_id_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        with _logged():
            if "step" in result:
                self._board.reported(trial_id_of(trial), result)
                self._changed(self._trials[trial_id_of(trial)])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with _logged():
            self._ended(trial_id_of(trial), None)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        with _logged():
            cause = str(trial.pickled_error_file or trial.error_file or "the trial's process died")
            self._ended(trial_id_of(trial), f"its process died {trial.num_failures} times; see {cause}")

    def _ended(self, trial_id: str, died: str | None) -> None:
        trial = self._trials[trial_id]
        run_dir = self._options.run_dir(trial)
        decision = self._asha.decisions.get(trial_id)
        result = run_dir.result()
        if result is None and decision is None:
            died = died or "ended without a result"
        if decision is not None or died is not None:
            # The trial's own process stands still or is gone, so the driver takes the folder over.
            run_dir.open_for_writing(trial.config.to_dict())
            journal = run_dir.journal()
            step = journal[-1]["step"] if journal else 0
            if decision is not None:
                metrics = {
                    key: journal[-1][key] for key in ("val/accuracy", "train/loss", "runtime_hours", "gpu_hours")
                }
                result = {"status": "stopped", "step": step, **metrics, "cause": decision.rule}
            else:
                result = {"status": "failed", "step": step, "cause": died}
            run_dir.write_result(result)
        assert result is not None
        if result["status"] == "failed":
            self._asha.give_up(trial_id)
        self._board.ended(trial_id, result)
        self._changed(trial)


@contextmanager
def _logged() -> Any:
    try:
        yield
    except Exception:
        log.exception("following the sweep failed")


def _join() -> bool:
    """Join the Ray cluster that RAY_ADDRESS names or this machine runs; False if there is none."""
    if ray.is_initialized():
        return True
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address == "local":
        return False
    try:
        ray.init(address=address, **RAY_LOGS)
    except ConnectionError:
        return False
    return True


def count_gpus() -> int:
    """GPUs in the running Ray cluster, or in this machine if there is none; starts nothing."""
    if _join():
        return int(ray.cluster_resources().get("GPU", 0))
    import torch

    return torch.cuda.device_count()


def run_trials(
    trials: list[Trial],
    pending: list[Trial],
    options: SweepOptions,
    execution: Execution,
    board: Board,
    changed: Callable[[Trial], None],
) -> None:
    """Run the pending trials in their order, as many at once as the cluster holds."""
    # Tune's own loggers and tables repeat what journals and board hold; what fails is in result.json.
    # Ctrl-C is this process's business.
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if not _join():
        os.environ.pop("RAY_ADDRESS", None)  # "local" would send the new cluster's own processes astray
        ray.init(address="local", include_dashboard=False, **RAY_LOGS)
    resources = ray.cluster_resources()
    cluster_gpus = int(resources.get("GPU", 0))
    if cluster_gpus:
        num_threads = max(1, min(CPUS_PER_GPU, int(resources["CPU"]) // cluster_gpus))
        bundle: dict[str, float] = {"CPU": num_threads, "GPU": 1}
    else:
        num_threads, bundle = 1, {"CPU": 1}
    asha = PerCellASHA(trials)
    waiting = {trial.trial_id for trial in pending}
    for trial in trials:
        run_dir = options.run_dir(trial)
        result = run_dir.result() if trial.trial_id not in waiting else None
        asha.replay(trial.trial_id, run_dir.journal(), stopped=result is not None and result["status"] == "stopped")
    starts = [
        Start(trial.config, str(options.run_dir(trial).path), execution, num_processes=1, num_threads=num_threads)
        for trial in pending
    ]
    tuner = tune.Tuner(
        tune.with_resources(TrialActor, tune.PlacementGroupFactory([bundle])),
        param_space={"start": tune.grid_search(starts)},
        tune_config=tune.TuneConfig(scheduler=asha if options.early_stopping else None, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(options.storage.resolve() / "ray"),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[_Follower(trials, options, asha, board, changed)],
            verbose=0,
        ),
    )
    tuner.fit()
