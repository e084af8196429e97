"""run_sweep(): plan, skip what is done, run the rest on Ray, watch, summarise."""

import os
import shlex
import sys
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from sweeps.board import Board, Result
from sweeps.cells import Trial
from sweeps.options import SweepOptions
from sweeps.plan import Plan, longest_first, make_plan, plan_lines
from sweeps.probes import Workload, measure
from sweeps.rates import Rates, card_of
from vit_trainer.checkpoint_files import require_checkpoint
from vit_trainer.command_line import INTERRUPTED
from vit_trainer.config import Execution
from vit_trainer.data import require_dataset
from vit_trainer.errors import InputError
from vit_trainer.probe import ProbeResult
from vit_trainer.tracking import BackgroundShipper, default_place, default_tracking_uri


def choose_preset(options: SweepOptions, script: str) -> Literal["paper", "mini"]:
    """What `--preset auto` means here, said in one line: the paper's grid with GPUs, else the miniature."""
    if options.preset != "auto":
        return options.preset
    from sweeps.tuner import count_gpus

    if num_gpus := count_gpus():
        print(f"{num_gpus} GPUs in the Ray cluster: running the paper's grid. For the miniature: --preset mini")
        return "paper"
    print(f"No GPU in the Ray cluster: running the miniature. For the paper's grid: python {script} --preset paper")
    return "mini"


def run_sweep(name: str, trials: list[Trial], options: SweepOptions) -> int:
    """Bring every trial of a sweep to its end and print the table.

    Args:
        name: of the sweep; also of its MLflow experiment.
        trials: every candidate of every cell.

    Returns:
        The exit code: 0 if every trial has its result, 1 if one failed; it is named with its cause.

    Raises:
        InputError: weights, data or the storage can't be used; raised before Ray starts.
    """
    trials = longest_first(list({trial.trial_id: trial for trial in trials}.values()))
    results = {trial.trial_id: _settled(options.run_dir(trial).result(), options) for trial in trials}
    if options.plan:
        print("\n".join(plan_lines(_plan(trials, results, options))))
        return 0
    pending = [trial for trial in trials if results[trial.trial_id] is None]
    _check(pending, options)
    board = Board(trials)
    for trial_id, result in results.items():
        if result is not None:
            board.ended(trial_id, result)
    tracking_uri = options.tracking_uri or default_tracking_uri(default_place(options.storage))
    print(f"{name}: {len(trials)} trials, {len(trials) - len(pending)} of them done, in {options.folder.location}")
    ended_early = _run(name, trials, pending, options, tracking_uri, board) if pending else None
    if ended_early is not None:
        print(f"Interrupted; all states are kept. To go on: {shlex.join(sys.orig_argv)}", file=sys.stderr)
        return INTERRUPTED
    return _summarise(trials, board, tracking_uri)


def _plan(trials: list[Trial], results: Mapping[str, Result | None], options: SweepOptions) -> Plan:
    """What is left of the sweep, on the running Ray cluster or else this machine."""
    import ray

    from sweeps.tuner import Resources, count_gpus

    num_gpus = count_gpus()  # joins the cluster if there is one
    if ray.is_initialized():
        resources, names = Resources.of_cluster(), list(ray.cluster_resources())
    else:
        resources, names = Resources((num_gpus,) if num_gpus else (), (os.cpu_count() or 1,)), []
    done = {trial_id for trial_id, result in results.items() if result is not None}

    def planned(measured: Mapping[Workload, ProbeResult]) -> Plan:
        return make_plan(
            trials,
            done,
            Rates(card_of(options.card, names), measured),
            resources,
            gpus_per_trial=options.gpus_per_trial,
            price_per_gpu_hour=options.price_per_gpu_hour,
            early_stopping=options.early_stopping,
        )

    plan = planned({})  # what can never fit is refused before anything is measured
    if not options.probe:
        return plan
    pending = [trial for trial in trials if trial.trial_id not in done]
    return planned(measure(pending, options.folder, seconds=options.probe_seconds, on_gpu=plan.on_gpus))


def _settled(result: Mapping[str, Any] | None, options: SweepOptions) -> Result | None:
    """The result if it needs no further work: finished, or stopped where early stopping is still asked for."""
    if result is None or result["status"] == "failed":
        return None
    return None if result["status"] == "stopped" and not options.early_stopping else result


def _check(pending: list[Trial], options: SweepOptions) -> None:
    for model, upstream in dict.fromkeys((trial.cell.model, trial.cell.upstream) for trial in pending):
        require_checkpoint(model, upstream)
    for dataset in dict.fromkeys(trial.cell.dataset for trial in pending):
        require_dataset(dataset)
    try:
        probe = f".write-probe-{uuid.uuid4().hex[:8]}"
        options.folder.write(probe, b"")
        options.folder.remove(probe)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise InputError(
            f"storage {options.storage} cannot be written ({reason}): give a writable folder or bucket"
        ) from error


def _run(
    name: str, trials: list[Trial], pending: list[Trial], options: SweepOptions, tracking_uri: str, board: Board
) -> str | None:
    from sweeps.tuner import run_trials

    place = default_place(options.storage)
    place.mkdir(parents=True, exist_ok=True)
    artifacts = place / "mlflow-artifacts"
    shipper = BackgroundShipper(tracking_uri, name, artifacts, {"sweep": name, "command": shlex.join(sys.argv)})

    def ship(trial: Trial) -> None:
        shipper.ship(options.run_dir(trial), _tags(trial))

    for trial in trials:
        ship(trial)
    try:
        with board:
            return run_trials(trials, pending, options, Execution(), board, ship)
    finally:
        shipper.close()
        if shipper.failure:
            print(f"MLflow at {tracking_uri} did not get everything: {shipper.failure}", file=sys.stderr)


def _tags(trial: Trial) -> dict[str, str]:
    return {"cell": trial.cell.name, "model": trial.cell.model, "dataset": trial.cell.dataset}


def _summarise(trials: list[Trial], board: Board, tracking_uri: str) -> int:
    board.console.print(board.table())
    failed = False
    for trial in trials:
        result = board.result(trial.trial_id)
        if result is None or result["status"] == "failed":
            failed = True
            print(f"failed: {trial.trial_id}: {(result or {}).get('cause', 'no result')}", file=sys.stderr)
    print(f"To compare the runs: {sys.executable} -m mlflow ui --workers 1 --backend-store-uri {tracking_uri}")
    return 1 if failed else 0
