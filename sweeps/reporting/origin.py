"""Origin: what the results were made with, and the commands that make them again."""

from collections import Counter

from sweeps.records.results import Results
from sweeps.reporting.pages import Block, Heading, Paragraph, TextTable, foldable_table
from sweeps.reporting.rows import trial_command
from sweeps.reporting.texts import name_of
from sweeps.table.cells import cell_of, name_of_cell
from vit_trainer.data.datasets import family_of


def environment(results: Results) -> list[Block]:
    """Versions, commits, machines, weights and data, each with the number of trials that had it."""
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
        count(f"data of {trial.config['dataset']}", family_of(str(trial.config["dataset"])).origin)
    rows = tuple((name, value, str(number)) for name, values in found.items() for value, number in values.most_common())
    return [
        Heading("Environment"),
        *foldable_table(("what", "value", "trials"), rows, "Versions, machines, weights and data", numbers=[2]),
        *_parity(results),
    ]


def _parity(results: Results) -> list[Block]:
    """What nodes came to when they were compared with the official code, the last time that each was asked."""
    last = {(each.node, each.environment): each for each in results.parity}
    if not last:
        return []
    said = "Before it began, each session of a sweep compared every node's cards with what the official code computed:"
    rows = tuple((each.node, each.environment, "; ".join([each.outcome, *each.failures])) for each in last.values())
    return [Paragraph(said), TextTable(("node", "what computes there", "outcome"), rows)]


def commands(results: Results) -> list[Block]:
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
        *foldable_table(("sweep", "for"), sweeps, "Sweeps", code=[0]),
        *foldable_table(
            ("cell", "its name for --cells", "its chosen trial alone"),
            trials,
            "The chosen trial of every cell alone",
            code=[1, 2],
        ),
    ]
