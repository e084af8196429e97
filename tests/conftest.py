"""What every test shares: a Ray of its own, and as many threads as a trial has."""

import os

import pytest

os.environ["RAY_ADDRESS"] = "local"  # never join a cluster that happens to run on this machine


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
