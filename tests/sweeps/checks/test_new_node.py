"""A new node: what is found of one that is whole, and of each way in which one isn't."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sweeps.checks.finding import Finding
from sweeps.checks.new_node import judge_gpus, judge_speeds, judge_xids, refusal
from sweeps.machines.speeds import measure_speeds, run_together

ROOT = Path(__file__).parents[3]
AMPERE = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
    <timestamp>Mon Jul 15 13:41:56 2024</timestamp>
    <driver_version>555.42.06</driver_version>
    <attached_gpus>1</attached_gpus>
    <gpu id="00000000:10:1C.0">
        <product_name>NVIDIA A100-SXM4-40GB</product_name>
        <gpu_reset_status>
            <reset_required>No</reset_required>
            <drain_and_reset_recommended>N/A</drain_and_reset_recommended>
        </gpu_reset_status>
        <fb_memory_usage>
            <total>40960 MiB</total>
            <used>1 MiB</used>
        </fb_memory_usage>
        <bar1_memory_usage>
            <total>65536 MiB</total>
        </bar1_memory_usage>
        <ecc_errors>
            <volatile>
                <sram_correctable>3</sram_correctable>
                <sram_uncorrectable_parity>0</sram_uncorrectable_parity>
                <sram_uncorrectable_secded>0</sram_uncorrectable_secded>
                <dram_correctable>5</dram_correctable>
                <dram_uncorrectable>0</dram_uncorrectable>
            </volatile>
            <aggregate>
                <dram_uncorrectable>2</dram_uncorrectable>
                <sram_threshold_exceeded>No</sram_threshold_exceeded>
            </aggregate>
        </ecc_errors>
        <retired_pages>
            <pending_blacklist>N/A</pending_blacklist>
            <pending_retirement>N/A</pending_retirement>
        </retired_pages>
        <remapped_rows>
            <remapped_row_corr>0</remapped_row_corr>
            <remapped_row_unc>1</remapped_row_unc>
            <remapped_row_pending>No</remapped_row_pending>
            <remapped_row_failure>No</remapped_row_failure>
        </remapped_rows>
    </gpu>
</nvidia_smi_log>
"""
"""As `nvidia-smi -q -x` prints it, without what isn't looked at: errors of the past that were mended."""
VOLTA = """\
<nvidia_smi_log>
    <gpu id="00000000:00:1E.0">
        <product_name>Tesla V100-SXM2-16GB</product_name>
        <fb_memory_usage><total>16160 MiB</total></fb_memory_usage>
        <ecc_errors>
            <volatile>
                <single_bit><device_memory>0</device_memory><texture_shm>N/A</texture_shm><total>0</total></single_bit>
                <double_bit><device_memory>0</device_memory><texture_shm>N/A</texture_shm><total>0</total></double_bit>
            </volatile>
        </ecc_errors>
        <retired_pages><pending_retirement>No</pending_retirement></retired_pages>
        <remapped_rows>N/A</remapped_rows>
    </gpu>
</nvidia_smi_log>
"""
A100, L4, UNKNOWN = "NVIDIA A100-SXM4-40GB", "NVIDIA L4", "NVIDIA X1000"
QUICK = {"flops_per_second": 260e12, "all_reduce": 230e9}


def failed(findings: Any) -> list[str]:
    return [f"{each.what}: {each.detail}" for each in findings if each.kind == "FAIL"]


@pytest.mark.parametrize("xml", [AMPERE, VOLTA])
def test_a_gpu_that_is_whole_passes(xml: str) -> None:
    names, findings = judge_gpus(xml, 1)
    assert (len(names), [each.kind for each in findings]) == (1, ["ok"])


@pytest.mark.parametrize(
    ("xml", "old", "new", "said"),
    [
        (AMPERE, "secded>0<", "secded>7<", "GPU 0 has had 7 uncorrectable ECC errors since it started"),
        (VOLTA, "<total>0</total></double", "<total>2</total></double", "GPU 0 has had 2 uncorrectable ECC errors"),
        (AMPERE, "row_pending>No", "row_pending>Yes", "GPU 0 waits for a reset to replace rows of its memory"),
        (AMPERE, "row_failure>No", "row_failure>Yes", "GPU 0 has no spare rows of memory left"),
        (AMPERE, "reset_required>No", "reset_required>Yes", "GPU 0 waits for a reset"),
        (VOLTA, "pending_retirement>No", "pending_retirement>Yes", "GPU 0 waits for a reset to retire pages"),
        (AMPERE, "exceeded>No", "exceeded>Yes", "GPU 0 has had too many ECC errors"),
        (AMPERE, "40960 MiB", "20480 MiB", "GPU 0 has 20.0 GiB of memory, not the 39 of A100-40GB"),
        (AMPERE, "40960 MiB", "[Unknown Error]", "GPU 0 doesn't say how much memory it has"),
    ],
)
def test_what_is_wrong_with_a_gpu_is_said(xml: str, old: str, new: str, said: str) -> None:
    assert xml.count(old) == 1
    (found,) = failed(judge_gpus(xml.replace(old, new), 1)[1])
    assert said in found


def test_gpus_are_counted() -> None:
    assert failed(judge_gpus(AMPERE, 8)[1]) == ["GPUs: 1 of the 8 that this machine should have"]
    assert failed(judge_gpus("Unable to determine the device handle", 8)[1])


def test_of_the_drivers_errors_those_count_that_programs_dont_make() -> None:
    line = "[    9.25] NVRM: Xid (PCI:0000:10:1c): {}, pid=1896, name=python, Row Remapper"
    assert judge_xids("[ 1.0] Linux version 6.8").kind == "ok"
    assert judge_xids(line.format(31)).kind == "warn"
    found = judge_xids(f"{line.format(13)}\n{line.format(48)}\n{line.format(48)}")
    assert found.detail == "48 of PCI:0000:10:1c: start the machine anew, or give it back"


@pytest.mark.parametrize(
    ("names", "speeds", "said"),
    [
        ([A100] * 2, [QUICK, QUICK], []),
        ([UNKNOWN] * 2, [{"flops_per_second": 1e12, "all_reduce": 2e9}] * 2, []),
        ([A100], [QUICK | {"flops_per_second": 100e12}], ["GPU 0 does 100 TFLOP/s, its peak is 312"]),
        (
            [A100] * 3,
            [QUICK, QUICK, QUICK | {"flops_per_second": 170e12}],
            ["GPU 2 does 170 TFLOP/s, the others 260"],
        ),
        ([A100] * 2, [QUICK, {"problem": ""}], ["GPU 1 doesn't answer within 60 s"]),
        ([A100] * 2, [{"problem": ""}, {"problem": "CUDA error: uncorrectable"}], ["GPU 1: CUDA error: uncorrectable"]),
        ([A100] * 2, [{"flops_per_second": 260e12, "problem": ""}] * 2, ["all-reduce: not done within 60 s"]),
        ([A100] * 2, [QUICK, QUICK | {"all_reduce": 20e9}], ["20 GB/s among the GPUs: 60 over NVLink is the least"]),
        ([L4] * 2, [{"flops_per_second": 65e12, "all_reduce": 5e8}] * 2, ["0.5 GB/s among the GPUs: 1 over PCIe"]),
    ],
)
def test_a_gpu_that_is_slow_or_silent_is_named(names: list[str], speeds: list[dict[str, Any]], said: list[str]) -> None:
    found = failed(judge_speeds(names, speeds))
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_who_doesnt_join_says_why_by_its_name() -> None:
    why = refusal([Finding("ok", "disk", "fine"), Finding("FAIL", "GPUs", "7 of the 8"), Finding("FAIL", "a", "b")])
    assert why.startswith(f"node {os.uname().nodename}")
    assert why.endswith(" doesn't join: GPUs: 7 of the 8; a: b")
    assert refusal([Finding("warn", "disk", "fine")]) == ""


def test_what_hangs_is_killed_and_what_fails_ends_the_others() -> None:
    start = time.monotonic()
    assert run_together([(["sh", "-c", "echo so far; sleep 60"], {})], 0.5) == [(None, "so far\n")]
    assert run_together([(["sleep", "60"], {}), (["sh", "-c", "echo no >&2; exit 3"], {})], 30) == [
        (None, ""),
        (3, "no\n"),
    ]
    (code, said), (other, _) = run_together([(["no-such-program"], {}), (["sleep", "60"], {})], 30)
    assert (code, other) == (None, None)
    assert "no-such-program" in said
    assert time.monotonic() - start < 20


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> Any:
    """A stand-in for the driver's program, and for `sudo`, which writes down what it is asked; with its environment."""

    def write(script: str) -> dict[str, str]:
        for name, content in (("nvidia-smi", script), ("sudo", f'echo "$@" >> {tmp_path}/sudo.txt')):
            (tmp_path / name).write_text(f"#!/bin/sh\n{content}\n")
            (tmp_path / name).chmod(0o755)
        return os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    return write


def check_node(environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "sweeps" / "check_node.py"), *flags]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)


def test_a_node_whose_driver_fails_says_why_and_shuts_down(nvidia_smi: Any, tmp_path: Path) -> None:
    environment = nvidia_smi("echo 'No devices were found'; exit 6")
    done = check_node(environment, "--gpus", "8", "--terminate", "--folder", str(tmp_path / "data"))
    assert done.returncode == 1
    assert "doesn't join: GPUs: none can be used: nvidia-smi says 'No devices were found'" in done.stderr
    assert "it shuts down in a minute" in done.stderr
    asked = (tmp_path / "sudo.txt").read_text()
    assert "shutdown -h +1" in asked
    assert "doesn't join: GPUs" in asked
    assert list((tmp_path / "data").iterdir()) == []


def test_a_node_of_ones_own_only_refuses(nvidia_smi: Any, tmp_path: Path) -> None:
    done = check_node(nvidia_smi("exit 9"), "--free-gb", "1e9", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "GB free in " in done.stderr
    assert not (tmp_path / "sudo.txt").exists()


@pytest.mark.parametrize("flags", [("--gpus", "-1"), ("--free-gb", "nan"), ("--gpus", "many")])
def test_a_flag_that_makes_no_sense_is_refused(flags: tuple[str, ...], nvidia_smi: Any) -> None:
    done = check_node({**os.environ}, *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_this_machine_passes(tmp_path: Path) -> None:
    done = check_node({**os.environ}, "--gpus", "0", "--folder", str(tmp_path), "--free-gb", "0")
    assert re.search(r"ok    speed: \S+ \S+ TFLOP/s\nok    all-reduce: \S+ GB/s", done.stdout), done


@pytest.mark.slow
def test_speeds_are_measured_and_errors_attributed() -> None:
    slow, other = measure_speeds(2, "cpu")
    assert min(slow["flops_per_second"], other["flops_per_second"]) > 1e8
    assert min(slow["all_reduce"], other["all_reduce"]) > 1e6
    assert any("NVIDIA" in each["problem"] for each in measure_speeds(2, "cuda"))
