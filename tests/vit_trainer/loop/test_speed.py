"""What a row says of a run's speed; a GPU's clock and memory are made up."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from vit_trainer.config import FinetuneConfig
from vit_trainer.loop import speed as module
from vit_trainer.loop.speed import InputWait, speed

CONFIG = FinetuneConfig("ViT-B_16", "cifar10")
TRAIN_GIGAFLOPS = 3 * 110.967
"""Three forward passes of timm's model at 384 px, as PyTorch's FlopCounterMode counts them."""


class Machine:
    """A host, and a device that does what it is given one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.busy_until = 100.0, 0.0
        machine = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = max(machine.now, machine.busy_until)

            def query(self) -> bool:
                return machine.now >= self.at

            def elapsed_time(self, end: "Event") -> float:
                assert end.query()
                return 1000 * (end.at - self.at)

        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now))
        monkeypatch.setattr(torch.cuda, "Event", Event)

    def give(self, seconds: float) -> None:
        """Work for the device."""
        self.busy_until = max(self.now, self.busy_until) + seconds

    def wait_for_device(self) -> None:
        self.now = max(self.now, self.busy_until)

    def batches(self, seconds: float, resize: float = 0.0) -> Iterator[int]:
        """Each takes the host some seconds, and then the device some."""
        for i in range(10):
            self.now += seconds
            self.give(resize)
            yield i


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_cpu_waits_while_it_makes_its_batches(machine: Machine) -> None:
    wait, batches = InputWait(torch.device("cpu")), machine.batches(1.0)
    for i in range(4):
        assert wait.next(batches) == i
        machine.now += 3.0
    assert wait.take_fraction(16.0) == 0.25
    machine.now += 4.0
    assert wait.take_fraction(4.0) == 0.0, "each wait is told once"


@pytest.mark.parametrize(("reading", "waited"), [(0.5, 0.0), (2.0, 0.0), (5.0, 3.0)])
def test_a_gpu_waits_once_it_has_nothing_left_to_do(machine: Machine, reading: float, waited: float) -> None:
    wait, batches = InputWait(torch.device("cuda")), machine.batches(reading, resize=0.25)
    machine.give(2.0)
    for _ in range(4):
        wait.next(batches)
        machine.give(1.75)  # together with the resize 2 seconds
    machine.wait_for_device()
    seconds = machine.now - 100.0
    assert wait.take_fraction(seconds) == pytest.approx(4 * (waited + 0.25) / seconds)


def test_of_an_attempt_before_nothing_is_known(machine: Machine) -> None:
    wait = InputWait(torch.device("cpu"))
    wait.next(machine.batches(1.0))
    machine.now += 1.0
    assert wait.take_fraction(1000.0) == 0.5


def test_a_row_on_a_cpu_makes_nothing_up(machine: Machine) -> None:
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    wait = InputWait(accelerator.device)
    machine.now += 2.0
    assert speed(CONFIG, accelerator, 3, 2.0, wait) == {"images_per_second": 768, "input_wait_fraction": 0.0}


@pytest.mark.parametrize(
    ("device", "peak"), [("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA Wonder", None)]
)
def test_a_row_on_gpus(machine: Machine, monkeypatch: pytest.MonkeyPatch, device: str, peak: float | None) -> None:
    resets: list[None] = []
    monkeypatch.setattr(module, "device_name", lambda: device)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**29)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(None))
    accelerator = SimpleNamespace(device=torch.device("cuda"), num_processes=2)
    wait = InputWait(accelerator.device)
    machine.now += 1.0
    row = speed(CONFIG, accelerator, 4, 1.0, wait)
    assert row["peak_memory_gib"] == 1.5
    assert len(resets) == 1, "the next row's peak is its own"
    assert row["images_per_second"] == 2048
    if peak is None:
        assert "mfu" not in row
    else:
        assert row["mfu"] == pytest.approx(2048 * TRAIN_GIGAFLOPS * 1e9 / (2 * peak), rel=1e-4)
