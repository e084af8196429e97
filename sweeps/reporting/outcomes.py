"""Outcomes: what became of trials: their mistakes, those that early stopping ended, the hours of all, what failed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sweeps.records.decisions import Decision
from sweeps.records.results import Results
from sweeps.records.trial_record import TrialRecord
from sweeps.reporting.pages import Block, Code, Folded, Heading, Paragraph, foldable_table
from sweeps.reporting.texts import card_name, date, duration, hours_name, name_of, percent, time_name
from sweeps.selection.rehearsal import is_rehearsal
from vit_trainer.data.class_names import class_names
from vit_trainer.data.datasets import DATASETS
from vit_trainer.errors import InputError
from vit_trainer.files.predictions import Predictions
from vit_trainer.files.run_dir import PREDICTIONS
from vit_trainer.files.schema import UNFINISHED
from vit_trainer.files.storage import Storage
from vit_trainer.inference.scores import class_scores

NUM_MISTAKES = 3
"""Classes, and pairs of them, that are named of each cell."""


def mistakes(results: Results) -> list[Block]:
    """The hardest classes of each cell, and what they are taken for; nothing where no run has kept predictions."""
    found = [(each, mistakes_of(each.chosen, each.cell.dataset, results.location)) for each in results.cells]
    rows = [(name_of(record, results), *row) for record, row in found if row is not None]
    if not rows:
        return []
    header = ("cell", "wrong", "hardest classes", "most often taken for another")
    explained = (
        "Of the chosen candidate, all of its seeds together. Every run folder has the five likeliest classes of each "
        "test image in predictions.npz; python -m vit_trainer score reads it."
    )
    return [
        Heading("Mistakes"),
        Paragraph(explained),
        *foldable_table(header, rows, "Mistakes of every cell", numbers=[1]),
    ]


def mistakes_of(
    trials: Sequence[TrialRecord], dataset: str, location: str, most: int = NUM_MISTAKES
) -> tuple[str, ...] | None:
    """How many images trials of one data set got wrong, the hardest classes, and what they are taken for.

    Args:
        location: the storage's.
        most: how many classes, and pairs of them, are named.

    Returns:
        A text for each of the three; None where no run has kept predictions.
    """
    kept = [found for trial in trials if (found := _predictions(location, trial.trial_id)) is not None]
    if not any(each.num_images for each in kept):
        return None
    right, images = Counter[int](), Counter[int]()
    taken = Counter[tuple[int, int]]()
    for score in (score for each in kept for score in class_scores(each)):
        right[score.label] += score.num_correct
        images[score.label] += score.num_images
        taken.update({(score.label, other): count for other, count in score.confused_with})
    seen = {*images, *(label for pair in taken for label in pair)}
    named = next((each for each in kept if each.class_names.size), kept[0])
    if not named.class_names.size and dataset in DATASETS:  # an older version's
        named = replace(named, class_names=np.array(class_names(dataset)))
    names = {label: named.name_of(label) for label in seen}
    missed = [label for label in images if right[label] < images[label]]
    hardest = sorted(missed, key=lambda label: right[label] / images[label])[:most]
    return (
        f"{images.total() - right.total()} of {images.total()}",
        ", ".join(f"{names[label]} {percent(right[label] / images[label])}%" for label in hardest),
        ", ".join(f"{names[a]} for {names[b]} ({count})" for (a, b), count in taken.most_common(most)),
    )


def _predictions(location: str, trial_id: str) -> Predictions | None:
    try:
        content = Storage(location).run_dir(trial_id).folder.read(PREDICTIONS)
        return None if content is None else Predictions.from_bytes(content)
    except (InputError, OSError):  # the result stands without it
        return None


def early_stopping(results: Results) -> list[Block]:
    """Which candidates early stopping ended, and why; nothing where it decided nothing."""
    stopped = [(record, trial) for record in results.cells for trial in record.trials if trial.status == "stopped"]
    if not results.decisions and not stopped:
        return []
    latest: dict[str, Decision] = {each.trial_id: each for each in results.decisions if each.action == "stops"}
    saved = duration(sum(trial.saved_hours for _, trial in stopped))
    line = f"Candidates stopped: {len(stopped)}, which saved at least {saved} of {time_name(results)}."
    rehearsed = [(each.group, each.trial_id, each.rule) for each in results.decisions if is_rehearsal(each)]
    if num_at_rungs := len(results.decisions) - len(rehearsed):
        line += f" Decisions at rungs on record: {num_at_rungs}."
    rows = []
    for record, trial in stopped:
        decision = latest.get(trial.trial_id)
        rule = str((trial.result or {}).get("cause") or (decision.rule if decision else "not recorded"))
        when = "" if trial.last_time is None else date(trial.last_time)
        rows.append(
            (name_of(record, results), record.name_of(trial), when, f"{trial.step} of {trial.total_steps}", rule)
        )
    header = ("cell", "base_lr", "when", "step", "why")
    blocks: list[Block] = [
        Heading("What early stopping did"),
        Paragraph(line),
        *foldable_table(header, rows, "Every stopped candidate"),
    ]
    return blocks + foldable_table(
        ("cell", "trial", "why it went on, or never began"), rehearsed, "Every rehearsed candidate"
    )


def hours(results: Results) -> list[Block]:
    """The hours of every cell: predicted, actual, saved and lost."""
    costs = [(record, record.dollars) for record in results.cells if record.dollars is not None]
    header = ("cell", "predicted", "actual", "saved by stopping", "lost to faults", "held slots for")
    rows: list[tuple[str, ...]] = [
        (
            name_of(record, results),
            "not known" if record.predicted_hours is None else duration(record.predicted_hours),
            duration(record.hours),
            duration(record.saved_hours),
            duration(record.lost_hours),
            duration(record.billed_hours),
            *([] if not costs else ["not known" if record.dollars is None else f"${record.dollars:,.2f}"]),
        )
        for record in results.cells
    ]
    known = [trial for trial in results.trials if trial.predicted_hours_so_far is not None]
    predicted = sum(trial.predicted_hours_so_far or 0.0 for trial in known)
    lines = [f"Times are {hours_name(results)}; what was saved and lost are lower bounds."]
    if predicted:
        actual = sum(trial.hours for trial in known)
        lines.append(
            f"The steps of {len(known)} of {len(results.trials)} trials were predicted to take {duration(predicted)} "
            f"and took {duration(actual)}: {actual / predicted:.2f} times that."
        )
    elif not known:
        lines.append("Nothing was predicted: no probe of these models on this device, and its peak is not known.")
    if any(trial.holds for trial in results.trials):
        billed = duration(sum(trial.billed_hours for trial in results.trials))
        lines.append(f"Trials held their slots for {billed}, which is what is paid for: starts and faults count too.")
    if costs:
        planned = sum((record.predicted_hours or 0.0) * (record.dollars_per_gpu_hour or 0.0) for record, _ in costs)
        lines.append(
            f"At the price that the plan reckoned with this cost ${sum(cost for _, cost in costs):,.2f}; the steps "
            f"taken were predicted to cost ${planned:,.2f}."
        )
    return [
        Heading("Hours"),
        Paragraph(" ".join(lines)),
        *foldable_table((*header, *["cost"] * bool(costs)), rows, "Hours of every cell", numbers=range(1, 7)),
    ]


SPEED_TEXTS: dict[str, tuple[str, str]] = {
    "images_per_second": ("images/s", "{:,.0f}"),
    "mfu": ("share of the\ncard's peak", "{:.1%}"),
    "peak_memory_gib": ("most memory", "{:.1f} GiB"),
    "input_wait_fraction": ("waited\nfor images", "{:.1%}"),
}
"""Column and format of each of SPEEDS."""


def speed(results: Results) -> list[Block]:
    """How fast the trials of each cell went, on what; nothing of trials that an older version ran."""
    if not results.speeds:
        return []
    rows = []
    for record in results.cells:
        values = ((SPEED_TEXTS[name][1], record.speed(name)) for name in results.speeds)
        texts = ("" if value is None else form.format(value) for form, value in values)
        rows.append((name_of(record, results), *texts, card_name(record)))
    header = ("cell", *(SPEED_TEXTS[name][0] for name in results.speeds), "on")
    explained = "Of the chosen candidate's training: medians over the rows of its journal"
    if "peak_memory_gib" in results.speeds:
        explained += ", of memory the most that PyTorch had allocated on one GPU"
    if "mfu" in results.speeds:
        explained += (
            ". The peak is NVIDIA's figure for dense products in bfloat16; an image counts as three forward passes"
        )
    return [
        Heading("Speed"),
        Paragraph(f"{explained}."),
        *foldable_table(header, rows, "Speed of every cell", numbers=range(1, len(header) - 1)),
    ]


def failures(results: Results) -> list[Block]:
    """Trials that failed, that went on after a fault, and that have no result."""
    failed = [trial for trial in results.trials if trial.status == "failed"]
    blocks: list[Block] = [] if failed else [Paragraph("No trial failed.")]
    blocks += foldable_table(
        ("failed trial", "step", "cause"),
        [(trial.trial_id, str(trial.step), str((trial.result or {}).get("cause"))) for trial in failed],
        "Failed trials",
    )
    traces = Counter(str((trial.result or {}).get("traceback") or "").rstrip() for trial in failed)
    for trace, count in traces.items():
        if trace:
            blocks.append(
                Folded(f"Where {count} of them failed" if len(failed) > 1 else "Where it failed", (Code(trace),))
            )
    blocks += foldable_table(
        ("trial that went on, or has notes", "attempts", "lost", "notes"),
        [
            (trial.trial_id, str(len(trial.attempts)), duration(trial.lost_hours), "\n".join(trial.notes))
            for trial in results.trials
            if len(trial.attempts) > 1 or trial.notes
        ],
        "Trials that went on after a fault, or have notes",
    )
    blocks += foldable_table(
        ("trial without a result", "step", "last seen"),
        [
            (
                trial.trial_id,
                f"{trial.step} of {trial.total_steps}",
                "" if trial.last_time is None else date(trial.last_time),
            )
            for trial in results.trials
            if trial.status == UNFINISHED
        ],
        "Trials without a result",
    )
    return [Heading("Failures"), *blocks]
