"""Outcomes: what became of trials: those that early stopping ended, the hours of all, and what failed."""

from collections import Counter

from sweeps.records.decisions import Decision
from sweeps.records.results import Results
from sweeps.records.trial_record import UNFINISHED
from sweeps.reporting.pages import Block, Code, Folded, Heading, Paragraph, foldable_table
from sweeps.reporting.texts import card_name, date, duration, hours_name, name_of, time_name
from sweeps.selection.rehearsal import is_rehearsal


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
    return [
        Heading("Hours"),
        Paragraph(" ".join(lines)),
        *foldable_table(header, rows, "Hours of every cell", numbers=range(1, len(header))),
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
                Folded(f"Where {count} of them failed" if len(failed) > 1 else "Where it failed", Code(trace))
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
