"""A new node: whether its GPUs, disk and memory are what was promised, before it joins and works.

Twenty seconds where all is well. Who doesn't answer in time is killed, and that is what was found. The judgements are
tested on recorded outputs; not yet run on GPUs.
"""

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import psutil

from sweeps.checks.finding import Finding, fail, ok, skip, warn
from vit_trainer.cards import card_of_device
from vit_trainer.data.shared_memory import shared_memory_bytes, too_small
from vit_trainer.machine import measure_speeds, run_together

SECONDS_FOR_DRIVER = 30
"""For nvidia-smi: without a daemon that keeps it awake, the driver starts each GPU anew."""
SECONDS_FOR_SPEEDS = 60
"""Half of it is for importing PyTorch from a disk that has never been read."""
SECONDS_FOR_DISK = 15
"""For writing, and again for reading."""
DISK_BYTES = 128 * 2**20
LEAST_OF_PEAK = 0.4
"""Of a card's peak; healthy ones come to between 0.55 (those that power limits) and 0.9."""
LEAST_OF_MEDIAN = 0.7
"""Of what the node's GPUs come to: healthy ones lie within a twentieth."""
LEAST_ALL_REDUCE = {"NVLink": 60e9, "PCIe": 1e9}
"""Bytes per second: NVLink's is several hundred GB/s; 60 is more than NCCL reaches around it."""
HAVE_NVLINK = re.compile(r"SXM|HBM3|H200$|B200")
"""Names of cards that are only sold with it."""
LEAST_DISK = 30e6
"""Bytes per second; the slowest disks of clouds are set to about a hundred million."""
BROKEN_XIDS = {46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 140, 143}
"""After these a GPU is to be reset, or the node given back (NVIDIA's Xid catalogue); others come of programs too."""
SIGNS = {
    "gpu_reset_status/reset_required": "waits for a reset",
    "remapped_rows/remapped_row_failure": "has no spare rows of memory left",
    "remapped_rows/remapped_row_pending": "waits for a reset to replace rows of its memory",
    "retired_pages/pending_retirement": "waits for a reset to retire pages of its memory",
    "ecc_errors/aggregate/sram_threshold_exceeded": "has had too many ECC errors",
    "ecc_errors/channel_repair_pending": "waits for a reset to repair its memory",
    "ecc_errors/tpc_repair_pending": "waits for a reset to repair a processor",
}
"""What `nvidia-smi -q -x` says Yes to on a GPU that should not be used."""


def check_new_node(folder: Path, num_gpus: int | None, least_free_gb: float) -> Iterator[Finding]:
    """Check this machine; it is assumed to do nothing else.

    Args:
        folder: on the disk that matters; it is made.
        num_gpus: as many are promised; None: whatever the driver has.
        least_free_gb: on that disk.
    """
    yield _check_disk(folder, least_free_gb)
    code, text = _run(("nvidia-smi", "-q", "-x"), SECONDS_FOR_DRIVER)
    names: list[str] = []
    if code == 0:
        names, findings = judge_gpus(text, num_gpus)
        yield from findings
    elif num_gpus or (num_gpus is None and shutil.which("nvidia-smi")):
        why = (text.strip().splitlines() or [f"no answer within {SECONDS_FOR_DRIVER} s"])[-1]
        yield fail("GPUs", f"none can be used: nvidia-smi says {why!r}")
        return
    if names:
        code, log = _run(("sh", "-c", "sudo -n dmesg || dmesg"), SECONDS_FOR_DISK)
        yield from judge_xids(log) if code == 0 else [skip("Xid errors", "the kernel's messages can't be read here")]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi counts
    device = "cuda" if names else "cpu"
    speeds = measure_speeds(len(names) or 2, device, environment, seconds=SECONDS_FOR_SPEEDS)
    yield from judge_speeds(names, speeds)
    if problem := too_small(psutil.cpu_count() or 1):
        yield fail("shared memory", problem) if names else warn("shared memory", problem)
    else:
        yield ok("shared memory", f"{(shared_memory_bytes() or 0) / 1e9:.1f} GB")


def _run(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    return run_together([(command, {**os.environ})], seconds)[0]


def judge_gpus(xml: str, num_promised: int | None) -> tuple[list[str], list[Finding]]:
    """The names of the GPUs, and what is wrong with them.

    Args:
        xml: as `nvidia-smi -q -x` prints it.
        num_promised: how many there should be; None: it isn't known.
    """
    try:
        gpus = ElementTree.fromstring(xml).findall("gpu")
    except ElementTree.ParseError:
        return [], [fail("GPUs", "nvidia-smi prints what can't be read")]
    names = [gpu.findtext("product_name", "") for gpu in gpus]
    findings = [fail("GPUs", f"GPU {i} {what}") for i, gpu in enumerate(gpus) for what in _wrong_with(gpu)]
    if num_promised is not None and len(gpus) != num_promised:
        findings.insert(0, fail("GPUs", f"{len(gpus)} of the {num_promised} that this machine should have"))
    return names, findings or [ok("GPUs", f"{len(gpus)} x {', '.join(sorted(set(names)))}, no errors of memory")]


def _wrong_with(gpu: ElementTree.Element) -> Iterator[str]:
    card = card_of_device(gpu.findtext("product_name", ""))
    memory = re.match(r"(\d+) MiB", gpu.findtext("fb_memory_usage/total", ""))
    if memory is None:
        yield "doesn't say how much memory it has"
    elif card is not None and card.memory_gib and int(memory[1]) < 1024 * card.memory_gib:
        yield f"has {int(memory[1]) / 1024:.1f} GiB of memory, not the {card.memory_gib:g} of {card.name}"
    counted = gpu.find("ecc_errors/volatile")
    counts = [
        int(each.text or 0)
        for each in (counted.iter() if counted is not None else ())
        if "uncorrectable" in each.tag and (each.text or "").strip().isdigit()
    ]
    counts += [int(text) for text in [gpu.findtext("ecc_errors/volatile/double_bit/total", "")] if text.isdigit()]
    if sum(counts):
        yield f"has had {sum(counts)} uncorrectable ECC errors since it started"
    yield from (what for path, what in SIGNS.items() if gpu.findtext(path) == "Yes")


def judge_xids(log: str) -> list[Finding]:
    """What the kernel's messages say of the driver's errors.

    >>> judge_xids("[  7.1] NVRM: Xid (PCI:0000:10:1c): 79, pid='<unknown>', GPU has fallen off the bus.")[0].detail
    '79 of PCI:0000:10:1c: start the machine anew, or give it back'
    """
    found = dict.fromkeys((int(code), gpu) for gpu, code in re.findall(r"NVRM: Xid \((.+?)\): (\d+)", log))
    broken = [f"{code} of {gpu}" for code, gpu in found if code in BROKEN_XIDS]
    if broken:
        return [fail("Xid errors", f"{', '.join(broken)}: start the machine anew, or give it back")]
    return [warn("Xid errors", f"{code} of {gpu}") for code, gpu in found] or [ok("Xid errors", "none")]


def judge_speeds(names: Sequence[str], speeds: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """What is wrong with the rates of matrix products and of exchanging data.

    Args:
        names: of the GPUs; none where the CPU was measured.
        speeds: as `measure_speeds` returns them, in the same order.
    """
    rates = [each.get("flops_per_second") for each in speeds]
    middle = median([rate for rate in rates if rate] or [0.0])
    findings = []
    for i, (rate, each) in enumerate(zip(rates, speeds, strict=True)):
        name = f"GPU {i}" if names else "the CPU"
        card = card_of_device(names[i]) if names else None
        peak = (card and card.peak_flops_per_second) or 0.0
        if each.get("problem"):
            findings.append(fail("matrix products" if rate is None else "all-reduce", f"{name}: {each['problem']}"))
        elif rate is None and not any(other.get("problem") for other in speeds):
            findings.append(fail("matrix products", f"{name} doesn't answer within {SECONDS_FOR_SPEEDS} s"))
        elif rate is not None and names and rate < max(LEAST_OF_PEAK * peak, LEAST_OF_MEDIAN * middle):
            others = f"{peak / 1e12:g} are its peak" if rate < LEAST_OF_PEAK * peak else f"the others: {_tera(middle)}"
            findings.append(fail("matrix products", f"{name} reaches {_tera(rate)} TFLOP/s, {others}"))
    yield from findings
    if all(rates) and not findings:
        yield ok("matrix products", f"{' '.join(_tera(rate or 0) for rate in rates)} TFLOP/s")
    if len(speeds) > 1 and all(rates) and not any(each.get("problem") for each in speeds):
        yield _judge_all_reduce(names, [each.get("all_reduce") for each in speeds])


def _judge_all_reduce(names: Sequence[str], rates: Sequence[float | None]) -> Finding:
    if None in rates:
        return fail("all-reduce", f"not done within {SECONDS_FOR_SPEEDS} s")
    slowest = min(rate for rate in rates if rate is not None)
    link = "NVLink" if names and all(map(HAVE_NVLINK.search, names)) else "PCIe"
    if names and slowest < LEAST_ALL_REDUCE[link]:
        least = LEAST_ALL_REDUCE[link] / 1e9
        return fail("all-reduce", f"{slowest / 1e9:.2g} GB/s among the GPUs: {least:g} over {link} is the least")
    return ok("all-reduce", f"{slowest / 1e9:.3g} GB/s among {len(rates)} processes")


def _tera(flops_per_second: float) -> str:
    return f"{flops_per_second / 1e12:.3g}"


def _check_disk(folder: Path, least_free_gb: float) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 1e9
        if free < max(least_free_gb, 2 * DISK_BYTES / 1e9):
            return fail("disk", f"{free:.1f} GB free in {folder}, where {least_free_gb:g} are needed")
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            return judge_disk(folder, free, *_disk_rates(file.name))
    except OSError as error:
        return fail("disk", f"{folder} can't be used ({error.strerror or error})")


def _disk_rates(name: str) -> Iterator[float | str]:
    """Bytes per second written and read; of what failed, why. In processes of their own, which a broken disk holds."""
    megabytes = f"count={DISK_BYTES // 2**20}"
    for flags in (
        ("if=/dev/zero", f"of={name}", megabytes, "conv=fsync"),
        (f"if={name}", "of=/dev/null", megabytes),
    ):
        with open(name, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else memory is read
        start = time.monotonic()
        code, text = _run(("dd", "bs=1M", *flags), SECONDS_FOR_DISK)
        why = (text.strip().splitlines() or [f"not done within {SECONDS_FOR_DISK} s"])[-1]
        yield DISK_BYTES / (time.monotonic() - start) if code == 0 else why


def judge_disk(folder: Path, free_gb: float, written: float | str, read: float | str) -> Finding:
    """What is wrong with a disk.

    Args:
        folder: on it.
        free_gb: there.
        written: bytes per second, or why there is no such figure.
        read: the same.
    """
    for what, rate in (("writing", written), ("reading", read)):
        if isinstance(rate, str):
            return fail("disk", f"{what} {DISK_BYTES >> 20} MiB in {folder}: {rate}")
        if rate < LEAST_DISK:
            return fail("disk", f"{what} in {folder}: {rate / 1e6:.0f} MB/s, {LEAST_DISK / 1e6:g} are the least")
    return ok("disk", f"{free_gb:.0f} GB free, written at {_mega(written)} and read at {_mega(read)} MB/s")


def _mega(rate: float | str) -> str:
    return f"{float(rate) / 1e6:.0f}"


def refusal(findings: Iterable[Finding]) -> str:
    """Why this machine mustn't join, by its name, in one line; empty if it may."""
    failed = [f"{each.what}: {each.detail}" for each in findings if each.kind == "FAIL"]
    try:
        instance = f" ({Path('/var/lib/cloud/data/instance-id').read_text().strip()})"
    except OSError:
        instance = ""
    return f"node {socket.gethostname()}{instance} doesn't join: {'; '.join(failed)}" if failed else ""


def give_back(why: str) -> str:
    """Have this machine say why on its console, and shut down in a minute; returns what went wrong with that, if so.

    A minute, so that whoever is starting it sees why. The cloud keeps the console's output for a while.
    """
    script = 'echo "$1" > /dev/console; shutdown -h +1 "$1"'
    code, text = _run(("sudo", "-n", "sh", "-c", script, "sh", why), SECONDS_FOR_DISK)
    return "" if code == 0 else (text.strip().splitlines() or [f"exit code {code}"])[-1]
