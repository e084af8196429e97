"""Provenance: which code and which environment a run was made with. Standard library only."""

import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "timm", "accelerate", "scikit-learn", "vit-sweeps")
"""What a result may depend on, beside this tree; the digits come with scikit-learn."""


VARIABLES = ("CUDA_", "CUBLAS_", "CUDNN_", "NCCL_", "NVIDIA_", "TORCH", "PYTORCH_", "OMP_", "MKL_", "RAY_", "VIT_")
"""How the names of environment variables begin that may change a result or its speed, or say where it was made."""
IMAGE_VARIABLES = ("CONTAINER_IMAGE", "SINGULARITY_NAME", "APPTAINER_NAME")
"""Which container image this is, where whoever started it said so."""


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Everything that a result may depend on, beside this tree: packages, interpreter, system, CUDA, variables."""
    names = sorted(name for name in os.environ if name.startswith(VARIABLES) or name in IMAGE_VARIABLES)
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "kernel": platform.version(),
        "packages": dict(sorted({(each.name or "").lower(): each.version for each in distributions()}.items())),
        "variables": {name: os.environ[name] for name in names if "TOKEN" not in name},
        **_cuda(),
    }


def _cuda() -> dict[str, Any]:
    """What PyTorch says of CUDA, where it is loaded and there is a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    driver = Path("/proc/driver/nvidia/version")
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver.read_text().partition("\n")[0] if driver.exists() else None,
        "cards": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and of those packages that are installed, by name."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # imported from a folder
    return found


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Hash of the commit that this code is of, `-dirty` after it if tracked files differ; None outside of a checkout.

    A package that merely lies below some checkout, as in its .venv, has none.
    """
    here = Path(__file__).resolve()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in a hook

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=10)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
