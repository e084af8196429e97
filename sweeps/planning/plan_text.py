"""Plan as text: the lines that --plan prints."""

from collections import Counter

from sweeps.planning.memory_and_disk import BUCKET_BYTES_PER_SECOND, COPIED_FILES_PER_SECOND, Fit
from sweeps.planning.plan import Plan
from sweeps.planning.probed_rates import Workload
from sweeps.planning.rates import ASSUMED_SHARE_OF_PEAK, REACHED_BY_OTHERS
from sweeps.table.cells import Cell
from sweeps.table.labels import Labels
from vit_trainer.data.datasets import dataset_info, id_and_path, is_folder, short_name
from vit_trainer.errors import counted, plain

CORES_ESTIMATED = "an estimate, by matrix products and a few of the images"


def plan_lines(plan: Plan) -> list[str]:
    """A plan as lines to print, what it comes to first; what isn't known is left out."""
    lines = [f"{counted(len(plan.cells), 'cell')}, {counted(plan.num_trials, 'trial')}, {plan.num_done} of them done"]
    lines += _answer(plan)
    lines += _folder_lines(plan)
    lines += ["", *_cell_lines(plan)]
    if plan.memory:
        memory = f"{plan.rates.card.name}, {plan.rates.card.memory_gib:g} GiB"
        lines += ["", f"memory, estimated for {memory}:"]
        lines += [_memory_line(plan, workload, fit) for workload, fit in plan.memory]
    lines += ["", f"disk: {', '.join(f'{item.name} {_size(item.num_bytes)}' for item in plan.disk)}"]
    lines += _inputs_lines(plan) if plan.on_gpus else []
    return [line.rstrip() for line in lines]


def _answer(plan: Plan) -> list[str]:
    """Hours, dollars, wall time, and how sure that is."""
    lines = []
    if plan.hours is not None:
        unit = "GPU-hours" if plan.on_gpus else "slot-hours"
        whole = f"{_number(plan.hours)} {unit}{_dollars(plan, plan.hours)}"
        if plan.stopped_early is not None:
            ends = dict.fromkeys(plan.stopped_early)
            expected = f"{' to '.join(map(_number, ends))} {unit}{_dollars(plan, *ends)}"
            whole = f"{expected} expected; {whole} if early stopping stops nothing"
        lines.append(f"cost: {whole}")
    if plan.hours is not None and plan.price is not None:
        lines.append(f"price: ${plan.price.dollars:.3g} per GPU-hour, {plan.price.source}")
    elif plan.hours and plan.on_gpus:
        lines.append("price: none is known here: --price-per-gpu-hour says what a GPU-hour costs, in dollars")
    if plan.wall is not None:
        wall, kind = plan.wall, "GPU" if plan.on_gpus else "CPU core"
        where = f"on {counted(wall.num_slots, kind)}" + (", for example: there is none here" if wall.is_example else "")
        where += f", {wall.num_to_come} of them on nodes that are still to come" if wall.num_to_come else ""
        where += f", at best {_hours(wall.least_hours)}" if _hours(wall.least_hours) != _hours(wall.hours) else ""
        where += "; if early stopping stops nothing" if plan.stopped_early is not None else ""
        lines.append(f"wall time: {_hours(wall.hours)} {where}")
        if plan.cores is not None:
            num_cores, hours = plan.cores
            cores = counted(num_cores, "CPU core")
            lines.append(f"here, without a GPU: about {_hours(hours)} on {cores} ({CORES_ESTIMATED})")
    elif plan.num_done < plan.num_trials:
        what = "miniatures" if plan.rates.card.peak_flops_per_second else plan.rates.card.name
        lines.append(f"hours: not known for {what}: --probe measures them on this machine")
    return [*lines, *(_rates_lines(plan) if plan.hours is not None else [])]


def _folder_lines(plan: Plan) -> list[str]:
    """What the plan means for each folder of classes."""
    lines, unit = [], "GPU-hours" if plan.on_gpus else "slot-hours"
    for dataset in dict.fromkeys(cell.cell.dataset for cell in plan.cells if is_folder(cell.cell.dataset)):
        own, info = [cell for cell in plan.cells if cell.cell.dataset == dataset], dataset_info(dataset)
        images = info.num_train + info.num_validation + info.num_test
        lines.append(
            f"{id_and_path(dataset)[1]}: {images:,} images in {info.num_classes:,} classes, of which "
            f"{info.num_train:,} train, {info.num_validation:,} validate and {info.num_test:,} test"
        )
        hours: dict[tuple[int, int], list[float | None]] = {}
        for cell in own:
            schedule = cell.cell.schedule
            hours.setdefault((schedule.total_steps, schedule.global_batch_size), []).append(cell.hours)
        for (steps, batch), each in hours.items():
            known = [number for number in each if number is not None]
            cost = f", {_number(sum(known))} {unit} in all" if len(known) == len(each) else ""
            epochs = _number(steps * batch / info.num_train)
            lines.append(f"  {steps:,} steps of {batch:,} images are {epochs} epochs{cost}")
        lines += [f"  warning: {caution}" for caution in info.cautions]
    return lines


def _cell_lines(plan: Plan) -> list[str]:
    """What all cells share once, then a line each."""
    cells = [each.cell for each in plan.cells]
    labels = Labels.all_that_differs(cells)
    price = None if plan.price is None else plan.price.dollars
    table = [["cell", "candidates (base_lr)", "GPU-hours" if plan.on_gpus else "slot-hours", "dollars", ""]]
    for each in plan.cells:
        rates = [f"{rate:g}" + f" x {n}" * (n > 1) for rate, n in Counter(each.base_lrs).items()]
        hours, done = each.hours, f"({each.num_done} done)" if each.num_done else ""
        dollars = "" if hours is None or price is None else f"{hours * price:,.2f}"
        table.append(
            [_name(each.cell, labels), ", ".join(rates), "" if hours is None else _number(hours), dollars, done]
        )
    columns = [column for column in zip(*table, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    texts = [
        [f"{text:<{width}}" if i < 2 else f"{text:>{width}}" for text in column]
        for i, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return [
        *([f"all {labels.recipe(cells[0])}"] if cells else []),
        *("  ".join(line) for line in zip(*texts, strict=True)),
    ]


def _name(cell: Cell, labels: Labels) -> str:
    (model, *rest), (dataset, dropout) = labels.row(cell), labels.column(cell)
    dataset = short_name(dataset)
    return " ".join([model, dataset, dropout.replace("dropout 0", "d0"), ", ".join(rest)])


def _inputs_lines(plan: Plan) -> list[str]:
    """What comes to each node from a bucket, and what its GPUs cost that wait for it."""
    inputs = plan.inputs

    def waiting(seconds: float) -> str:
        dollars = _dollars(plan, plan.gpus_per_node * seconds / 3600)
        idle = f" of {counted(plan.gpus_per_node, 'idle GPU')}{dollars}" if dollars else ""
        return (_hours(seconds / 3600) if seconds >= 60 else f"{seconds:.2g} s") + idle

    rate = f"if it gets {BUCKET_BYTES_PER_SECOND / 1e9:g} GB/s"
    size = _size(inputs.num_bytes)
    lines = [f"inputs: {size} to each node before its first trial, {waiting(inputs.seconds)} {rate}"]
    if inputs.packed:
        names = ", ".join(map(short_name, inputs.packed))
        lines += [
            f"  {names}: {_size(inputs.packed_bytes)} in shards, read from the first step on; copied as files "
            f"to a node {waiting(inputs.seconds_as_files)} if it gets {COPIED_FILES_PER_SECOND} files/s"
        ]
    return lines


def _rates_lines(plan: Plan) -> list[str]:
    measured = {result.device_name: result.seconds for result in plan.rates.measured.values()}
    if measured:
        probed = ", ".join(f"{seconds:g} s on {name}" for name, seconds in measured.items())
        return [f"rates: measured for {probed}; reading and decoding image files isn't in them"]
    if plan.rates.estimates_cores and not plan.on_gpus:
        return [f"rates: {CORES_ESTIMATED}; --probe measures more"]
    card = plan.rates.card
    workloads = [workload for workload, _ in plan.memory]
    known = [plan.rates.table[card.name, each] for each in workloads if (card.name, each) in plan.rates.table]
    lines = [f"rates: measured on {card.name} by {source}" for source in sorted({rate.source for rate in known})]
    if len(known) < len(workloads) and card.peak_flops_per_second is not None:
        low, high = REACHED_BY_OTHERS
        precision = "" if card.has_bfloat16 else " in float32 (it has no bfloat16)"
        peak = f"{card.name}'s peak of {card.peak_flops_per_second / 1e12:g} TFLOP/s{precision} by its {card.source}"
        lines += [
            f"uncertain: {ASSUMED_SHARE_OF_PEAK:.0%} of {peak} is assumed and not measured;",
            f"  other trainings reach {low:.0%} to {high:.0%}, so it may take "
            f"{ASSUMED_SHARE_OF_PEAK / high:.2g} to {ASSUMED_SHARE_OF_PEAK / low:.2g} times these hours",
        ]
    return lines


def _memory_line(plan: Plan, workload: Workload, fit: Fit) -> str:
    line = f"  {workload.name} fits with micro-batch {fit.micro_batch_size}: {fit.num_bytes / 2**30:.1f} GiB"
    result = plan.rates.measured.get(workload)
    if result is not None and result.peak_memory_bytes is not None:
        line += f" (measured {result.peak_memory_bytes / 2**30:.1f} GiB with {result.micro_batch_size})"
    return line


def _dollars(plan: Plan, *hours: float) -> str:
    if plan.price is None:
        return ""
    return f" ({' to '.join(f'${each * plan.price.dollars:,.2f}' for each in hours)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else plain(value)


def _hours(hours: float) -> str:
    return f"{_number(hours)} h" if hours >= 1 else f"{60 * hours:.2g} min"


def _size(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "of unknown size"
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
