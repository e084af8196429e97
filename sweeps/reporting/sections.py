"""Sections of a report: what the results of a storage say, as the blocks of a page and as rows for other tools."""

import dataclasses
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeps.planning.rates import card_of_device
from sweeps.records.cell_record import CellRecord
from sweeps.records.results import Results
from sweeps.records.trial_record import UNFINISHED
from sweeps.reporting import figures
from sweeps.reporting.best_region import Region, importances_of, validation_accuracy
from sweeps.reporting.pages import Block, Chart, Code, Folded, Heading, Page, Picture, Table, Text
from sweeps.selection.rehearsal import is_rehearsal
from sweeps.selection.rungs import Decision
from sweeps.table.cell_names import name_of_cell
from sweeps.table.cells import Cell, cell_of
from sweeps.table.labels import Labels
from sweeps.table.verdict import Status
from vit_trainer.config import FinetuneConfig
from vit_trainer.data import DATASETS
from vit_trainer.errors import InputError

CURVES, RATES, HOURS = "learning-curves.png", "accuracy-over-rate.png", "accuracy-against-hours.png"
"""Names of the pictures' files."""
MAX_OPEN_ROWS = 8
"""Longer tables are folded away, except for the main ones."""
MARKS = {Status.REPRODUCED: "✓", Status.ABOVE: "▲", Status.BELOW: "▼", Status.INCONCLUSIVE: "?"}
PUBLISHED_BY = {"official": "official", "reimplementation": "reimplementation", "quoted": "official as quoted"}
"""What the tables are called beside a figure that no verdict is about."""
STATUSES = ("finished", "stopped", "failed", UNFINISHED)


def page(results: Results, *, now: float) -> Page:
    """The whole report.

    Args:
        now: Unix seconds.
    """
    title = f"Results of {results.sweep or 'the sweep'}"
    if not results.trials:
        empty = f"No trial has begun in {results.location}: nothing to report."
        return Page(title, (Text(empty), *_left_alone(results)))
    return Page(
        title,
        (
            Text(_summary(results, now)),
            *_table(results),
            *_cell_by_cell(results),
            *_curves(results),
            *_over_rate(results),
            *_accuracy_against_hours(results),
            *_early_stopping(results),
            *_hours(results),
            *_failures(results),
            *_environment(results),
            *_commands(results),
            *_left_alone(results),
        ),
    )


def rows_of(results: Results) -> list[dict[str, Any]]:
    """The table for other tools, a row per cell: accuracies and differences as fractions, hours as numbers.

    Columns about what was published are left out where nothing is.
    """
    return [_record(record, results.has_published) for record in results.cells]


def _record(record: CellRecord, has_published: bool) -> dict[str, Any]:
    cell, figure, verdict = record.cell, record.figure, record.verdict
    first = record.chosen[0].config if record.chosen else {}
    accuracies: dict[str, float] = {each.table: each.accuracy for each in (figure, *record.others) if each is not None}
    published = {
        **{f"{table}_accuracy": accuracies.get(table) for table in PUBLISHED_BY},
        "published_left_open": record.is_left_open,
        "published_accuracy": figure and figure.accuracy,
        "difference": verdict and verdict.difference,
        "interval_95_low": verdict and verdict.interval_95[0],
        "interval_95_high": verdict and verdict.interval_95[1],
        "verdict": verdict and str(verdict.status),
        "more_seeds_needed": verdict and verdict.more_seeds_needed,
        "published_wall_hours": figure and figure.wall_hours,
        "published_card": figure and figure.card,
        "published_caveat": figure and (figure.caveat or None),
        "published_source": figure and figure.source,
    }
    return {
        "cell": name_of_cell(cell),
        "model": cell.model,
        "dataset": cell.dataset,
        "dropout": cell.dropout,
        "upstream": cell.upstream,
        "resolution": cell.resolution,
        "total_steps": cell.schedule.total_steps,
        "warmup_steps": cell.schedule.warmup_steps,
        "global_batch_size": cell.schedule.global_batch_size,
        "accuracy": record.accuracy,
        "num_seeds": len(record.chosen),
        **(published if has_published else {}),
        "validation_accuracy": record.validation_accuracy,
        "chosen_base_lr": first.get("base_lr"),
        "chosen_dropout": first.get("dropout"),
        "chosen_warmup_steps": first.get("warmup_steps"),
        "wall_hours": record.wall_hours,
        "device": record.device,
        "hours": record.hours,
        "predicted_hours": record.predicted_hours,
        "saved_hours": record.saved_hours,
        "lost_hours": record.lost_hours,
        **{f"num_{status}": record.count(status) for status in STATUSES},
        "trial_ids": " ".join(trial.trial_id for trial in record.chosen),
        "command": record.commands[-1] if record.commands else None,
        "trial_command": trial_command(record.chosen[0].config) if record.chosen else None,
    }


def trial_command(config: Mapping[str, Any]) -> str:
    """The command that runs one trial without Ray; what is the official recipe's is left out.

    Args:
        config: content of a config.json. Of a folder of classes, or weights of one's own, it doesn't know the place.
    """
    places = {"dataset": "FOLDER", "upstream": "FILE.npz"}
    official: Mapping[str, Any] = {"dropout": 0.0, "seed": 0}
    try:
        official = FinetuneConfig.official(config["model"], config["dataset"]).to_dict()
        places.pop("dataset")
    except InputError:
        pass  # a folder of classes
    if not str(config["upstream"]).startswith("npz-"):
        places.pop("upstream")
    words = ["python", "-m", "vit_trainer", "train"]
    for name in (field.name for field in dataclasses.fields(FinetuneConfig)):
        value = config[name]
        if name in ("model", "dataset") or official.get(name) != value:
            flag = "checkpoint" if name in places and name == "upstream" else name.replace("_", "-")
            words += [f"--{flag}", str(places.get(name, f"{value:g}" if isinstance(value, float) else value))]
    return shlex.join(words)


# The sections.


def _summary(results: Results, now: float) -> str:
    counts = Counter(trial.status for trial in results.trials)
    statuses = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    line = (
        f"{len(results.trials)} trials of {len(results.cells)} cells in {results.location}: {statuses}. "
        f"Together {duration(sum(trial.hours for trial in results.trials))} of {_unit(results)} time. "
        f"Written {_date(now)} from the run folders."
    )
    verdicts = Counter(record.verdict.status for record in results.cells if record.verdict is not None)
    if verdicts:
        said = [f"{verdicts[status]} {status}" for status in Status if verdicts[status]]
        num_open = sum(record.figure is not None and record.verdict is None for record in results.cells)
        said += [f"{num_open} without a result"] if num_open else []
        line += f" Beside the published figures: {', '.join(said)}."
    return line


def _table(results: Results) -> list[Block]:
    """Models and what else varies as rows, (data set, dropout) as columns, as the published table has them."""
    labels = labels_of(results)
    in_order = sorted(results.cells, key=lambda record: _column_place(record.cell))
    columns = list(dict.fromkeys(labels.column(record.cell) for record in in_order))
    rows: dict[tuple[str, ...], dict[tuple[str, str], CellRecord]] = {}
    for record in results.cells:
        rows.setdefault(labels.row(record.cell), {})[labels.column(record.cell)] = record
    texts = tuple(
        ("\n".join(row), *(_entry_text(records[column]) if column in records else "" for column in columns))
        for row, records in rows.items()
    )
    header = ("model", *map("\n".join, columns))
    explained = "Test accuracy in percent of the candidate that is best on held-out training images, over all its seeds"
    if results.has_published:
        explained += "; what was published, the difference in points and the verdict (docs/verdict.md)"
    explained += "; how long one run took, and on what."
    recipes = dict.fromkeys(f"{record.cell.dataset}: {labels.recipe(record.cell)}." for record in results.cells)
    return [Heading("The table"), Table(header, texts, is_grid=True), Text(explained), *map(Text, recipes)]


def _column_place(cell: Cell) -> tuple[object, ...]:
    """Columns of one data set together, in the order of the published table."""
    datasets = list(DATASETS)
    dataset = datasets.index(cell.dataset) if cell.dataset in datasets else len(datasets)
    return (dataset, cell.dataset, -1.0 if cell.dropout is None else cell.dropout)


def _entry_text(record: CellRecord) -> str:
    if record.accuracy is None:
        return UNFINISHED if record.count(UNFINISHED) else "failed" if record.count("failed") else "no result"
    lines = [percent(record.accuracy)]
    if record.figure is not None and record.verdict is not None:
        lines.append(f"published {percent(record.figure.accuracy)}, {points(record.verdict.difference)}")
        lines.append(_verdict_text(record.verdict.status))
    lines += [
        f"{PUBLISHED_BY[other.table]} {percent(other.accuracy)}, {points(record.accuracy - other.accuracy)}"
        for other in record.others
    ]
    lines += ["published: left open"] if record.is_left_open else []
    took = duration(record.wall_hours or 0.0)
    lines.append(f"{took}, {card}" if (card := _card(record)) else took)
    if record.count(UNFINISHED):
        lines.append(f"{record.count(UNFINISHED)} unfinished")
    return "\n".join(lines)


def _cell_by_cell(results: Results) -> list[Block]:
    header = ["cell", "accuracy"]
    header += ["published", "difference,\n95% interval", "verdict"] if results.has_published else []
    header += ["chosen\nbase_lr", "seeds", "candidates", "time of\none run", f"{_unit(results)} time\nof all", "on"]
    rows = []
    for record in results.cells:
        row = [name_of(record, results), "" if record.accuracy is None else percent(record.accuracy)]
        if results.has_published:
            row += _published_texts(record)
        counts = [f"{record.count(status)} {status}" for status in STATUSES if record.count(status)]
        row += [
            record.name_of(record.chosen[0]).partition(" seed ")[0] if record.chosen else "",
            str(len(record.chosen)) if record.chosen else "",
            "\n".join(counts),
            "" if record.wall_hours is None else duration(record.wall_hours),
            duration(record.hours),
            _card(record),
        ]
        rows.append(tuple(row))
    numbers = frozenset(
        i for i, name in enumerate(header) if name in ("accuracy", "published", "seeds") or "time" in name
    )
    blocks: list[Block] = [Heading("Cell by cell"), Table(tuple(header), tuple(rows), numbers=numbers)]
    shown = [figure for record in results.cells for figure in (record.figure, *record.others) if figure is not None]
    caveats = {figure.caveat: figure.source for figure in shown}
    blocks += [Text(f"Published by {source}: {caveat}.") for caveat, source in caveats.items() if caveat]
    for record in results.cells:
        if count := record.num_stopped_seeds:
            line = (
                f"{name_of(record, results)}: early stopping ended {count} of the chosen candidate's seeds, so those "
                "that count are the better ones. To compare seeds, run them with --no-early-stopping."
            )
            blocks.append(Text(line))
    return blocks


def _published_texts(record: CellRecord) -> list[str]:
    figure, verdict = record.figure, record.verdict
    published = [] if figure is None else [percent(figure.accuracy)]
    published += [f"{percent(other.accuracy)} {PUBLISHED_BY[other.table]}" for other in record.others]
    published += ["left open"] if record.is_left_open else []
    if verdict is None:
        return ["\n".join(published), "", ""]
    low, high = verdict.interval_95
    said = _verdict_text(verdict.status)
    if verdict.status is Status.INCONCLUSIVE:
        more = verdict.more_seeds_needed
        plural = "seed" if more == 1 else "seeds"
        said += "\nno number of seeds would decide" if more is None else f"\n{more} more {plural} would decide"
    return ["\n".join(published), f"{points(verdict.difference)}\n{points(low)} to {points(high)}", said]


def _curves(results: Results) -> list[Block]:
    records = records_with_curves(results)
    if not records:
        return []
    charts = tuple(
        Chart(name_of(record, results), figures.svg(figures.curves(record), f"curves-{i}"))
        for i, record in enumerate(records)
    )
    explained = (
        "Accuracy on held-out training images. A cross ends a candidate that early stopping ended, a dot one that "
        "finished, a triangle one that failed, a bar one that isn't done. What came before a "
        "quarter of the steps may lie below what is shown."
    )
    return [
        Heading("Learning curves"),
        Text(explained),
        Picture(CURVES, "Validation accuracy over optimiser steps, a chart per cell", charts),
    ]


def records_with_curves(results: Results) -> list[CellRecord]:
    """Those of which there is a validation to draw."""
    return [record for record in results.cells if any(trial.validations for trial in record.trials)]


def _over_rate(results: Results) -> list[Block]:
    regions = regions_of(results)
    if not regions:
        return []
    charts = tuple(
        Chart(name_of(record, results), figures.svg(figures.over_rate(record, region), f"rate-{i}"))
        for i, (record, region) in enumerate(regions)
    )
    rows = []
    for record, region in regions:
        best, official = validation_accuracy(region.best), region.official
        rows.append(
            (
                name_of(record, results),
                f"{record.name_of(region.best)}: {percent(best)}",
                f"{region.low:g} to {region.high:g}",
                "not finished"
                if official is None
                else f"{record.name_of(official)}: {percent(validation_accuracy(official))}",
                "" if official is None else points(best - validation_accuracy(official)),
                "\n".join(f"{name} {share:.0%}" for name, share in importances_of(record).items()),
            )
        )
    header = ("cell", "best", "best region", "official", "difference", "what mattered")
    explained = (
        "Validation accuracy over the learning rate: a dot for a finished candidate, a cross where one was stopped, a "
        "ring around the best. The best region, shaded, is what lies within one standard error of the best accuracy, "
        "given how many images were held out. The dashed line is the official rate. What mattered, if several values "
        "were searched: how much of what candidates differ by at the last step that all reached each explains (fANOVA)."
    )
    alt = "Validation accuracy over the learning rate, a chart per cell"
    return [
        Heading("Accuracy over the learning rate"),
        Text(explained),
        Picture(RATES, alt, charts),
        Table(header, tuple(rows), numbers=frozenset({4})),
    ]


def regions_of(results: Results) -> list[tuple[CellRecord, Region]]:
    """Cells in which enough learning rates were tried to draw accuracy over them."""
    found = [(record, Region.of(record)) for record in results.cells]
    return [(record, region) for record, region in found if region is not None]


def _accuracy_against_hours(results: Results) -> list[Block]:
    by_dataset = records_by_dataset(results)
    if not by_dataset:
        return []
    charts = tuple(
        Chart(dataset, figures.svg(figures.accuracy_against_hours(records, unit(results)), f"hours-{dataset}"))
        for dataset, records in by_dataset.items()
    )
    alt = f"Test accuracy against the {unit(results)} that all candidates of a cell took, a chart per data set"
    return [Heading(f"Accuracy against {unit(results)}"), Picture(HOURS, alt, charts)]


def records_by_dataset(results: Results) -> dict[str, list[CellRecord]]:
    """Those with an accuracy."""
    by_dataset: dict[str, list[CellRecord]] = {}
    for record in results.cells:
        if record.accuracy is not None:
            by_dataset.setdefault(record.cell.dataset, []).append(record)
    return by_dataset


def _early_stopping(results: Results) -> list[Block]:
    stopped = [(record, trial) for record in results.cells for trial in record.trials if trial.status == "stopped"]
    if not results.decisions and not stopped:
        return []
    latest: dict[str, Decision] = {each.trial_id: each for each in results.decisions if each.action == "stops"}
    saved = duration(sum(trial.saved_hours for _, trial in stopped))
    line = f"Candidates stopped: {len(stopped)}, which saved at least {saved} of {_unit(results)} time."
    rehearsed = [(each.group, each.trial_id, each.rule) for each in results.decisions if is_rehearsal(each)]
    if num_at_rungs := len(results.decisions) - len(rehearsed):
        line += f" Decisions at rungs on record: {num_at_rungs}."
    rows = []
    for record, trial in stopped:
        decision = latest.get(trial.trial_id)
        rule = str((trial.result or {}).get("cause") or (decision.rule if decision else "not recorded"))
        when = "" if trial.last_time is None else _date(trial.last_time)
        rows.append(
            (name_of(record, results), record.name_of(trial), when, f"{trial.step} of {trial.total_steps}", rule)
        )
    header = ("cell", "base_lr", "when", "step", "why")
    blocks: list[Block] = [
        Heading("What early stopping did"),
        Text(line),
        *_table_of(header, rows, "Every stopped candidate"),
    ]
    return blocks + _table_of(
        ("cell", "trial", "why it went on, or never began"), rehearsed, "Every rehearsed candidate"
    )


def _hours(results: Results) -> list[Block]:
    header = ("cell", "predicted", "actual", "saved by stopping", "lost to faults")
    rows = [
        (
            name_of(record, results),
            "not known" if record.predicted_hours is None else duration(record.predicted_hours),
            duration(record.hours),
            duration(record.saved_hours),
            duration(record.lost_hours),
        )
        for record in results.cells
    ]
    known = [trial for trial in results.trials if trial.predicted_hours_so_far is not None]
    lines = [f"Times are {unit(results)}; what was saved and lost are lower bounds."]
    if known:
        predicted = sum(trial.predicted_hours_so_far or 0.0 for trial in known)
        actual = sum(trial.hours for trial in known)
        lines.append(
            f"The steps of {len(known)} of {len(results.trials)} trials were predicted to take {duration(predicted)} "
            f"and took {duration(actual)}: {actual / predicted:.2f} times that."
        )
    else:
        lines.append("Nothing was predicted: no probe of these models on this device, and its peak is not known.")
    return [
        Heading("Hours"),
        Text(" ".join(lines)),
        *_table_of(header, rows, "Hours of every cell", numbers=range(1, len(header))),
    ]


def _failures(results: Results) -> list[Block]:
    failed = [trial for trial in results.trials if trial.status == "failed"]
    blocks: list[Block] = [] if failed else [Text("No trial failed.")]
    blocks += _table_of(
        ("failed trial", "step", "cause"),
        [(trial.trial_id, str(trial.step), str((trial.result or {}).get("cause"))) for trial in failed],
        "Failed trials",
    )
    traces = Counter(str((trial.result or {}).get("traceback") or "").rstrip() for trial in failed)
    for trace, count in traces.items():
        if trace:
            blocks.append(
                Folded(f"Where {count} of them failed" if len(failed) > 1 else "Where it failed", Code(trace))
            )
    blocks += _table_of(
        ("trial that went on", "attempts", "lost", "notes"),
        [
            (trial.trial_id, str(len(trial.attempts)), duration(trial.lost_hours), "\n".join(trial.notes))
            for trial in results.trials
            if len(trial.attempts) > 1 or trial.notes
        ],
        "Trials that went on after a fault",
    )
    blocks += _table_of(
        ("trial without a result", "step", "last seen"),
        [
            (
                trial.trial_id,
                f"{trial.step} of {trial.total_steps}",
                "" if trial.last_time is None else _date(trial.last_time),
            )
            for trial in results.trials
            if trial.status == UNFINISHED
        ],
        "Trials without a result",
    )
    return [Heading("Failures"), *blocks]


def _table_of(
    header: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    title: str,
    *,
    numbers: Iterable[int] = (),
    code: Iterable[int] = (),
) -> list[Block]:
    """A table, unless it would be empty; a long one is folded away under its title."""
    if not rows:
        return []
    table = Table(header, tuple(rows), numbers=frozenset(numbers), code=frozenset(code))
    return [Folded(f"{title} ({len(rows)})", table) if len(rows) > MAX_OPEN_ROWS else table]


def _environment(results: Results) -> list[Block]:
    found: dict[str, Counter[str]] = {}

    def count(name: str, value: object) -> None:
        found.setdefault(name, Counter())[str(value) if value else "not recorded"] += 1

    last_attempts = [(trial, trial.last_attempt) for trial in results.trials]
    for _, last in last_attempts:
        for name, value in (last.get("versions") or {"versions": None}).items():
            count(name, value)
        count("commit", last.get("commit"))
        count("host", last.get("host"))
        count("device", last.get("device_name") or last.get("device"))
    for trial, last in last_attempts:
        weights = f"SHA-256 {last['weights_sha256']}" if last.get("weights_sha256") else None
        upstream = trial.config["upstream"]
        count(f"weights of {trial.config['model']}, {upstream}", "random" if upstream == "scratch" else weights)
    for trial, _ in last_attempts:
        count(f"data of {trial.config['dataset']}", _data(str(trial.config["dataset"])))
    rows = tuple((name, value, str(number)) for name, values in found.items() for value, number in values.most_common())
    return [Heading("Environment"), Table(("what", "value", "trials"), rows, numbers=frozenset({2}))]


def _data(dataset: str) -> str:
    """How the images are known to be those that they should be."""
    if dataset.startswith("cifar"):
        return "the published files: their MD5s are checked before they are read"
    if dataset.startswith("digits-"):
        return "as scikit-learn has them"
    if dataset == "imagenet2012":
        return "not hashed: which files there are is checked, not what is in them"
    return "a hash of all names and sizes is part of its name"


def _commands(results: Results) -> list[Block]:
    """The sweeps that ran the cells, and each cell's chosen trial alone."""
    by_command: dict[str, list[str]] = {}
    for record in results.cells:
        for line in record.commands:
            by_command.setdefault(line, []).append(name_of(record, results))
    every = len(results.cells)
    sweeps = [(line, "every cell" if len(names) == every else "\n".join(names)) for line, names in by_command.items()]
    trials = [
        (name_of(record, results), name_of_cell(cell_of(config)), trial_command(config))
        for record, config in ((record, record.chosen[0].config) for record in results.cells if record.chosen)
    ]
    return [
        Heading("The commands that made each row"),
        *_table_of(("sweep", "for"), sweeps, "Sweeps", code=[0]),
        *_table_of(
            ("cell", "its name for --cells", "its chosen trial alone"),
            trials,
            "The chosen trial of every cell alone",
            code=[1, 2],
        ),
    ]


def _left_alone(results: Results) -> list[Block]:
    if not results.complaints:
        return []
    table = Table(("what could not be read",), tuple((complaint,) for complaint in results.complaints))
    return [Heading("Left out"), Text("These were left as they are:"), table]


# Texts.


def percent(fraction: float) -> str:
    """In percent with two decimals, as it was published.

    >>> percent(0.9876)
    '98.76'
    """
    return f"{100 * fraction:.2f}"


def points(fraction: float) -> str:
    """A difference in percentage points.

    >>> points(0.0012)
    '+0.12'
    """
    return f"{100 * fraction:+.2f}"


def duration(hours: float) -> str:
    """Hours as one reads them.

    >>> duration(731.4), duration(7.84), duration(0.5), duration(0.0021), duration(0)
    ('731 h', '7.8 h', '30 min', '7.6 s', '0')
    """
    for unit_name, value in (("h", hours), ("min", 60 * hours), ("s", 3600 * hours)):
        if value >= 1 or (unit_name == "s" and value > 0):
            return f"{value:.0f} {unit_name}" if value >= 10 else f"{value:.1f} {unit_name}"
    return "0"


def unit(results: Results) -> str:
    """Of the hours that trials took."""
    return f"{_unit(results)}-hours"


def _unit(results: Results) -> str:
    return "GPU" if results.on_gpus else "slot"


def name_of(record: CellRecord, results: Results) -> str:
    """The cell as one reads it: what all cells of a model, data set and dropout share is left out."""
    return labels_of(results).name(record.cell)


def labels_of(results: Results) -> Labels:
    """What rows, columns and cells are called."""
    return Labels.of(record.cell for record in results.cells)


def _verdict_text(status: Status) -> str:
    return f"{MARKS[status]} {status}"


def _card(record: CellRecord) -> str:
    """What the chosen candidate ran on, in a word or two."""
    trial = next((trial for trial in record.chosen if trial.attempts), None)
    if trial is None:
        return ""
    attempt = trial.last_attempt
    card = card_of_device(str(attempt.get("device_name")))
    name = card.name if card else "CPU" if attempt.get("device") == "cpu" else str(attempt.get("device_name") or "")
    number = int(attempt.get("num_processes", 1))
    return f"{number} x {name}" if name and number > 1 else name


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
