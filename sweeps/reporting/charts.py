"""Charts: which are drawn of a storage's results: in the page, and as files beside the Markdown."""

from collections.abc import Sequence

from sweeps.records.cell_record import CellRecord
from sweeps.records.results import Results
from sweeps.records.trial_record import TrialRecord
from sweeps.reporting import draw_charts
from sweeps.reporting.draw_charts import Panel
from sweeps.reporting.pages import Block, Chart, ChartFile, Heading, Paragraph, TextTable, folded_if
from sweeps.reporting.texts import hours_name, name_of, percent, points
from sweeps.selection.best_region import Region, importances_of, mean_validation

CURVES, RATES, HOURS = "learning-curves.png", "accuracy-over-rate.png", "accuracy-against-hours.png"
"""Names of the charts' files."""

MAX_OPEN_CHARTS = 6
"""Charts of a section up to which they aren't folded away."""

Panels = list[tuple[str, Panel]]
"""Charts, each with its caption."""


def learning_curves(results: Results) -> list[Block]:
    """How validation accuracy rose in every candidate of every cell."""
    panels = _curves(results)
    if not panels:
        return []
    explained = (
        "Accuracy on held-out training images. A cross ends a candidate that early stopping ended, a dot one that "
        "finished, a triangle one that failed, a bar one that isn't done. What came before a "
        "quarter of the steps may lie below what is shown."
    )
    alt = "Validation accuracy over optimiser steps, a chart per cell"
    return [
        Heading("Learning curves"),
        Paragraph(explained),
        _folded_charts(ChartFile(CURVES, alt, _charts("curves", panels))),
    ]


def accuracy_over_rate(results: Results) -> list[Block]:
    """How validation accuracy depends on the learning rate, in cells of which enough were tried."""
    regions = _regions(results)
    if not regions:
        return []
    rows = []
    for record, region in regions:
        rows.append(
            (
                name_of(record, results),
                _candidate_text(record, region.best),
                f"{region.low:g} to {region.high:g}",
                _candidate_text(record, region.official) if region.official else "not finished",
                "" if region.difference is None else points(region.difference),
                "\n".join(f"{name} {share:.0%}" for name, share in importances_of(record).items()),
            )
        )
    header = ("cell", "best", "best region", "official", "difference", "what mattered")
    explained = (
        "Validation accuracy over the learning rate: a dot for a finished candidate, a cross where one was stopped, a "
        "ring around the best. The best region, shaded, is what lies within one standard error of the best accuracy, "
        "given how many images were held out; two candidates are compared over the seeds that both have. The dashed "
        "line is the official rate. What mattered, if several values were searched: how much of what candidates differ "
        "by at the last step that all reached each explains (fANOVA)."
    )
    alt = "Validation accuracy over the learning rate, a chart per cell"
    return [
        Heading("Accuracy over the learning rate"),
        Paragraph(explained),
        _folded_charts(ChartFile(RATES, alt, _charts("rate", _rates(results)))),
        TextTable(header, tuple(rows), numbers=frozenset({4})),
    ]


def _candidate_text(record: CellRecord, seeds: Sequence[TrialRecord]) -> str:
    """A candidate with its mean accuracy on the validation images."""
    name, _, seed = record.name_of(seeds[0]).partition(" seed ")
    number = f" ({len(seeds)} seed{'s' * (len(seeds) > 1)})" if seed else ""
    return f"{name}: {percent(mean_validation(seeds))}{number}"


def accuracy_against_hours(results: Results) -> list[Block]:
    """What the accuracies of cells cost, data set by data set."""
    panels = _hours(results)
    if not panels:
        return []
    unit = hours_name(results)
    alt = f"Test accuracy against the {unit} that all candidates of a cell took, a chart per data set"
    charts = tuple(Chart(dataset, draw_charts.svg(panel, f"hours-{dataset}")) for dataset, panel in panels)
    return [Heading(f"Accuracy against {unit}"), ChartFile(HOURS, alt, charts)]


def chart_files(results: Results) -> dict[str, bytes]:
    """The PNG files of the charts by name; none of those that would be empty."""
    files = {CURVES: _curves(results), RATES: _rates(results), HOURS: _hours(results)}
    return {name: draw_charts.png(panels) for name, panels in files.items() if panels}


def _curves(results: Results) -> Panels:
    """A chart of learning curves for each cell of which there is a validation to draw."""
    drawn = [record for record in results.cells if any(trial.validations for trial in record.trials)]
    return [(name_of(record, results), draw_charts.curves(record)) for record in drawn]


def _rates(results: Results) -> Panels:
    """A chart of accuracy over the learning rate for each cell in which enough learning rates were tried."""
    return [(name_of(record, results), draw_charts.over_rate(record, region)) for record, region in _regions(results)]


def _regions(results: Results) -> list[tuple[CellRecord, Region]]:
    """The cells in which enough learning rates were tried to draw accuracy over them."""
    found = [(record, Region.of(record)) for record in results.cells]
    return [(record, region) for record, region in found if region is not None]


def _hours(results: Results) -> Panels:
    """A chart of accuracy against hours for each data set of whose cells one has an accuracy."""
    by_dataset: dict[str, list[CellRecord]] = {}
    for record in results.cells:
        if record.accuracy is not None:
            by_dataset.setdefault(record.cell.dataset, []).append(record)
    unit = hours_name(results)
    return [(dataset, draw_charts.accuracy_against_hours(records, unit)) for dataset, records in by_dataset.items()]


def _folded_charts(file: ChartFile) -> Block:
    """The charts; many are folded away."""
    return folded_if(len(file.charts) > MAX_OPEN_CHARTS, f"{len(file.charts)} charts", file)


def _charts(name: str, panels: Panels) -> tuple[Chart, ...]:
    """The charts as elements of a page."""
    return tuple(Chart(caption, draw_charts.svg(panel, f"{name}-{i}")) for i, (caption, panel) in enumerate(panels))
