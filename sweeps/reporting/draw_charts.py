"""Draws a report's charts: learning curves, accuracy over rates and against hours. Knows nothing of files."""

import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.records.cell_record import CellRecord
from sweeps.records.trial_record import TrialRecord
from sweeps.selection.best_region import Region, mean_validation, validation_accuracy
from sweeps.table.labels import Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, RULE, GREY = "#24292f", "#d0d7de", "#8c959f"
SERIES = ("#0072b2", "#c24e00", "#007a5a", "#b0528a", "#8a6500", "#6a5acd")
"""Colours that also the colour-blind tell apart (after Okabe and Ito), dark enough on white; lines differ too."""
SERIES_ON_DARK = ("#56b4e9", "#ff9a4d", "#2fd0a2", "#e69fc7", "#e6c229", "#b3a8ff")
LINES: tuple[Any, ...] = ("--", ":", "-.", (0, (1, 3)), (0, (7, 3, 1, 3, 1, 3)))
"""Styles of the curves of candidates that weren't chosen; as their number and that of colours have no common divisor,
each pair is there once."""
MARKERS = ("o", "s", "^", "D", "v", "P")
ENDS = {"finished": "o", "stopped": "X", "failed": "v", "unfinished": "|"}
"""How a curve ends, by the status of its trial."""
MAX_NAMED = 8
"""Candidates of a cell up to which a chart names all; of more, only the chosen one."""
SHOWN_FROM = 0.25
"""Where curves begin to be shown in full, as a fraction of all steps: before it they climb steeply."""

WIDTH, HEIGHT = 4.4, 2.1
"""Size of a chart in inches; its height without the margins."""
LEFT, RIGHT, TOP, UNTITLED_TOP, BOTTOM, LEGEND_LINE = 0.74, 0.12, 0.3, 0.08, 0.48, 0.19
"""Margins in inches: for the numbers, a title, and each line of the legend below."""
MAX_TITLE_LENGTH, TITLE_LINE = 48, 0.17
"""Characters of a title's line, and inches of each line but the first."""


@dataclass(frozen=True)
class Panel:
    """One chart, which `png` and `svg` draw."""

    draw: Callable[["Axes"], None]
    num_legend_lines: int


def curves(record: CellRecord, only: TrialRecord | None = None) -> Panel:
    """Validation accuracy of a cell's candidates over optimiser steps; a cross ends those that were stopped.

    Args:
        only: the one that is named, with the others behind it; None: the chosen one, or all if they are few.
    """
    names_all = len(record.trials) <= MAX_NAMED
    named = [trial for trial in record.trials if names_all or trial in record.chosen] if only is None else [only]
    labels = {trial.trial_id: _label(record, trial) for trial in named}
    others = len(record.trials) - len(named)
    columns = 2 if max(map(len, labels.values()), default=0) <= 25 else 1

    def draw(axes: "Axes") -> None:
        first_other = next((trial for trial in record.trials if trial not in named), None)
        for i, trial in enumerate(record.trials):
            is_chosen, is_named = trial in record.chosen, trial in named
            points = trial.validations
            axes.plot(
                [step for step, _ in points],
                [100 * accuracy for _, accuracy in points],
                color=SERIES[i % len(SERIES)] if is_named else GREY,
                linestyle=LINES[i % len(LINES)] if is_named and not is_chosen else "-",
                linewidth=2.2 if is_chosen else 1.3 if is_named else 0.8,
                marker=ENDS[trial.status],
                markevery=[-1] if points else None,
                markersize=7 if trial.status == "stopped" else 5,
                label=labels.get(trial.trial_id, f"{others} others" if trial is first_other else None),
                zorder=3 if is_chosen else 2,
            )
        steps = record.cell.schedule.total_steps
        axes.set_xlim(0, 1.03 * steps)
        late = [
            accuracy for trial in record.trials for step, accuracy in trial.validations if step >= SHOWN_FROM * steps
        ]
        if late:
            _show(axes, min(late), max(accuracy for trial in record.trials for _, accuracy in trial.validations))
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel("validation accuracy, %")
        _legend(axes, columns)

    return Panel(draw, math.ceil((len(named) + (others > 0)) / columns))


def over_rate(record: CellRecord, region: Region) -> Panel:
    """Validation accuracy of a cell's candidates over their learning rates; the best region is shaded."""

    def draw(axes: "Axes") -> None:
        axes.axvspan(
            region.low / 1.03, 1.03 * region.high, color=SERIES[0], alpha=0.15, linewidth=0, label="best region"
        )
        if region.official_lr is not None:
            axes.axvline(region.official_lr, color=GREY, linestyle="--", linewidth=1.3, label="official rate")
        for status, name in (("finished", "finished"), ("stopped", "where it was stopped")):
            tried = [trial for trial in record.trials if trial.status == status]
            if tried:
                axes.plot(
                    [trial.base_lr for trial in tried],
                    [100 * validation_accuracy(trial) for trial in tried],
                    color=SERIES[0] if status == "finished" else GREY,
                    linestyle="",
                    marker=ENDS[status],
                    markersize=6,
                    label=name,
                )
        best = [region.best[0].base_lr], [100 * mean_validation(region.best)]
        axes.plot(*best, color=SERIES[0], linestyle="", marker="o", markersize=12, fillstyle="none", label="best")
        _log_scale(axes, (1.0, 3.0))
        accuracies = [validation_accuracy(trial) for trial in record.trials if trial.status in ("finished", "stopped")]
        known = [accuracy for accuracy in accuracies if math.isfinite(accuracy)]
        _show(axes, min(known), max(known))
        axes.set_xlabel("base learning rate")
        axes.set_ylabel("validation accuracy, %")
        _legend(axes, 2)

    return Panel(draw, 3)


def accuracy_against_hours(records: Sequence[CellRecord], unit: str) -> Panel:
    """Test accuracy of cells against the hours that all their candidates took: rows by colour, dropouts by mark.

    Args:
        records: of one data set, each with an accuracy.
        unit: such as GPU-hours.
    """
    labels = Labels.of(record.cell for record in records)
    rows = list(dict.fromkeys(labels.row(record.cell) for record in records))
    columns = 2 if max(len(", ".join(row)) for row in rows) <= 25 else 1
    dropouts = list(dict.fromkeys(record.cell.dropout for record in records))

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        for record in records:
            axes.plot(
                [record.hours],
                [100 * (record.accuracy or 0.0)],
                color=SERIES[rows.index(labels.row(record.cell)) % len(SERIES)],
                markersize=8,
                linestyle="",
                **_mark(dropouts.index(record.cell.dropout)),
            )
        for i, row in enumerate(rows):
            axes.plot([], [], color=SERIES[i % len(SERIES)], linewidth=4, label=", ".join(row))
        for i, dropout in enumerate(dropouts):
            name = "dropout searched" if dropout is None else f"dropout {dropout:g}"
            axes.plot([], [], color=INK, linestyle="", label=name, **_mark(i))
        hours = [record.hours for record in records]
        if min(hours) > 0 and max(hours) > 10 * min(hours):
            _log_scale(axes, (1.0, 2.0, 5.0))
        else:
            axes.set_xlim(0, 1.1 * max(hours) or 1)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"{unit} of all candidates")
        axes.set_ylabel("test accuracy, %")
        accuracies = [record.accuracy or 0.0 for record in records]
        _show(axes, min(accuracies), max(accuracies))
        _legend(axes, columns)

    return Panel(draw, math.ceil((len(rows) + len(dropouts)) / columns))


def png(panels: Sequence[tuple[str, Panel]], num_columns: int = 3) -> bytes:
    """Charts with their titles side by side on white, so that they are readable wherever they are put."""
    buffer = io.BytesIO()
    _save(panels, min(num_columns, len(panels)), buffer, {"format": "png", "dpi": 120, "facecolor": "white"})
    return buffer.getvalue()


def svg(panel: Panel, name: str) -> str:
    """One chart as an element for a page, which gives its colours: see `style`.

    Args:
        name: unique within the page.
    """
    buffer = io.StringIO()
    options = {"format": "svg", "transparent": True, "metadata": {"Date": None}}
    _save([("", panel)], 1, buffer, options, top=UNTITLED_TOP, salt=name)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every chart, and nothing refers to them
    text = re.sub(r'(?<=<svg)[^>]*?(viewBox="[^"]*")[^>]*', r" \1", text)
    text = re.sub(r"font-family: [^;]*; ", "", text).replace("xlink:href", "href")
    for colour, variable in ((INK, "currentColor"), (RULE, "var(--rule)")):
        text = text.replace(colour, variable)
    for i, colour in enumerate(SERIES):
        text = text.replace(colour, f"var(--series-{i})")
    return text


def style(*, on_dark: bool) -> str:
    """CSS declarations of the colours of series."""
    colours = SERIES_ON_DARK if on_dark else SERIES
    return " ".join(f"--series-{i}: {colour};" for i, colour in enumerate(colours))


def _save(
    panels: Sequence[tuple[str, Panel]],
    num_columns: int,
    buffer: io.BytesIO | io.StringIO,
    options: dict[str, Any],
    *,
    top: float = TOP,
    salt: str = "",
) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
    }
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    num_rows = -(-len(panels) // num_columns)
    legend = LEGEND_LINE * max(panel.num_legend_lines for _, panel in panels)
    titles = [textwrap.wrap(title, MAX_TITLE_LENGTH) for title, _ in panels]
    top += TITLE_LINE * max(0, *(len(lines) - 1 for lines in titles))
    panel_height = top + HEIGHT + BOTTOM + legend
    width, height = WIDTH * num_columns, panel_height * num_rows
    with rc_context(settings):
        figure = Figure(figsize=(width, height))
        for i, (_, panel) in enumerate(panels):
            row, column = divmod(i, num_columns)
            left, bottom = column * WIDTH + LEFT, (num_rows - 1 - row) * panel_height + BOTTOM + legend
            box = (left / width, bottom / height, (WIDTH - LEFT - RIGHT) / width, HEIGHT / height)
            axes = figure.add_axes(box)
            panel.draw(axes)
            axes.set_title("\n".join(titles[i]))
        figure.savefig(buffer, **options)


def _show(axes: "Axes", low: float, high: float) -> None:
    """Have the vertical axis show percents between two accuracies, and not much above 100."""
    margin = max(0.005, 0.08 * (high - low))
    axes.set_ylim(100 * (low - margin), 100 * min(high + margin, 1 + 0.3 * margin))


def _log_scale(axes: "Axes", subs: Sequence[float]) -> None:
    """Have the horizontal axis be logarithmic, with numbers at these multiples of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: "Axes", num_columns: int) -> None:
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.46, -(BOTTOM - 0.04) / HEIGHT),
        ncols=num_columns,
        frameon=False,
        fontsize=9,
        borderpad=0,
        labelspacing=0.4,
        handlelength=1.8,
        columnspacing=1.2,
    )


def _mark(i: int) -> dict[str, Any]:
    return {"marker": MARKERS[i % len(MARKERS)], "fillstyle": "none" if i % 2 else "full"}


def _label(record: CellRecord, trial: TrialRecord) -> str:
    name = record.name_of(trial)
    if trial in record.chosen:
        return f"{name} (chosen)"
    return name if trial.status == "finished" else f"{name} ({trial.status} at {trial.step})"
