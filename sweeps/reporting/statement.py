"""Statement: what a table says as a whole beside the published figures, in the report's first lines and a terminal's.

How often each sentence is wrong: docs/verdict.md.
"""

from sweeps.records.results import Results
from sweeps.reporting.texts import name_of, points
from sweeps.table.spread import Kind
from sweeps.table.verdict import Status

MAX_NAMES = 3
"""How many cells that differ are named."""


def statement(results: Results) -> list[str]:
    """Three sentences: which cells differ, whether each data set is right on average, and how many cells one by one.

    Empty where nothing is published.
    """
    with_figure = [record for record in results.cells if record.figure is not None]
    judged, whole = results.judged, results.whole
    if not with_figure:
        return []
    if not judged:
        return ["Beside the published figures: no run with a published learning rate has finished yet."]
    names = [name_of(record, results) for record, differs in zip(judged, whole.differs, strict=True) if differs]
    rest = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    all_cells = "this one cell" if len(judged) == 1 else f"all {len(judged)} cells together"
    lines = [
        f"Different from what was published (Holm's test, 5% for {all_cells}): {'; '.join(names[:MAX_NAMES] + rest)}."
        if names
        else f"No cell is shown to differ from what was published (Holm's test, 5% for {all_cells})."
    ]
    said: dict[bool, list[str]] = {True: [], False: []}
    for kind, mean in whole.means.items():
        said[mean.is_within].append(f"{kind_name(kind, list(whole.means))} ({points(mean.difference)})")
    parts = [f"within the margin on {', '.join(said[True])}"] if said[True] else []
    parts += [f"not shown to be within the margin on {', '.join(said[False])}"] if said[False] else []
    lines.append(f"Mean difference, in points: {'; '.join(parts)}.")
    counts = [f"{whole.counts[status]} {status}" for status in Status if whole.counts[status]]
    num_open = len(with_figure) - len(judged)
    counts += [f"{num_open} without a finished run to compare"] if num_open else []
    lines.append(f"One by one: {', '.join(counts)}.")
    return lines


def kind_name(kind: Kind, others: list[Kind]) -> str:
    """A kind of runs in words: its data set, and what tells it from others of that."""
    dataset, resolution, schedule = kind
    if sum(other[0] == dataset for other in others) < 2:
        return dataset
    return f"{dataset} ({resolution} px, {schedule.total_steps} steps, warm-up {schedule.warmup_steps})"
