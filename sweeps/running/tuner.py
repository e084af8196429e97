"""run_trials(): hands trials to Ray Tune and follows what it does with them."""

import atexit
import logging
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from typing import Any

from ray import tune

from sweeps.checks.parity_on_nodes import ParityCheck, refusal
from sweeps.cluster.join import cluster_resources, join_or_start
from sweeps.cluster.loss import LossWatch
from sweeps.cluster.versions import package_versions, require_same_versions
from sweeps.options import SweepOptions
from sweeps.planning.capacity import Resources, spread
from sweeps.running.assignment import Assignment
from sweeps.running.early_end import EarlyEnd, Reason
from sweeps.running.growth import GrowingGangs, letting_go
from sweeps.running.idle import Awaited
from sweeps.running.session import Session
from sweeps.running.trial_actor import TrialActor
from sweeps.running.tune_adapters import EndEarly, Follower, Proposals
from sweeps.selection.asha_scheduler import PerCellASHA
from vit_trainer.command_line import INTERRUPTED
from vit_trainer.errors import InputError
from vit_trainer.files.folder import RemoteFolder
from vit_trainer.files.outgoing import hide_secrets
from vit_trainer.files.run_dir import RunDir
from vit_trainer.loop.interruption import signals_as_request

SECONDS_TO_LEAVE = 5.0
"""How long Tune may take to end once the cluster is lost."""
SECONDS_BETWEEN_COUNTS = 1.0
"""How often the cluster's slots are counted anew."""
SECONDS_TO_KEEP_STATES = 30.0
"""How long an interrupted sweep waits for its trials to write their checkpoints."""


def start_ray() -> None:
    """Join the cluster that is meant, or start one on this machine; Tune says nothing of its own.

    Raises:
        InputError: neither can be done.
    """
    # Its loggers and tables repeat what journals and the display hold; what fails is in result.json.
    # Signals are this process's business.
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every result is a validation
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    join_or_start()


def run_trials(session: Session, trainable: type[tune.Trainable] = TrialActor) -> Reason | None:
    """Run the session's pending trials in their order, as many at once as the cluster holds.

    Args:
        trainable: what runs a trial, if not a TrialActor: it gets the same `Assignment` and leaves the same files.

    Returns:
        None, or why it ended before all of them had.

    Raises:
        InputError: a node has other versions than this process, or its GPUs compute otherwise. One that joins later
            ends the sweep too, with all states kept: it would fail trials faster than the other nodes can run them.
    """
    start_ray()
    require_same_versions()
    options, resources, awaited = session.options, cluster_resources(), Awaited(session)
    session.display.connected(resources.num_slots, on_gpus=resources.has_gpus)
    asha = None
    if session.studies is not None and options.early_stopping == "asha":
        asha = PerCellASHA(
            (trial for trial in session.trials.values() if trial.seed == options.seeds[0]),  # no rivals, but repeats
            reduction_factor=options.reduction_factor,
            grace_fraction=options.grace_fraction,
            record=session.record_decision,
        )
        session.replay(asha)
    session.settle()
    parity = ParityCheck.of(on_gpus=resources.has_gpus)
    if session.is_over:
        return None
    if parity is not None:
        found = parity.on_living_nodes()
        session.record_parity(found)
        if refused := refusal(found):
            raise InputError(refused)
    grows = not session.execution.deterministic and asha is None
    grows = grows and (resources.has_gpus if options.grow_gangs is None else options.grow_gangs)
    session.max_gang = max(resources.slots_of_nodes, default=1) if grows else 1
    with signals_as_request(acknowledge=session.display.ends) as interrupted, LossWatch() as watch:
        ends_early = EarlyEnd(
            lambda: interrupted() or session.is_asked_to_end, session.budget, lambda: bool(watch.loss)
        )
        follower = Follower(session, asha, awaited, lambda: ends_early() is not None)
        filesystem, path = _ray_storage(options)
        proposals = _proposals(session, resources, asha, parity, awaited)
        scheduler = asha or GrowingGangs(session, resources, awaited)
        tuner = tune.Tuner(
            tune.with_resources(
                trainable, lambda config: tune.PlacementGroupFactory(config["assignment"].bundles, strategy="PACK")
            ),
            tune_config=tune.TuneConfig(
                scheduler=letting_go(scheduler, session),
                reuse_actors=True,
                search_alg=proposals,
                num_samples=-1,
            ),
            run_config=tune.RunConfig(
                storage_path=path,
                storage_filesystem=filesystem,
                stop=EndEarly(lambda: follower.refused or ends_early()),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[follower],
                verbose=0,
            ),
        )
        try:
            if not ends_early():
                _fit(tuner, watch)
            if not watch.loss:
                _wait_for_states([session.run_dir(trial_id) for trial_id in follower.running])
        finally:
            awaited.end()
            session.loss = watch.loss or proposals.given_up
            for trial_id in list(session.holding):
                session.released(trial_id)
        if follower.refused:
            raise InputError(follower.refused)
        reason = ends_early() if session.pending else None
        return reason or ("search lost" if proposals.given_up else None)


def _proposals(
    session: Session,
    resources: Resources,
    asha: PerCellASHA | None,
    parity: ParityCheck | None,
    awaited: Awaited,
) -> Proposals:
    """Where Tune has its trials from."""
    present, counted_at = resources, time.monotonic()

    def ask() -> Assignment | None:
        nonlocal present, counted_at
        if time.monotonic() > counted_at + SECONDS_BETWEEN_COUNTS:
            present, counted_at = cluster_resources(), time.monotonic()  # nodes come and go
        options, leg = session.options, session.ask(present, counts_on_more=not awaited.is_late)
        if leg is None:
            return None
        trial, num_slots = leg.trial, session.slots_of(leg.trial.trial_id)
        if asha is not None and trial.seed == options.seeds[0]:
            asha.add(trial)
        return Assignment(
            trial.config,
            options.run_dir(trial).location,
            session.execution,
            processes_of_nodes=spread(num_slots, present.slots_there) or resources.processes_of_nodes(num_slots),
            cpus_per_process=resources.cpus_per_process,
            has_gpus=resources.has_gpus,
            pause_at=leg.until,
            max_failures=options.max_failures,
            versions=package_versions(),
            parity=parity,
        )

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000"  # the session knows how many fit
    return Proposals(ask, lambda: session.is_over)


def _fit(tuner: tune.Tuner, watch: LossWatch) -> None:
    """Run Tune on a thread of its own, which is left behind where it waits for a cluster that is lost."""
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=fit, name="tune", daemon=True)
    thread.start()
    left_at = math.inf
    try:
        while thread.is_alive() and time.monotonic() < left_at:
            thread.join(0.2)
            if watch.loss:
                left_at = min(left_at, time.monotonic() + SECONDS_TO_LEAVE)
    finally:
        if watch.loss or thread.is_alive():
            atexit.register(_leave, 1 if watch.loss else INTERRUPTED)
    if errors and not watch.loss:
        raise errors[0]


def _leave(code: int) -> None:
    """End this process and the Ray that it has started, without Ray's own farewells, which wait for what is lost."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _ray_storage(options: SweepOptions) -> tuple[Any, str]:
    """Where Tune keeps its own records, which this project has no use for: beside the run folders.

    They hold all that Tune was given, so where that is keys of a bucket, they lie in a temporary folder.
    """
    folder = options.opened_storage.ray
    if hide_secrets(folder.location, ()) != folder.location:
        scratch = tempfile.mkdtemp(prefix="ray-tune-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return None, scratch
    if isinstance(folder, RemoteFolder):
        return folder.filesystem, folder.path
    return None, folder.location


def _wait_for_states(run_dirs: list[RunDir]) -> None:
    """Wait until the processes of interrupted trials have given their leases back, or the time is up."""
    deadline = time.monotonic() + SECONDS_TO_KEEP_STATES
    while time.monotonic() < deadline and any(run_dir.lease() for run_dir in run_dirs):
        time.sleep(0.1)  # they may be on any node: the lease is the only sign
