"""run_sweep(): plan, skip what is done, run the rest on Ray, watch, summarise."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from sweeps.machines.cards import card_of
from sweeps.machines.node_types import node_types
from sweeps.machines.prices import cards_of, limit_in_hours, price_of
from sweeps.options import SweepOptions
from sweeps.planning.candidates import narrowed, planned_trials
from sweeps.planning.capacity import require_fit
from sweeps.planning.expected_savings import early_stopping_range
from sweeps.planning.halving import expected_range, halving_of
from sweeps.planning.order import longest_first
from sweeps.planning.plan import Plan, ShareLeft, make_plan
from sweeps.planning.plan_text import plan_lines
from sweeps.planning.probed_rates import Workload, measure
from sweeps.planning.rates import Rates
from sweeps.records.cell_record import CellRecord
from sweeps.records.commands import read_commands, record_command
from sweeps.records.left_states import left_behind
from sweeps.records.predicted_hours import with_predicted_hours
from sweeps.records.results import damaged_lines, gather
from sweeps.records.slots import read_slots
from sweeps.records.trial_record import record_of
from sweeps.reporting.write import write_report
from sweeps.running.early_end import Reason
from sweeps.running.session import Session
from sweeps.selection.rehearsal import Rehearsal
from sweeps.table.cells import FORM, Cell, cell_named
from sweeps.tracking.trackers import Trackers
from vit_trainer.architectures import MODELS
from vit_trainer.command_line import INTERRUPTED, command_of, outlive_readers, this_command
from vit_trainer.config import Execution
from vit_trainer.data.datasets import dataset_info, is_folder
from vit_trainer.data.earlier_ids import keep_listing
from vit_trainer.errors import InputError, cause_of, counted, plain
from vit_trainer.files.location import folder_location
from vit_trainer.files.mirror import require_writable
from vit_trainer.files.storage import Storage
from vit_trainer.loop.probe import ProbeResult
from vit_trainer.tracking.catalogue import Catalogue
from vit_trainer.tracking.store import require_store


def choose(
    options: SweepOptions, question: str, *, paper: Sequence[Cell], mini: Sequence[Cell], named: Sequence[str] = ()
) -> tuple[str, list[Cell]]:
    """The name of a question's sweep and the cells that it is about here.

    Args:
        question: name of its file in sweeps/, without the suffix.
        paper: its cells, as they were published.
        mini: its cells in miniature.
        named: names of cells to take instead, as `cell_named` reads them.

    Raises:
        InputError: the question has no such cells.
    """
    if named:
        for name, value in options.values.items():
            raise InputError(f"{name} {value} for cells that are named: say it in their names, such as {FORM}")
        for name in filter(is_folder, options.datasets):
            raise InputError(f"dataset {name} beside cells that are named: say it in their names, as model/{name}/0.1")
        cells = [cell_named(name, options.as_known) for name in dict.fromkeys(named)]
        preset = "mini" if all(MODELS[cell.model].is_miniature for cell in cells) else "paper"
        if options.preset not in ("auto", preset):
            raise InputError(f"these cells are of --preset {preset}, not {options.preset}: leave --preset out")
    else:
        preset = choose_preset(options, question)
        cells = list(mini if preset == "mini" else paper)
    return f"{question}-{preset}", narrowed(options, cells)


def choose_preset(options: SweepOptions, question: str) -> Literal["paper", "mini"]:
    """What `--preset auto` means here, said in one line: the paper's grid with GPUs, else the miniature."""
    folder_location(options.storage)  # raises where none can be
    if options.preset != "auto":
        return options.preset
    official = [name for name in options.models if name in MODELS and not MODELS[name].is_miniature]
    if options.models and all(name in MODELS and MODELS[name].is_miniature for name in options.models):
        return "mini"
    from sweeps.cluster.join import count_gpus

    kinds = node_types(options.cluster) if options.cluster is not None else []
    if num_gpus := sum(kind.num_gpus * kind.max_workers for kind in kinds) or count_gpus():
        print(
            f"{counted(num_gpus, 'GPU')} in the Ray cluster: running the paper's grid. For the miniature: --preset mini"
        )
        return "paper"
    folders = [name for name in options.datasets if is_folder(name)]
    if official or folders:
        what = " ".join([*official, *([] if official else folders)])
        miniature = f"{(official or ['ViT-B_16'])[0]}-mini"
        raise InputError(
            f"no GPU here for {what}: give --preset paper to have it all the same (--plan says how long it takes), or "
            f"--models {miniature} for a miniature"
        )
    print(
        f"No GPU in the Ray cluster: running the miniature. For the paper's grid: {command_of(question)} --preset paper"
    )
    return "mini"


def run_sweep(name: str, cells: list[Cell], options: SweepOptions, execution: Execution) -> int:
    """Bring every trial of a sweep to its end and print the table.

    Args:
        name: of the sweep; also of its MLflow experiment.
        cells: those of its table.
        execution: how each trial is run.

    Returns:
        The exit code: 0 if every trial has its result, 1 if one failed; it is named with its cause; 130 if the sweep
        was interrupted.

    Raises:
        InputError: weights, data, the storage or MLflow's can't be used; raised before Ray starts.
    """
    _ = options.tracking_uri or options.opened_storage.tracking_uri  # raises where none can be
    if execution.checkpoint is not None:
        raise InputError(
            f"checkpoint {execution.checkpoint} fits one model: fine-tune from it with python -m vit_trainer train"
        )
    for cell in cells:
        share, micro = cell.schedule.global_batch_size // options.gpus_of(cell.model), execution.micro_batch_size
        if micro is not None and share % micro:
            raise InputError(f"micro_batch_size {micro} does not divide {share}, a GPU's share of {cell.model}'s batch")
    if options.max_dollars is not None and not options.plan:
        from sweeps.cluster.join import worker_types

        price = price_of(options.price_per_gpu_hour, worker_types())
        options = replace(options, max_gpu_hours=limit_in_hours(options.max_gpu_hours, options.max_dollars, price))
    rehearsal = Rehearsal(name, cells, options) if options.early_stopping == "rehearsal" else None
    if options.plan:
        plan = _plan(cells, options, execution, rehearsal)
        from sweeps.running.idle import launches_since

        left = left_behind(options.opened_storage, {trial.trial_id for trial in plan.trials})
        num_failed, _ = launches_since(time.time() - 3600)
        nodes = f"{counted(num_failed, 'attempt')} of the last hour to start one failed" if num_failed else ""
        notes = [f"{name}: {text}" for name, text in (("nodes", nodes), ("left", left)) if text]
        print("\n".join([*plan_lines(plan), *notes]))
        return 0
    if options.tracking_uri is not None:
        require_store(options.tracking_uri)
    require_writable(options.storage, "storage")
    if options.register:
        execution = replace(execution, save_weights=True)
    if rehearsal is None or not rehearsal.cells:
        return _bring_to_end(name, cells, options, execution)
    code = _bring_to_end(rehearsal.name, rehearsal.cells, rehearsal.options, replace(execution, num_evaluations=1))
    if code == INTERRUPTED or not rehearsal.is_over:
        return code
    rehearsal.record()
    able, options = rehearsal.whole()
    code = _bring_to_end(name, able, options, execution) if able else 1
    for cell in cells:
        if cell not in able:
            print(f"failed: {cell.name}: none of its rehearsals finished, see {rehearsal.name}", file=sys.stderr)
            code = code or 1
    return code


def _bring_to_end(name: str, cells: list[Cell], options: SweepOptions, execution: Execution) -> int:
    trackers = Trackers(name, options)
    session = Session(name, cells, options, execution, trackers.changed)
    if Catalogue(options.opened_storage, name).entries.keys() - session.trials.keys():
        session.display.remember_earlier(gather(options.opened_storage, name).cells)
    where = options.opened_storage.location
    damaged = len(session.left_out.keys() & session.trials.keys())
    anew = f"; {damaged} of the others are damaged and run anew, what is there is kept" if damaged else ""
    print(f"{name}: {counted(session.num_expected, 'trial')}, {session.num_done} of them done, in {where}{anew}")
    options.say_left_out([*session.left_out.values(), *damaged_lines(options.opened_storage, name)])
    pending = cells if session.studies else list(dict.fromkeys(trial.cell for trial in session.pending))
    dollars = None
    if session.num_done < session.num_expected:
        _check_inputs(pending, options.opened_storage, skip_unreadable=execution.skip_unreadable)
        from sweeps.cluster.join import cluster_resources, worker_types
        from sweeps.running.tuner import start_ray

        start_ray()
        require_fit(planned_trials(options, cells), options.gpus_of, cluster_resources())
        price = price_of(options.price_per_gpu_hour, worker_types())
        dollars = None if price is None else price.dollars
    if session.num_done < session.num_expected or not read_commands(options.opened_storage, name)[0]:
        searched = [value for value in options.search_over if value != "base_lr"]
        record_command(options.opened_storage, name, pending or cells, searched, dollars)
    outlive_readers()
    trackers.begin(session)
    try:
        ended_early = _run(session)
        trackers.ended(ended_early)
        report, records = write_report(options.opened_storage, name)
    except KeyboardInterrupt:
        print(f"Left at once; what was kept before is there. To go on: {this_command()}", file=sys.stderr)
        return INTERRUPTED
    finally:
        trackers.close(options.opened_storage.report(name))
    if ended_early == "interrupted":
        print(f"Interrupted; all states are kept. To go on: {this_command()}", file=sys.stderr)
        return INTERRUPTED
    if ended_early in ("cluster lost", "search lost"):
        print(f"{session.loss}; all states are kept. To go on: {this_command()}", file=sys.stderr)
        return 1
    left = counted(session.num_expected - session.num_done, "trial")
    if ended_early == "over budget":
        unit = "GPU-hours" if session.display.standing().on_gpus else "slot-hours"
        used = f"{plain(session.budget.used_hours)} of {options.max_gpu_hours:g} {unit}"
        print(
            f"The budget is used up ({used}); waiting: {left}; all "
            "states are kept. To go on: the same command with a larger --max-gpu-hours or --max-dollars",
            file=sys.stderr,
        )
    elif session.num_done < session.num_expected:
        print(f"{left} without a result: the same command goes on", file=sys.stderr)
    return _summarise(session, trackers, report, records)


def _run(session: Session) -> Reason | None:
    """Run what is pending; returns why it ended early, or None."""
    if session.num_done == session.num_expected:
        return None
    from sweeps.running.tuner import run_trials

    with session.display:
        return run_trials(session)


def _plan(cells: list[Cell], options: SweepOptions, execution: Execution, rehearsal: Rehearsal | None) -> Plan:
    """What is left of the sweep, on the cluster of a file, the running Ray cluster or else this machine."""
    from sweeps.cluster.gpus import cards_here
    from sweeps.cluster.join import resources_here, worker_types
    from sweeps.planning.capacity import Resources

    if options.cluster is not None:
        kinds = node_types(options.cluster)
        cards = cards_of(kinds)
        resources = Resources.of_types(kinds)
        if not resources.has_gpus:
            raise InputError(f"{options.cluster} names no workers with GPUs: launch it, and plan on its head")
    else:
        resources = resources_here()
        kinds = worker_types()
        cards = cards_of(kinds)
        if resources.has_gpus and options.card is None:
            cards += cards_here()
    storage = options.opened_storage
    runs, left_out = storage.read_runs(storage.trial_ids() if options.search == "optuna" else (), to_run=True)
    configs = [run.config for run in runs.values()]
    trials = longest_first(rehearsal.planned() if rehearsal else planned_trials(options, cells, configs))
    if options.search == "grid":
        runs, left_out = storage.read_runs((trial.trial_id for trial in trials), to_run=True)
    options.say_left_out(left_out.values())
    rehearsed = rehearsal.cells if rehearsal else []
    done = {trial_id for trial_id, run in runs.items() if options.settled(run.result)}

    def planned(measured: Mapping[Workload, ProbeResult]) -> Plan:
        return make_plan(
            trials,
            done,
            Rates(card_of(options.card, cards), measured, estimates_cores=not resources.has_gpus and not options.card),
            resources,
            gpus_of=options.gpus_of,
            price=price_of(options.price_per_gpu_hour, kinds),
            share_left=_share_left(options) if options.early_stopping == "asha" else None,
            pauses=options.early_stopping == "asha" and options.search == "grid",
            saves_weights=execution.save_weights or options.register,
            registered=cells if options.register else (),
            evaluations_of=lambda trial: 1 if trial.cell in rehearsed else execution.num_evaluations,
        )

    plan = planned({})  # what can never fit is refused before anything is measured
    if not options.probe:
        return plan
    pending = [trial for trial in trials if trial.trial_id not in done]
    return planned(measure(pending, options.opened_storage, seconds=options.probe_seconds, on_gpu=plan.on_gpus))


def _share_left(options: SweepOptions) -> ShareLeft:
    """Of the work of a cell's candidates, what its rungs are expected to leave: a grid's, or those of a search."""
    if options.search == "grid":
        return lambda candidates: expected_range(candidates, halving_of(options))
    # Repeats begin only where a proposal has finished, so the share of its work is their share too, at most.
    return lambda candidates: early_stopping_range(
        len(candidates) // len(options.seeds), options.reduction_factor, options.grace_fraction
    )


def _check_inputs(cells: list[Cell], storage: Storage, *, skip_unreadable: bool) -> None:
    from sweeps.checks.inputs import Inputs

    inputs = Inputs.of(cells, skip_unreadable=skip_unreadable)
    inputs.require()
    for dataset in inputs.datasets:
        keep_listing(dataset, storage)
        for caution in dataset_info(dataset).cautions:
            print(f"warning: {caution}", file=sys.stderr)


def _summarise(session: Session, trackers: Trackers, report: str, records: Iterable[CellRecord]) -> int:
    session.display.console.print(session.display.table(records))
    print("\n".join(_cost_lines(session)))
    failed = False
    for trial_id in session.trials:
        result = session.display.result(trial_id)
        failed |= result is None
        if result is not None and result["status"] == "failed":
            failed = True
            print(f"failed: {trial_id}: {result.get('cause')}", file=sys.stderr)
    print(report)
    if session.options.register:
        print("\n".join(_register(session, trackers.tracking_uri)))
    print(trackers.how_to_compare)
    return 1 if failed else 0


def _register(session: Session, tracking_uri: str) -> list[str]:
    from sweeps.tracking.registry import register_best

    try:
        return register_best(session, tracking_uri)
    except Exception as error:  # an outage: the results are there all the same
        return [f"not registered: {cause_of(error)}; the same command tries again"]


def _cost_lines(session: Session) -> list[str]:
    """Predicted against actual hours, and what early stopping and faults made of them."""
    holds = read_slots(session.options.opened_storage)
    runs, _ = session.options.opened_storage.read_runs(session.trials)
    found = [replace(record_of(run, holds.get(key, ())), trial=session.trials[key]) for key, run in runs.items()]
    records, _ = with_predicted_hours(found, session.options.opened_storage)
    ended = [each for each in records if each.status in ("finished", "stopped")]
    known = [each.predicted_hours_so_far for each in ended if each.predicted_hours_so_far is not None]
    predicted = f", {plain(sum(known))} predicted" if ended and len(known) == len(ended) else ""
    parts = [f"{plain(sum(each.hours for each in ended))} hours of {counted(len(ended), 'trial')}{predicted}"]
    if any(each.holds for each in records):
        parts.append(f"{plain(sum(each.billed_hours for each in records))} billed, starts and faults included")
    if saved := sum(each.saved_hours for each in records):
        parts.append(f"early stopping saved at least {plain(saved)}")
    if lost := sum(each.lost_hours for each in records):
        parts.append(f"faults cost at least {plain(lost)}")
    return ["; ".join(parts)]
