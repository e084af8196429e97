"""Sections of a report: what the results of a storage say, as the blocks of a page and as rows for other tools."""

import dataclasses
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeps.planning.rates import card_of_device
from sweeps.records.results import UNFINISHED, Entry, Results
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
from vit_trainer.data.datasets import DATASETS, family_of
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
    if not results.runs:
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


def records(results: Results) -> list[dict[str, Any]]:
    """The table for other tools, a row per cell: accuracies and differences as fractions, hours as numbers.

    Columns about what was published are left out where nothing is.
    """
    return [_record(entry, results.has_published) for entry in results.entries]


def _record(entry: Entry, has_published: bool) -> dict[str, Any]:
    cell, figure, verdict = entry.cell, entry.figure, entry.verdict
    first = entry.chosen[0].config if entry.chosen else {}
    accuracies: dict[str, float] = {each.table: each.accuracy for each in (figure, *entry.others) if each is not None}
    published = {
        **{f"{table}_accuracy": accuracies.get(table) for table in PUBLISHED_BY},
        "published_left_open": entry.is_left_open,
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
        "accuracy": entry.accuracy,
        "num_seeds": len(entry.chosen),
        **(published if has_published else {}),
        "validation_accuracy": entry.validation_accuracy,
        "chosen_base_lr": first.get("base_lr"),
        "chosen_dropout": first.get("dropout"),
        "chosen_warmup_steps": first.get("warmup_steps"),
        "wall_hours": entry.wall_hours,
        "device": entry.device,
        "hours": entry.hours,
        "predicted_hours": entry.predicted_hours,
        "saved_hours": entry.saved_hours,
        "lost_hours": entry.lost_hours,
        **{f"num_{status}": entry.count(status) for status in STATUSES},
        "trial_ids": " ".join(run.trial_id for run in entry.chosen),
        "command": entry.commands[-1] if entry.commands else None,
        "trial_command": trial_command(entry.chosen[0].config) if entry.chosen else None,
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
    counts = Counter(run.status for run in results.runs)
    statuses = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    line = (
        f"{len(results.runs)} trials of {len(results.entries)} cells in {results.location}: {statuses}. "
        f"Together {duration(sum(run.hours for run in results.runs))} of {_unit(results)} time. "
        f"Written {_date(now)} from the run folders."
    )
    verdicts = Counter(entry.verdict.status for entry in results.entries if entry.verdict is not None)
    if verdicts:
        said = [f"{verdicts[status]} {status}" for status in Status if verdicts[status]]
        num_open = sum(entry.figure is not None and entry.verdict is None for entry in results.entries)
        said += [f"{num_open} without a result"] if num_open else []
        line += f" Beside the published figures: {', '.join(said)}."
    return line


def _table(results: Results) -> list[Block]:
    """Models and what else varies as rows, (data set, dropout) as columns, as the published table has them."""
    labels = labels_of(results)
    in_order = sorted(results.entries, key=lambda entry: _column_place(entry.cell))
    columns = list(dict.fromkeys(labels.column(entry.cell) for entry in in_order))
    rows: dict[tuple[str, ...], dict[tuple[str, str], Entry]] = {}
    for entry in results.entries:
        rows.setdefault(labels.row(entry.cell), {})[labels.column(entry.cell)] = entry
    texts = tuple(
        ("\n".join(row), *(_entry_text(entries[column]) if column in entries else "" for column in columns))
        for row, entries in rows.items()
    )
    header = ("model", *map("\n".join, columns))
    explained = "Test accuracy in percent of the candidate that is best on held-out training images, over all its seeds"
    if results.has_published:
        explained += "; what was published, the difference in points and the verdict (docs/verdict.md)"
    explained += "; how long one run took, and on what."
    recipes = dict.fromkeys(f"{entry.cell.dataset}: {labels.recipe(entry.cell)}." for entry in results.entries)
    return [Heading("The table"), Table(header, texts, is_grid=True), Text(explained), *map(Text, recipes)]


def _column_place(cell: Cell) -> tuple[object, ...]:
    """Columns of one data set together, in the order of the published table."""
    datasets = list(DATASETS)
    dataset = datasets.index(cell.dataset) if cell.dataset in datasets else len(datasets)
    return (dataset, cell.dataset, -1.0 if cell.dropout is None else cell.dropout)


def _entry_text(entry: Entry) -> str:
    if entry.accuracy is None:
        return UNFINISHED if entry.count(UNFINISHED) else "failed" if entry.count("failed") else "no result"
    lines = [percent(entry.accuracy)]
    if entry.figure is not None and entry.verdict is not None:
        lines.append(f"published {percent(entry.figure.accuracy)}, {points(entry.verdict.difference)}")
        lines.append(_verdict_text(entry.verdict.status))
    lines += [
        f"{PUBLISHED_BY[other.table]} {percent(other.accuracy)}, {points(entry.accuracy - other.accuracy)}"
        for other in entry.others
    ]
    lines += ["published: left open"] if entry.is_left_open else []
    took = duration(entry.wall_hours or 0.0)
    lines.append(f"{took}, {card}" if (card := _card(entry)) else took)
    if entry.count(UNFINISHED):
        lines.append(f"{entry.count(UNFINISHED)} unfinished")
    return "\n".join(lines)


def _cell_by_cell(results: Results) -> list[Block]:
    header = ["cell", "accuracy"]
    header += ["published", "difference,\n95% interval", "verdict"] if results.has_published else []
    header += ["chosen\nbase_lr", "seeds", "candidates", "time of\none run", f"{_unit(results)} time\nof all", "on"]
    rows = []
    for entry in results.entries:
        row = [name_of(entry, results), "" if entry.accuracy is None else percent(entry.accuracy)]
        if results.has_published:
            row += _published_texts(entry)
        counts = [f"{entry.count(status)} {status}" for status in STATUSES if entry.count(status)]
        row += [
            entry.name_of(entry.chosen[0]).partition(" seed ")[0] if entry.chosen else "",
            str(len(entry.chosen)) if entry.chosen else "",
            "\n".join(counts),
            "" if entry.wall_hours is None else duration(entry.wall_hours),
            duration(entry.hours),
            _card(entry),
        ]
        rows.append(tuple(row))
    numbers = frozenset(
        i for i, name in enumerate(header) if name in ("accuracy", "published", "seeds") or "time" in name
    )
    blocks: list[Block] = [Heading("Cell by cell"), Table(tuple(header), tuple(rows), numbers=numbers)]
    shown = [figure for entry in results.entries for figure in (entry.figure, *entry.others) if figure is not None]
    caveats = {figure.caveat: figure.source for figure in shown}
    blocks += [Text(f"Published by {source}: {caveat}.") for caveat, source in caveats.items() if caveat]
    for entry in results.entries:
        if count := entry.num_stopped_seeds:
            line = (
                f"{name_of(entry, results)}: early stopping ended {count} of the chosen candidate's seeds, so those "
                "that count are the better ones. To compare seeds, run them with --no-early-stopping."
            )
            blocks.append(Text(line))
    return blocks


def _published_texts(entry: Entry) -> list[str]:
    figure, verdict = entry.figure, entry.verdict
    published = [] if figure is None else [percent(figure.accuracy)]
    published += [f"{percent(other.accuracy)} {PUBLISHED_BY[other.table]}" for other in entry.others]
    published += ["left open"] if entry.is_left_open else []
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
    entries = entries_with_curves(results)
    if not entries:
        return []
    charts = tuple(
        Chart(name_of(entry, results), figures.svg(figures.curves(entry), f"curves-{i}"))
        for i, entry in enumerate(entries)
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


def entries_with_curves(results: Results) -> list[Entry]:
    """Those of which there is a validation to draw."""
    return [entry for entry in results.entries if any(run.validations for run in entry.runs)]


def _over_rate(results: Results) -> list[Block]:
    regions = regions_of(results)
    if not regions:
        return []
    charts = tuple(
        Chart(name_of(entry, results), figures.svg(figures.over_rate(entry, region), f"rate-{i}"))
        for i, (entry, region) in enumerate(regions)
    )
    rows = []
    for entry, region in regions:
        best, official = validation_accuracy(region.best), region.official
        rows.append(
            (
                name_of(entry, results),
                f"{entry.name_of(region.best)}: {percent(best)}",
                f"{region.low:g} to {region.high:g}",
                "not finished"
                if official is None
                else f"{entry.name_of(official)}: {percent(validation_accuracy(official))}",
                "" if official is None else points(best - validation_accuracy(official)),
                "\n".join(f"{name} {share:.0%}" for name, share in importances_of(entry).items()),
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


def regions_of(results: Results) -> list[tuple[Entry, Region]]:
    """Cells in which enough learning rates were tried to draw accuracy over them."""
    found = [(entry, Region.of(entry)) for entry in results.entries]
    return [(entry, region) for entry, region in found if region is not None]


def _accuracy_against_hours(results: Results) -> list[Block]:
    by_dataset = entries_by_dataset(results)
    if not by_dataset:
        return []
    charts = tuple(
        Chart(dataset, figures.svg(figures.accuracy_against_hours(entries, unit(results)), f"hours-{dataset}"))
        for dataset, entries in by_dataset.items()
    )
    alt = f"Test accuracy against the {unit(results)} that all candidates of a cell took, a chart per data set"
    return [Heading(f"Accuracy against {unit(results)}"), Picture(HOURS, alt, charts)]


def entries_by_dataset(results: Results) -> dict[str, list[Entry]]:
    """Those with an accuracy."""
    by_dataset: dict[str, list[Entry]] = {}
    for entry in results.entries:
        if entry.accuracy is not None:
            by_dataset.setdefault(entry.cell.dataset, []).append(entry)
    return by_dataset


def _early_stopping(results: Results) -> list[Block]:
    stopped = [(entry, run) for entry in results.entries for run in entry.runs if run.status == "stopped"]
    if not results.decisions and not stopped:
        return []
    latest: dict[str, Decision] = {each.trial_id: each for each in results.decisions if each.action == "stops"}
    saved = duration(sum(run.saved_hours for _, run in stopped))
    line = f"Candidates stopped: {len(stopped)}, which saved at least {saved} of {_unit(results)} time."
    rehearsed = [(each.group, each.trial_id, each.rule) for each in results.decisions if is_rehearsal(each)]
    if num_at_rungs := len(results.decisions) - len(rehearsed):
        line += f" Decisions at rungs on record: {num_at_rungs}."
    rows = []
    for entry, run in stopped:
        decision = latest.get(run.trial_id)
        rule = str((run.result or {}).get("cause") or (decision.rule if decision else "not recorded"))
        when = "" if run.last_time is None else _date(run.last_time)
        rows.append((name_of(entry, results), entry.name_of(run), when, f"{run.step} of {run.total_steps}", rule))
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
            name_of(entry, results),
            "not known" if entry.predicted_hours is None else duration(entry.predicted_hours),
            duration(entry.hours),
            duration(entry.saved_hours),
            duration(entry.lost_hours),
        )
        for entry in results.entries
    ]
    known = [run for run in results.runs if run.predicted_hours_so_far is not None]
    lines = [f"Times are {unit(results)}; what was saved and lost are lower bounds."]
    if known:
        predicted = sum(run.predicted_hours_so_far or 0.0 for run in known)
        actual = sum(run.hours for run in known)
        lines.append(
            f"The steps of {len(known)} of {len(results.runs)} trials were predicted to take {duration(predicted)} and "
            f"took {duration(actual)}: {actual / predicted:.2f} times that."
        )
    else:
        lines.append("Nothing was predicted: no probe of these models on this device, and its peak is not known.")
    return [
        Heading("Hours"),
        Text(" ".join(lines)),
        *_table_of(header, rows, "Hours of every cell", numbers=range(1, len(header))),
    ]


def _failures(results: Results) -> list[Block]:
    failed = [run for run in results.runs if run.status == "failed"]
    blocks: list[Block] = [] if failed else [Text("No trial failed.")]
    blocks += _table_of(
        ("failed trial", "step", "cause"),
        [(run.trial_id, str(run.step), str((run.result or {}).get("cause"))) for run in failed],
        "Failed trials",
    )
    traces = Counter(str((run.result or {}).get("traceback") or "").rstrip() for run in failed)
    for trace, count in traces.items():
        if trace:
            blocks.append(
                Folded(f"Where {count} of them failed" if len(failed) > 1 else "Where it failed", Code(trace))
            )
    blocks += _table_of(
        ("trial that went on", "attempts", "lost", "notes"),
        [
            (run.trial_id, str(len(run.attempts)), duration(run.lost_hours), "\n".join(run.notes))
            for run in results.runs
            if len(run.attempts) > 1 or run.notes
        ],
        "Trials that went on after a fault",
    )
    blocks += _table_of(
        ("trial without a result", "step", "last seen"),
        [
            (run.trial_id, f"{run.step} of {run.total_steps}", "" if run.last_time is None else _date(run.last_time))
            for run in results.runs
            if run.status == UNFINISHED
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

    last_attempts = [(run, run.attempts[-1] if run.attempts else {}) for run in results.runs]
    for _, last in last_attempts:
        for name, value in (last.get("versions") or {"versions": None}).items():
            count(name, value)
        count("commit", last.get("commit"))
        count("host", last.get("host"))
        count("device", last.get("device_name") or last.get("device"))
    for run, last in last_attempts:
        weights = f"SHA-256 {last['weights_sha256']}" if last.get("weights_sha256") else None
        upstream = run.config["upstream"]
        count(f"weights of {run.config['model']}, {upstream}", "random" if upstream == "scratch" else weights)
    for run, _ in last_attempts:
        count(f"data of {run.config['dataset']}", _data(str(run.config["dataset"])))
    rows = tuple((name, value, str(number)) for name, values in found.items() for value, number in values.most_common())
    return [Heading("Environment"), Table(("what", "value", "trials"), rows, numbers=frozenset({2}))]


def _data(dataset: str) -> str:
    """How the images are known to be those that they should be."""
    family = family_of(dataset)
    if family == "cifar":
        return "the published files: their MD5s are checked before they are read"
    if family == "digits":
        return "as scikit-learn has them"
    if family == "imagenet":
        return "not hashed: which files there are is checked, not what is in them"
    return "a hash of all names and sizes is part of its name"


def _commands(results: Results) -> list[Block]:
    """The sweeps that ran the cells, and each cell's chosen trial alone."""
    by_command: dict[str, list[str]] = {}
    for entry in results.entries:
        for line in entry.commands:
            by_command.setdefault(line, []).append(name_of(entry, results))
    every = len(results.entries)
    sweeps = [(line, "every cell" if len(names) == every else "\n".join(names)) for line, names in by_command.items()]
    trials = [
        (name_of(entry, results), name_of_cell(cell_of(config)), trial_command(config))
        for entry, config in ((entry, entry.chosen[0].config) for entry in results.entries if entry.chosen)
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


def name_of(entry: Entry, results: Results) -> str:
    """The cell as one reads it: what all cells of a model, data set and dropout share is left out."""
    return labels_of(results).name(entry.cell)


def labels_of(results: Results) -> Labels:
    """What rows, columns and cells are called."""
    return Labels.of(entry.cell for entry in results.entries)


def _verdict_text(status: Status) -> str:
    return f"{MARKS[status]} {status}"


def _card(entry: Entry) -> str:
    """What the chosen candidate ran on, in a word or two."""
    run = next((run for run in entry.chosen if run.attempts), None)
    if run is None:
        return ""
    attempt = run.attempts[-1]
    card = card_of_device(str(attempt.get("device_name")))
    name = card.name if card else "CPU" if attempt.get("device") == "cpu" else str(attempt.get("device_name") or "")
    number = int(attempt.get("num_processes", 1))
    return f"{number} x {name}" if name and number > 1 else name


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
