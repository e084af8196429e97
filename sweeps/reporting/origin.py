"""Origin: what the results were made with and how that differs from the official protocol; the checklist; commands."""

from collections import Counter
from collections.abc import Iterable

from sweeps.records.results import Results
from sweeps.records.trial_record import TrialRecord
from sweeps.reporting.pages import Block, Heading, Page, Paragraph, TextTable, foldable_table
from sweeps.reporting.rows import trial_command
from sweeps.reporting.statement import statement
from sweeps.reporting.texts import date, duration, name_of, time_name
from sweeps.table.cells import cell_of, name_of_cell
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import family_of
from vit_trainer.errors import InputError, counted

CHECKLIST = "checklist.html"
"""Name of the file with the reproducibility checklist."""
UNKNOWN = "not known"
BY_DECISION = (
    "The held-out validation images (2% of CIFAR's training images, 1% of ImageNet's) are chosen by a hash of seed 0; "
    "tensorflow_datasets chose the official ones.",
    "The order of images, crops and flips come from Philox streams of (seed, step), not from TensorFlow's.",
    "Dropout masks come from the same streams, not from JAX's threefry.",
    "Test accuracy counts every image once; the official evaluation leaves out the rest of its last batch.",
    "The learning rate is chosen on the validation images where several were tried; official figures have fixed ones.",
)
"""What differs from the official protocol in every run of this project."""


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
        TextTable(("page", "what"), ((CHECKLIST, CHECKLIST_SAYS),), links="./"),
        *_packed(results),
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


CHECKLIST_SAYS = "the field's reproducibility checklist, and all that differs from the official protocol"


def _packed(results: Results) -> list[Block]:
    """The last bundle of evidence that was made of all this, and how much has happened since."""
    if not results.packed:
        return []
    last = results.packed[-1]
    since = sum((trial.last_time or 0.0) > last.time for trial in results.trials)
    said = (
        f"Packed as evidence: root {last.root}, {date(last.time)}, {last.file}, of {counted(last.num_trials, 'trial')}"
    )
    return [Paragraph(f"{said}; {counted(since, 'trial')} since.")]


def recipes(results: Results) -> dict[str, dict[str, object]]:
    """The official recipe of each model and data set that has one, by `<model> <data set>`."""
    found = {}
    for trial in results.trials:
        try:
            official = FinetuneConfig.official(trial.config["model"], trial.config["dataset"]).to_dict()
        except InputError:
            continue  # a folder of classes by its id
        found[f"{trial.config['model']} {trial.config['dataset']}"] = official
    return found


def deviations(results: Results) -> list[str]:
    """What differs from the official protocol: by decision, by values that the table doesn't vary, by hardware."""
    own: Counter[str] = Counter()
    hardware: Counter[str] = Counter()
    official = recipes(results)
    for trial in results.trials:
        recipe = official.get(f"{trial.config['model']} {trial.config['dataset']}", {})
        own.update(
            f"{name} is {trial.config.get(name)} where the official recipe has {value}"
            for name, value in recipe.items()
            if name not in ("dropout", "seed", "base_lr") and trial.config.get(name) != value
        )
        hardware.update(_by_hardware(trial))
    every = counted(len(results.trials), "trial")
    return [
        *BY_DECISION,
        *(f"{line}, in {count} of {every}." for line, count in own.items()),
        *(f"{line[0].upper()}{line[1:]}: {counted(count, 'trial')}." for line, count in hardware.items()),
    ]


def _by_hardware(trial: TrialRecord) -> Iterable[str]:
    """What the machine made different: number formats, kernels, processes, faults."""
    if not (last := trial.last_attempt):
        return
    yield f"matrix products in {last.get('precision', 'a precision that was not recorded')}, weights in float32"
    yield f"on {last.get('num_processes', 1)} x {last.get('device_name') or last.get('device')}"
    if last.get("compiled"):
        yield "the model compiled by PyTorch"
    if last.get("attention_backend"):
        yield f"attention by {last['attention_backend']}"
    if last.get("deterministic") is False:
        yield "kernels that need not give the same bits twice"
    if len(trial.attempts) > 1:
        yield "gone on with after a pause or a fault"


def checklist_page(results: Results) -> Page:
    """The questions of NeurIPS's and MLRC's reproducibility checklists, with `not known` where it isn't."""
    trials, attempts = results.trials, [attempt for trial in results.trials for attempt in trial.attempts]
    commits = sorted({str(attempt["commit"]) for attempt in attempts if attempt.get("commit")})
    devices = sorted({trial.device for trial in trials if trial.device})
    datasets = sorted({str(trial.config["dataset"]) for trial in trials})
    weights = {attempt["weights_sha256"] for attempt in attempts if attempt.get("weights_sha256")}
    rates, seeds = sorted({each.base_lr for each in trials}), sorted({each.seed for each in trials})
    hashes = results.data_hashes
    several = sum(len(record.chosen) > 1 for record in results.cells)
    parity = sorted({f"{each.environment or each.node}: {each.outcome}" for each in results.parity})
    has_environments = bool(attempts) and all(attempt.get("environment") for attempt in attempts)
    rows = (
        ("Is the claim stated, and does the evidence bear it?", " ".join(statement(results)), "report.html"),
        ("Is the code that made the results given?", ", ".join(commits), "journal.jsonl"),
        ("Are all versions given?", "yes" if has_environments else "", "environments/, journal.jsonl"),
        ("Are the data named, and how they are known?", ", ".join(datasets), "report.html, Environment"),
        ("Are data hashed?", ", ".join(f"{each}: {hashes[each]['sha256']}" for each in datasets if each in hashes), ""),
        ("Are splits given?", "test labels, in the order of the predictions", "predictions.npz"),
        ("Are the starting weights identified?", f"SHA-256 of {counted(len(weights), 'file')}", "journal.jsonl"),
        ("Are all hyperparameters given?", "every value that changes a result", "config.json"),
        (
            "How were they chosen?",
            f"base_lr of {', '.join(f'{each:g}' for each in rates)} by validation",
            "decisions.jsonl",
        ),
        (
            "How many candidates were tried, the bad ones too?",
            f"{counted(len(trials), 'trial')}, all here",
            "trials.html",
        ),
        ("How many runs stand behind a figure?", f"seeds {', '.join(map(str, seeds))}", "table.csv"),
        (
            "Are error bars given, and of what?",
            f"standard deviation over seeds, in {several} of {counted(len(results.cells), 'cell')}",
            "table.csv",
        ),
        ("Is a statistical test named?", "two one-sided t tests, Holm's" if results.judged else "", "report.html"),
        ("Which machines?", ", ".join(devices), "journal.jsonl, attempts"),
        ("How much compute?", f"{duration(sum(each.hours for each in trials))} of {time_name(results)}", "report.html"),
        ("How much of it was lost?", duration(sum(each.lost_hours for each in trials)), "report.html"),
        ("What differs from the original?", f"{len(deviations(results))} deviations", "below"),
        ("Was the implementation compared with the original's numbers?", "; ".join(parity), "parity.jsonl"),
        ("Were the authors of the original asked?", "", ""),
        ("Energy and emissions?", "", ""),
        ("Licences of data and weights, consent, societal impact?", "", ""),
    )
    table = tuple((question, answer or UNKNOWN, where if answer else "") for question, answer, where in rows)
    differing = TextTable(("what",), tuple((line,) for line in deviations(results)))
    return Page(
        "Reproducibility checklist",
        (
            TextTable(("question", "answer", "where"), table),
            Heading("What differs from the official protocol"),
            differing,
        ),
    )
