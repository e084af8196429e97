"""Provenance: which code a run was made with. Standard library only."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "timm", "accelerate", "scikit-learn", "vit-sweeps")
"""What a result may depend on, beside this tree; the digits come with scikit-learn."""


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
