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
from sweeps.machines.speeds import measure_speeds, run_together
from vit_trainer.cards import card_of_device
from vit_trainer.data.shared_memory import shared_memory_bytes, too_small

SECONDS_FOR_DRIVER = 30
"""For nvidia-smi: without a daemon that keeps it awake, the driver starts each GPU anew."""
SECONDS_FOR_SPEEDS = 60
"""Half of it is for importing PyTorch from a disk that has never been read."""
SECONDS_FOR_DISK = 15
"""For writing, and again for reading."""
DISK_MIB = 128
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
BROKEN_XIDS = {46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 158}
"""After these a GPU is to be reset or its machine started anew; others come of programs, or can be lived with.

As https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html had it in November 2026, for A100 and H100.
"""
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
    names: list[str] = []
    if num_gpus or (num_gpus is None and shutil.which("nvidia-smi")):
        is_told, told = _run(SECONDS_FOR_DRIVER, "nvidia-smi", "-q", "-x")
        if not is_told:
            yield fail("GPUs", f"none can be used: nvidia-smi says {told!r}")
            return
        names, findings = judge_gpus(told, num_gpus)
        yield from findings
        is_told, told = _run(SECONDS_FOR_DISK, "sh", "-c", "sudo -n dmesg || dmesg")
        yield judge_xids(told) if is_told else skip("Xid errors", "the kernel's messages can't be read here")
    speeds = measure_speeds(len(names) or 2, "cuda" if names else "cpu", seconds=SECONDS_FOR_SPEEDS)
    yield from judge_speeds(names, speeds)
    if problem := too_small(psutil.cpu_count() or 1):
        yield fail("shared memory", problem) if names else warn("shared memory", problem)
    else:
        yield ok("shared memory", f"{(shared_memory_bytes() or 0) / 1e9:.1f} GB")


def _run(seconds: float, *command: str) -> tuple[bool, str]:
    """Whether a program succeeded, and what it printed; if it didn't, why, in a line."""
    code, text = run_together([(command, {**os.environ})], seconds)[0]
    lines = text.strip().splitlines()
    return code == 0, text if code == 0 else (lines or [f"nothing within {seconds:g} s"])[-1]


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
    counts = [each for each in gpu.iterfind("ecc_errors/volatile/*") if "uncorrectable" in each.tag]
    counts += gpu.iterfind("ecc_errors/volatile/double_bit/total")  # so before Turing
    if num_errors := sum(int(each.text or 0) for each in counts if (each.text or "").isdigit()):
        yield f"has had {num_errors} uncorrectable ECC errors since it started"
    yield from (what for path, what in SIGNS.items() if gpu.findtext(path) == "Yes")


def judge_xids(log: str) -> Finding:
    """What the kernel's messages say of the driver's errors.

    >>> judge_xids("[  7.1] NVRM: Xid (PCI:0000:10:1c): 79, pid='<unknown>', GPU has fallen off the bus.").detail
    '79 of PCI:0000:10:1c: start the machine anew, or give it back'
    """
    found = dict.fromkeys((int(code), gpu) for gpu, code in re.findall(r"NVRM: Xid \((.+?)\): (\d+)", log))
    if broken := [f"{code} of {gpu}" for code, gpu in found if code in BROKEN_XIDS]:
        return fail("Xid errors", f"{', '.join(broken)}: start the machine anew, or give it back")
    others = ", ".join(f"{code} of {gpu}" for code, gpu in found)
    return warn("Xid errors", f"{others}, which programs cause too") if others else ok("Xid errors", "none")


def judge_speeds(names: Sequence[str], speeds: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """What is wrong with the rates of matrix products and of exchanging data.

    Args:
        names: of the GPUs; none where the CPU was measured.
        speeds: as `measure_speeds` returns them, in the same order.
    """
    rates = [each.get("flops_per_second", 0.0) for each in speeds]
    told = [
        fail("speed", f"{_name(names, i)}: {each['problem']}") for i, each in enumerate(speeds) if each.get("problem")
    ]
    if told or not all(rates):
        silent = [
            f"{_name(names, i)} doesn't answer within {SECONDS_FOR_SPEEDS} s"
            for i, rate in enumerate(rates)
            if not rate
        ]
        yield from told or [fail("speed", each) for each in silent]
        return
    slow = []
    for i, rate in enumerate(rates if names else ()):
        card = card_of_device(names[i])
        peak = (card and card.peak_flops_per_second) or 0.0
        if rate < LEAST_OF_PEAK * peak:
            slow.append(f"GPU {i} does {_tera(rate)} TFLOP/s, its peak is {_tera(peak)}")
        elif rate < LEAST_OF_MEDIAN * median(rates):
            slow.append(f"GPU {i} does {_tera(rate)} TFLOP/s, the others {_tera(median(rates))}")
    yield from [fail("speed", each) for each in slow] or [ok("speed", f"{' '.join(map(_tera, rates))} TFLOP/s")]
    if len(speeds) > 1:
        slowest = min(each.get("all_reduce", 0.0) for each in speeds)
        link = "NVLink" if names and all(map(HAVE_NVLINK.search, names)) else "PCIe"
        least = LEAST_ALL_REDUCE[link] if names else 1.0
        text = f"{slowest / 1e9:.3g} GB/s" if slowest else f"not done within {SECONDS_FOR_SPEEDS} s"
        short = f"{text} among the GPUs: {least / 1e9:g} over {link} is the least"
        yield ok("all-reduce", text) if slowest >= least else fail("all-reduce", short)


def _name(names: Sequence[str], i: int) -> str:
    return f"GPU {i}" if names else "the CPU"


def _tera(flops_per_second: float) -> str:
    return f"{flops_per_second / 1e12:.3g}"


def _check_disk(folder: Path, least_free_gb: float) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 1e9
        if free < max(least_free_gb, 1.0):
            return fail("disk", f"{free:.1f} GB free in {folder}, where {max(least_free_gb, 1.0):g} are needed")
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            to, back = ["if=/dev/zero", f"of={file.name}", "conv=fsync"], [f"if={file.name}", "of=/dev/null"]
            rates = []
            for what, flags in (("writing", to), ("reading", back)):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else it is memory that is read
                start = time.monotonic()
                # A program of its own: a broken disk may hold it for ever.
                is_done, said = _run(SECONDS_FOR_DISK, "dd", "bs=1M", f"count={DISK_MIB}", *flags)
                rates.append(DISK_MIB * 2**20 / (time.monotonic() - start))
                if not is_done or rates[-1] < LEAST_DISK:
                    rate = f"{rates[-1] / 1e6:.0f} MB/s, {LEAST_DISK / 1e6:g} are the least" if is_done else said
                    return fail("disk", f"{what} {DISK_MIB} MiB in {folder}: {rate}")
    except OSError as error:
        return fail("disk", f"{folder} can't be used ({error.strerror or error})")
    return ok("disk", f"{free:.0f} GB free, written at {rates[0] / 1e6:.0f} and read at {rates[1] / 1e6:.0f} MB/s")


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
    is_done, said = _run(SECONDS_FOR_DISK, "sudo", "-n", "sh", "-c", script, "sh", why)
    return "" if is_done else said
