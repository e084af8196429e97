"""What a figure needs to be worth something later: the machine, the versions and the commit that it comes from."""

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ray", "torch", "mlflow", "numpy", "accelerate", "timm", "torchvision", "pillow", "transformers", "kornia")


def machine() -> str:
    """Such as `2 cores of an AMD EPYC, no GPU`: the cores that this process may use, and Nvidia's GPUs (Linux)."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = Path("/proc/driver/nvidia/gpus")
    cards = Counter(_model_of(each / "information") for each in gpus.iterdir()) if gpus.is_dir() else {}
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{num_cores} cores of {name}, " + (", ".join(f"{n} x {card}" for card, n in cards.items()) or "no GPU")


def _model_of(information: Path) -> str:
    """Name of a GPU, as NVIDIA's driver describes it: `Model: NVIDIA H200` is a line of that file."""
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")), "GPU")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures depend on; rivals are optional."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """Commit of the tree, `+changes` after it if files differ from it; `unknown` outside of a repository."""
    try:
        head, changes = (
            subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()
            for arguments in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changes else "")


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures with where they come from."""
    origin = {"command": sys.orig_argv, "machine": machine(), "versions": versions(), "commit": commit()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(origin | dict(figures), indent=1) + "\n")
