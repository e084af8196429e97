"""Studies: one Optuna study per cell, which proposes the values of its trials.

A study is one cell and one `Space`: its name says both, so sweeps that search the same share what they learn. What was
trained is in the run folders; `Studies.replay` tells it to the studies, which may therefore be lost, or start with
what a grid has left. Optuna is imported only here, and Ray isn't.
"""

import hashlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from sweeps.options import SweepOptions
from sweeps.planning.candidates import search_space
from sweeps.records.decisions import METRIC
from sweeps.table.cells import Cell, Trial
from sweeps.table.search_space import Space
from vit_trainer.data.datasets import dataset_id
from vit_trainer.errors import DamagedError, InputError, reason_of
from vit_trainer.files.location import local_path
from vit_trainer.files.outgoing import hide_secrets
from vit_trainer.files.run_dir import Row
from vit_trainer.files.schema import json_of

NUM_STARTUP_TRIALS = 4
"""Proposals are random until this many trials have ended: Optuna's own 10 would leave all of the usual 8 to chance.

On 200 peaks over 3 decades of learning rates, 1 to 6 did equally well: 8 trials came to 0.12 to 0.14 decades of the
best rate on average and chance to 0.16, 16 trials to 0.04 and chance to 0.09.
"""
MAX_DRAWS = 20
"""After this many draws that were all trained before, a cell's space counts as exhausted."""


@dataclass(frozen=True)
class PastRun:
    """What a run folder holds, as far as a study learns from it."""

    config: Mapping[str, Any]
    """Content of config.json."""
    rows: Sequence[Row]
    """The journal, a row per step."""
    result: Mapping[str, Any] | None
    """Content of result.json; None: not done, or to be gone on with."""


class Studies:
    """Proposes trials cell by cell until each cell has its number of them. For one thread."""

    def __init__(
        self,
        spaces: Mapping[Cell, Space],
        *,
        num_trials: int,
        storage: str,
        seed: int,
        sweep: str,
        repeat_seeds: Sequence[int] = (),
    ) -> None:
        """Open the studies, or create those that don't exist yet.

        Args:
            spaces: what is searched in each cell, in the order in which cells are to get their proposals.
            num_trials: proposals per cell; trials of this seed that are replayed count, whichever sweep trained them.
            storage: a file, which is created if need be, or the URL of a database (`postgresql://...`).
            seed: of every proposal; with a study's history it decides what is proposed.
            repeat_seeds: with these too a proposal runs once it has finished; its value is the mean.
            sweep: name of the sweep. Running trials of another one are left to it.

        Raises:
            InputError: the storage can't be used.
            DamagedError: it is a file with something else in it than Optuna has written.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        opened = _open(storage)
        self._num_trials, self._seed, self._repeat_seeds = num_trials, seed, repeat_seeds
        self._trials: dict[str, tuple[_CellStudy, Trial]] = {}
        self._unfinished: dict[str, Trial] = {}
        self._repeats: list[Trial] = []
        self._ended: dict[Trial, dict[int, tuple[Sequence[Row], Mapping[str, Any]]]] = {}
        """By proposal what its seeds have come to."""
        try:
            self._studies = [_CellStudy(cell, space, seed, sweep, opened) for cell, space in spaces.items()]
            for study in self._studies:
                study.require_whole()
                for trial_id, (trial, state) in study.own().items():
                    _ = trial.config  # raises for values that make no sense
                    self._trials[trial_id] = study, trial
                    if state == TrialState.RUNNING:
                        self._unfinished[trial_id] = trial
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # valid JSON, and none of Optuna's
            if "://" in storage:
                raise
            raise _damaged(storage) from error

    @property
    def trials(self) -> list[Trial]:
        """Every trial of this search so far: proposed, replayed with its seeds, or their repeats."""
        return [trial for _, trial in self._trials.values()]

    @property
    def num_expected(self) -> int:
        """Trials of the whole search, as far as is known: what didn't finish isn't repeated."""
        num_proposals = sum(max(self._num_trials, study.num_trials) for study in self._studies)
        firsts = [ended[self._seed][1]["status"] for ended in self._ended.values() if self._seed in ended]
        num_repeated = num_proposals - len([status for status in firsts if status != "finished"])
        return num_proposals + len(self._repeat_seeds) * num_repeated

    def replay(self, runs: Mapping[str, PastRun]) -> None:
        """Tell the studies what run folders hold, in the order of their first rows; to be done before asking.

        Runs of other cells, or with values outside a cell's space, are passed over. Runs of other seeds are told,
        but don't count towards `num_trials`. Again is harmless: what a study has isn't added twice.

        Args:
            runs: by trial id. A run without a result is handed out by `ask` before anything new.
        """
        for trial_id, run in sorted(runs.items(), key=lambda item: (_first_time(item[1].rows), item[0])):
            for study in self._studies:
                trial = study.trial_of(run.config)
                if trial is None:
                    continue
                counts = trial.seed in (self._seed, *self._repeat_seeds)
                if run.result is not None:
                    if counts:
                        self._take_in(study, trial, run.rows, run.result)
                    else:
                        study.record(trial, run.rows, run.result)
                    self._unfinished.pop(trial_id, None)
                elif trial.seed == self._seed and study.take_up(trial):
                    self._unfinished[trial_id] = trial
                else:
                    continue
                if counts:
                    self._trials[trial_id] = study, trial
        for study in self._studies:
            study.count()

    def ask(self) -> Trial | None:
        """The next trial to run, or None when every cell has its trials.

        First those that an earlier session left unfinished, with the values they had; then what has finished with its
        other seeds; then proposals for the cell that has fewest, so that each comes as late, and knows as much, as it
        can. A cell's first is the published recipe.
        """
        for trial_id in self._unfinished:
            return self._unfinished.pop(trial_id)
        while self._repeats:
            repeat = self._repeats.pop(0)
            if repeat.seed not in self._ended[replace(repeat, seed=self._seed)]:
                return repeat
        for study in sorted(self._studies, key=lambda study: study.num_trials):
            if study.num_trials >= self._num_trials or study.count() >= self._num_trials:
                continue
            if (trial := study.propose()) is not None:
                self._trials[trial.trial_id] = study, trial
                return trial
        return None

    def tell(self, trial_id: str, rows: Sequence[Row], result: Mapping[str, Any]) -> None:
        """Record how a trial that was asked for has ended.

        Finished is COMPLETE with the validation accuracy of the end, stopped is PRUNED, failed is FAIL, as is an
        accuracy that is no number; all with the accuracies on the way. What has finished and is to be repeated stays
        RUNNING until its other seeds have ended too, and has the mean of those that finished.
        """
        study, trial = self._trials[trial_id]
        self._take_in(study, trial, rows, result)

    def _take_in(self, study: "_CellStudy", trial: Trial, rows: Sequence[Row], result: Mapping[str, Any]) -> None:
        """Record a proposal once all of its seeds have ended that are to be run, or have those run that are missing."""
        ended = self._ended.setdefault(replace(trial, seed=self._seed), {})
        ended[trial.seed] = rows, result
        if self._seed not in ended:
            return
        rows, result = ended[self._seed]
        if self._repeat_seeds and result["status"] == "finished":
            missing = [replace(trial, seed=seed) for seed in self._repeat_seeds if seed not in ended]
            new = [repeat for repeat in missing if repeat.trial_id not in self._trials]
            self._trials |= {repeat.trial_id: (study, repeat) for repeat in new}
            self._repeats += new
            if missing:
                return
            values = [each[METRIC] for _, each in ended.values() if each["status"] == "finished" and METRIC in each]
            result = {**result, METRIC: fmean(values) if values and all(map(_is_number, values)) else None}
        study.record(replace(trial, seed=self._seed), rows, result)


class _CellStudy:
    """One cell's study, and what is recorded in it."""

    def __init__(self, cell: Cell, space: Space, seed: int, sweep: str, storage: BaseStorage) -> None:
        self._cell, self._space, self._seed, self._sweep, self._storage = cell, space, seed, sweep, storage
        self.name = study_name(cell, space)
        self._study = optuna.create_study(
            storage=storage,
            study_name=self.name,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(),  # never asked; see _draw
            load_if_exists=True,
        )
        if self._study.metric_names is None:  # what optuna-dashboard calls its axis
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                self._study.set_metric_names([METRIC])
        self._study_id = storage.get_study_id_from_name(self.name)
        self._distributions = _distributions(space)
        self.num_trials = self.count()

    def count(self) -> int:
        """Read anew how many trials this seed has; `num_trials` remembers it, since databases answer slowly."""
        self.num_trials = len(self.own())
        return self.num_trials

    def own(self) -> dict[str, tuple[Trial, TrialState]]:
        """This seed's trials with their latest states, without those that another sweep is running."""
        return {
            record.user_attrs["trial_id"]: (self._space.trial(self._cell, record.params, self._seed), record.state)
            for record in self._records()
            if record.user_attrs["seed"] == self._seed and not self._is_foreign(record)
        }

    def require_whole(self) -> None:
        """Raise ValueError, or what else comes of it, for a record that neither Optuna nor a sweep has written."""
        for record in self._study.get_trials(deepcopy=False):
            record._validate()
            _ = record.user_attrs.get("trial_id")

    def trial_of(self, config: Mapping[str, Any]) -> Trial | None:
        """As `Space.trial_of`."""
        return self._space.trial_of(self._cell, config)

    def take_up(self, trial: Trial) -> bool:
        """Record a trial as running unless it is recorded; False if another sweep is running it."""
        records = self._records(trial.trial_id)
        if not records:
            self._add(trial, TrialState.RUNNING)
        return not any(self._is_foreign(record) for record in records)

    def propose(self) -> Trial | None:
        """A trial that the study doesn't have, recorded as running; None if the space seems exhausted.

        Two processes that ask at the same moment draw the same: the record with the lower number holds.
        """
        while (trial := self._draw()) is not None:
            added = self._storage.get_trial(self._add(trial, TrialState.RUNNING))
            first = self._records(trial.trial_id)[0]
            if first.number == added.number:
                self.num_trials += 1
                return trial
            self._storage.set_trial_user_attr(added._trial_id, "duplicate_of", first.number)
            self._study.tell(added.number, state=TrialState.FAIL)
        return None

    def record(self, trial: Trial, rows: Sequence[Row], result: Mapping[str, Any]) -> None:
        """Give a trial its outcome. A record that has ended can't change, so another outcome is another record."""
        state, value, accuracies = _outcome(rows, result)
        records = self._records(trial.trial_id)
        running = next((record for record in records if record.state == TrialState.RUNNING), None)
        if running is not None:
            for step, accuracy in accuracies.items():
                self._storage.set_trial_intermediate_value(running._trial_id, step, accuracy)
            self._study.tell(running.number, value if state == TrialState.COMPLETE else None, state)
        elif not any(record.state == state and record.value == value for record in records):
            self._add(trial, state, value, accuracies)

    def _draw(self) -> Trial | None:
        """The published recipe if it wasn't trained yet, else what TPE makes of the history.

        It draws in a copy in memory. So a proposal enters the study in one write with the values that are trained
        (rounded), and no crash can leave a trial without values.
        """
        history = self._study.get_trials(deepcopy=False)
        known = {record.user_attrs.get("trial_id") for record in history}
        published = self._space.published(self._cell)
        if self._space.contains(published):
            first = self._space.trial(self._cell, published, self._seed)
            if first.trial_id not in known:
                return first
        copy = optuna.create_study(direction="maximize", sampler=_sampler(self._seed, self.name, len(history)))
        copy.add_trials(record for record in history if record.state != TrialState.WAITING)
        for _ in range(MAX_DRAWS):
            values = self._space.rounded(copy.ask(self._distributions).params)
            trial = self._space.trial(self._cell, values, self._seed)
            if trial.trial_id not in known:
                return trial
        return None

    def _records(self, trial_id: str | None = None) -> list[FrozenTrial]:
        """What is recorded of our trials, or of one, in the order of numbers."""
        return [
            record
            for record in self._study.get_trials(deepcopy=False)
            if "trial_id" in record.user_attrs
            and "duplicate_of" not in record.user_attrs
            and trial_id in (None, record.user_attrs["trial_id"])
        ]

    def _is_foreign(self, record: FrozenTrial) -> bool:
        return record.state == TrialState.RUNNING and record.user_attrs["sweep"] != self._sweep

    def _add(
        self,
        trial: Trial,
        state: TrialState,
        value: float | None = None,
        accuracies: Mapping[int, float] | None = None,
    ) -> int:
        """Write a record at once; returns the storage's id of it."""
        config = trial.config.to_dict()
        template = optuna.trial.create_trial(
            state=state,
            value=value,
            params={name: config[name] for name in self._distributions},
            distributions=self._distributions,
            user_attrs={"trial_id": trial.trial_id, "seed": trial.seed, "sweep": self._sweep},
            intermediate_values=dict(accuracies or {}),
        )
        return self._storage.create_new_trial(self._study_id, template)


def study_name(cell: Cell, space: Space) -> str:
    """Says all that the study's trials have in common, and what is searched within which ends."""
    schedule = cell.schedule
    fixed = [replace(cell, dataset=dataset_id(cell.dataset)).name, f"batch {schedule.global_batch_size}"]
    if space.warmup_steps is None:
        fixed.append(f"warm-up {schedule.warmup_steps}")
    searched = [f"{name} {low} to {high}" for name, (low, high) in space.ends.items()]
    return f"{', '.join(fixed)}: {', '.join(searched)}"


def open_studies(options: SweepOptions, sweep: str, cells: Sequence[Cell]) -> Studies:
    """The studies that propose candidates with --search optuna.

    Args:
        sweep: its name.
        cells: in the order in which they are to get their proposals.

    The storage's own file is set aside if it is damaged; all that is needed of it is in the run folders too.

    Raises:
        InputError: the Optuna storage can't be used.
    """
    opened = partial(
        Studies,
        {cell: search_space(options, cell) for cell in cells},
        num_trials=options.num_trials_per_cell,
        storage=options.optuna_storage or options.opened_storage.optuna_log,
        seed=options.seeds[0],
        repeat_seeds=options.seeds[1:],
        sweep=sweep,
    )
    try:
        return opened()
    except DamagedError:
        if options.optuna_storage is not None:
            raise
        path = Path(options.opened_storage.optuna_log)
        kept = next(each for i in count(1) if not (each := path.with_name(f"{path.name}.damaged-{i}")).exists())
        os.replace(path, kept)
        anew = f"it is kept as {kept.name}, and made anew from the run folders"
        options.say_left_out([f"{path.name} is damaged or no journal of Optuna's: {anew}"])
        return opened()


def importances(candidates: Sequence[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    """How much of what candidates differ by each of their values explains (fANOVA), as shares that sum to 1.

    Args:
        candidates: (values by name, validation accuracy) of each that is finished, at least two.

    Returns:
        Shares by name, the largest first; empty if no accuracy differs from the others.
    """
    if len({accuracy for _, accuracy in candidates}) < 2:
        return {}
    ends = {name: [values[name] for values, _ in candidates] for name in candidates[0][0]}
    distributions: dict[str, BaseDistribution] = {
        name: FloatDistribution(min(values), max(values), log=name == "base_lr") for name, values in ends.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for values, accuracy in candidates:
        study.add_trial(optuna.trial.create_trial(params=dict(values), distributions=distributions, value=accuracy))
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    distributions: dict[str, BaseDistribution] = {}
    if space.base_lr:
        distributions["base_lr"] = FloatDistribution(*space.base_lr, log=True)
    if space.dropout:
        distributions["dropout"] = FloatDistribution(*space.dropout)
    if space.warmup_steps:
        distributions["warmup_steps"] = IntDistribution(*space.warmup_steps)
    return distributions


def _sampler(seed: int, name: str, number: int) -> optuna.samplers.BaseSampler:
    """TPE, new for each proposal, so that nothing but the study must survive a restart."""
    digest = hashlib.sha256(f"{seed} {number} {name}".encode()).digest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # before Optuna 5
        return optuna.samplers.TPESampler(
            seed=int.from_bytes(digest[:4], "big"),
            n_startup_trials=NUM_STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,  # keeps off what is still running
        )


def _outcome(rows: Sequence[Row], result: Mapping[str, Any]) -> tuple[TrialState, float | None, dict[int, float]]:
    """State, value and accuracies on the way, by step. Accuracies that are no numbers are left out."""
    accuracies = {row["step"]: float(row[METRIC]) for row in rows if _is_number(row.get(METRIC))}
    value = result.get(METRIC)
    if result["status"] == "finished" and _is_number(value):
        return TrialState.COMPLETE, float(value), accuracies  # type: ignore[arg-type]
    if result["status"] == "stopped":
        return TrialState.PRUNED, accuracies[max(accuracies)] if accuracies else None, accuracies
    return TrialState.FAIL, None, accuracies


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _first_time(rows: Sequence[Row]) -> float:
    """Unix seconds of the first row; runs without one come last."""
    return min((row["time"] for row in rows), default=math.inf)


def _open(storage: str) -> BaseStorage:
    """The storage behind a URL, or a journal file.

    Raises:
        InputError: it can't be opened.
        DamagedError: it is a file and isn't Optuna's.
    """
    if "://" in storage:
        return _open_database(storage)
    path = local_path(storage, "optuna storage")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileSymlinkLock(str(path))  # who writes a line now is not to be seen in the middle of it
        lock.acquire()
        try:
            *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
        finally:
            lock.release()
        if rest:
            raise ValueError("its last line is torn, and the next one would be glued to it")
        for line in lines:  # Optuna itself would pass over a last one that is damaged, and write behind it
            json_of(line)
        return JournalStorage(JournalFileBackend(str(path)))
    except IsADirectoryError as error:
        raise _damaged(storage) from error
    except OSError as error:
        raise InputError(f"optuna storage {path} cannot be used: {reason_of(error)}; give a writable file") from error
    except Exception as error:  # whatever Optuna stumbles over
        raise _damaged(storage) from error


def _damaged(path: str) -> DamagedError:
    return DamagedError(
        f"optuna storage {path} is damaged or no journal of Optuna's: move it away, and it is made anew from the run "
        "folders"
    )


def _open_database(url: str) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(url)
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        reason = hide_secrets(reason_of(error.__cause__ or error), [url])
        raise InputError(
            f"optuna storage {hide_secrets(url, [url])} cannot be opened ({reason}): give a file, or a URL such as "
            "sqlite:////folder/optuna.db or postgresql://host/name, with user and password"
        ) from error
