"""Checklist: the questions of NeurIPS's and MLRC's reproducibility checklists, as far as the tool knows answers."""

from collections.abc import Mapping
from typing import Any

from sweeps.records.results import Results
from sweeps.reporting.statement import statement
from sweeps.reporting.texts import duration, time_name

UNKNOWN = "not known"


def checklist(results: Results, facts: Mapping[str, Any]) -> str:
    """As Markdown: a question, its answer, and where in the bundle that is shown; `not known` where it isn't."""
    seeds = sorted({trial.seed for trial in results.trials})
    devices = sorted({trial.device for trial in results.trials if trial.device})
    commits = facts["code"]["trained_by"]
    several = [record for record in results.cells if len(record.chosen) > 1]
    hashed = [name for name, known in facts["datasets"].items() if "sha256" in known]
    rates = sorted({trial.base_lr for trial in results.trials})
    rows = [
        ("Is the claim stated, and does the evidence bear it?", " ".join(statement(results)) or UNKNOWN, "report/"),
        ("Is the code that made the results given?", ", ".join(commits), "facts.json, code"),
        ("Are all versions given?", "yes" if _has_environments(results) else UNKNOWN, "environments/, journal.jsonl"),
        ("Are the data named, and how they are known?", ", ".join(facts["datasets"]), "facts.json, datasets"),
        ("Are data hashed?", ", ".join(hashed) or UNKNOWN, "facts.json, datasets"),
        ("Are splits given?", "test labels, in the order of the predictions", "labels/"),
        ("Are the starting weights identified?", "SHA-256 of each", "facts.json, checkpoints"),
        ("Are all hyperparameters given?", "every value that changes a result", "runs/*/config.json"),
        (
            "How were they chosen?",
            f"base_lr of {', '.join(f'{rate:g}' for rate in rates)} by validation",
            "decisions.jsonl",
        ),
        ("How many candidates were tried, the bad ones too?", f"{len(results.trials)} trials, all here", "runs/"),
        ("How many runs stand behind a figure?", f"seeds {', '.join(map(str, seeds))}", "report/table.csv"),
        (
            "Are error bars given, and of what?",
            f"standard deviation over seeds, in {len(several)} of {len(results.cells)} cells",
            "report/table.csv",
        ),
        ("Is a statistical test named?", "two one-sided t tests, Holm's" if results.judged else UNKNOWN, "report/"),
        ("Which machines?", ", ".join(devices) or UNKNOWN, "journal.jsonl, attempts"),
        ("How much compute?", f"{duration(sum(t.hours for t in results.trials))} of {time_name(results)}", "report/"),
        (
            "How much of it was lost or stopped?",
            f"{sum(t.lost_hours for t in results.trials):.3g} hours lost",
            "report/",
        ),
        ("What differs from the original?", f"{len(facts['deviations'])} deviations", "facts.json, deviations"),
        ("Was the implementation compared with the original's numbers?", _parity(results), "sweeps/*/parity.jsonl"),
        ("Were the authors of the original asked?", UNKNOWN, ""),
        ("Energy and emissions?", UNKNOWN, ""),
        ("Licences of data and weights, consent, societal impact?", UNKNOWN, ""),
    ]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    return f"# Reproducibility checklist\n\n| question | answer | where |\n|---|---|---|\n{table}\n"


def _has_environments(results: Results) -> bool:
    return all(attempt.get("environment") for trial in results.trials for attempt in trial.attempts)


def _parity(results: Results) -> str:
    outcomes = sorted({f"{each.environment or each.node}: {each.outcome}" for each in results.parity})
    return "; ".join(outcomes) or UNKNOWN
