"""How a process starts with its device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vit_trainer.loop.accelerator import start_accelerator

ROOT = Path(__file__).parents[3]
NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
START = """
import os, torch
from vit_trainer.loop.accelerator import start_accelerator
start_accelerator()
settings = getattr(torch._C, "_accelerator_getAllocatorSettings", lambda: os.environ["PYTORCH_ALLOC_CONF"])
print(settings())
"""


def test_segments_of_memory_grow() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", START], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "expandable_segments:True"


@pytest.mark.parametrize("name", NAMES)
def test_whoever_starts_it_has_said_how_memory_is_allocated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in NAMES:
        monkeypatch.setenv(each, "")
        monkeypatch.delenv(each)
    monkeypatch.setenv(name, "max_split_size_mb:512")
    start_accelerator()
    assert {each: os.environ[each] for each in NAMES if each in os.environ} == {name: "max_split_size_mb:512"}
