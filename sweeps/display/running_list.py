"""The list of running candidates, with what there is to say of each."""

from rich.table import Table

from sweeps.display.standing import Standing
from sweeps.display.words import own_name, percent, steps_of, time_left_of
from sweeps.table.labels import Labels

LAYOUTS = ((10, 2), (9, 2), (9, 1), (8, 1), (6, 1))
"""How many columns, from the left, and how far apart, in the order tried."""


def running_list(standing: Standing, num_listed: int, num_columns: int, distance: int) -> Table:
    """A line per running candidate, with what there is to say of it.

    Args:
        num_listed: how many are named; the others are counted.
        num_columns, distance: one of LAYOUTS.
    """
    labels, running = Labels.of(standing.cells), standing.running_or_silent
    slots = "GPUs" if standing.on_gpus else "slots"
    headers = ("running", "base_lr", "place", "step", "val %", "left", "images/s", "MFU", slots, "on")
    table = Table(box=None, show_edge=False, padding=(0, distance, 0, 0), pad_edge=False, header_style="dim")
    for header in headers[:num_columns]:
        is_text = header in ("running", "on")
        table.add_column(header, no_wrap=True, justify="left" if is_text else "right", style="yellow")
    for each in running[:num_listed]:
        cell, (rate, dropout, seed) = each.trial.cell, own_name(each)
        name = labels.name(cell).replace("dropout 0", "d0").replace(",", "")
        several_seeds = len({other.trial.seed for other in standing.by_cell[cell]}) > 1
        texts = (
            " ".join(part for part in (name, dropout, seed if several_seeds else "") if part),
            rate,
            standing.place(each),
            f"{steps_of(each.step)}/{steps_of(each.total_steps)}",
            percent(each.accuracy, 2),
            time_left_of(each, standing.now).removesuffix(" left"),
            "" if each.images_per_second is None else f"{each.images_per_second:,.0f}",
            "" if each.mfu is None else f"{each.mfu:.0%}",
            f"{each.num_slots}",
            each.host,
        )
        table.add_row(*texts[:num_columns])
    if len(running) > num_listed:
        table.add_row(f"and {len(running) - num_listed} more")
    return table
