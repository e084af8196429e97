"""clusters/disk.sh on block devices that the kernel makes of files: what it takes, and what it leaves as it is."""

import hashlib
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "clusters" / "disk.sh"
EC2, GOOGLE, EBS = "Amazon EC2 NVMe Instance Storage", "nvme_card3", "Amazon Elastic Block Store"
LSBLK = """#!/bin/sh
case "$*" in *--nodeps*) cat {listing};; *) exec /usr/bin/lsblk "$@";; esac
"""
"""Only the models are made up, which such devices haven't."""
INSIDE = """
set -eu
mount -t tmpfs none /mnt; mount -t tmpfs none /opt
{before}
PATH={bin}:$PATH
bash {script} && bash {script}
findmnt --list --noheadings --output TARGET,FSTYPE | grep nvme || true
"""


def command(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[list[str]]:
    """Four devices: two empty ones, one with a file system, one with partitions."""
    if os.geteuid() != 0 or subprocess.run(["losetup", "--find"], check=False, capture_output=True).returncode:
        pytest.skip("needs root, and a kernel with loop devices")
    with ExitStack() as stack:
        devices = []
        for number, megabytes in enumerate((128, 129, 16, 32)):
            file = tmp_path / f"disk{number}"
            with file.open("wb") as opened:
                opened.truncate(megabytes << 20)
            devices.append(command("losetup", "--find", "--show", str(file)))
            stack.callback(command, "losetup", "--detach", devices[-1])
        command("mkfs.ext4", "-q", devices[2])
        with open(devices[3], "r+b") as opened:  # a table with one partition of 16 MB
            opened.write(
                bytes(446) + struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 32768) + bytes(48) + b"\x55\xaa"
            )
        yield devices


def run(tmp_path: Path, disks: list[str], models: tuple[str, ...], before: str = "") -> tuple[list[str], list[str]]:
    """The folders that two runs printed, and what is mounted then."""
    listing = tmp_path / "listing"
    listing.write_text(
        "".join(
            f"{9 + number} {disk} {model}\n" for number, (disk, model) in enumerate(zip(disks, models, strict=True))
        )
    )
    lsblk = tmp_path / "bin" / "lsblk"
    lsblk.parent.mkdir()
    lsblk.write_text(LSBLK.format(listing=listing))
    lsblk.chmod(0o755)
    inside = INSIDE.format(before=before, bin=lsblk.parent, script=SCRIPT)
    lines = command("unshare", "--mount", "bash", "-c", inside).splitlines()
    return [line for line in lines if "vit_trainer" in line], [line for line in lines if "vit_trainer" not in line]


def content(disk: str) -> str:
    return hashlib.sha256(Path(disk).read_bytes()).hexdigest()


@pytest.mark.parametrize("model", [EC2, GOOGLE])
def test_empty_instance_disks_become_one_folder_and_others_stay_as_they_are(
    disks: list[str], tmp_path: Path, model: str
) -> None:
    before = [content(disk) for disk in disks]
    folders, mounted = run(tmp_path, disks, (model,) * 4)
    assert folders == ["/mnt/nvme/vit_trainer"] * 2
    assert [line.split()[0] for line in mounted] == ["/mnt/nvme"]
    after = [content(disk) for disk in disks]
    assert after[2:] == before[2:]
    assert after[1] != before[1]  # the larger of the empty ones, if not both


def test_a_disk_that_is_paid_for_is_none_of_them(disks: list[str], tmp_path: Path) -> None:
    before = [content(disk) for disk in disks]
    assert run(tmp_path, disks, (EBS, "nvme_card-pd", "", EBS)) == ([], [])
    assert [content(disk) for disk in disks] == before


def test_what_awss_image_has_made_is_used(disks: list[str], tmp_path: Path) -> None:
    before = [content(disk) for disk in disks]
    made = "mkdir -p /opt/dlami/nvme; mount -t tmpfs none /opt/dlami/nvme"
    folders, mounted = run(tmp_path, disks, (EC2,) * 4, made)
    assert folders == ["/opt/dlami/nvme/vit_trainer"] * 2
    assert [line.split()[0] for line in mounted] == ["/opt/dlami/nvme"]
    assert [content(disk) for disk in disks] == before
