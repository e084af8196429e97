"""What the machine gives a process, and what its errors mean."""

import pytest
import torch

from vit_trainer.machine import gpus, gpus_from_outside, is_out_of_memory, num_cores


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes",
    ],
)
def test_whatever_says_that_memory_ran_out_is_understood(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


@pytest.mark.parametrize("message", ["CUDA error: an illegal memory access was encountered", "shapes differ"])
def test_no_other_error_is_taken_for_it(message: str) -> None:
    assert not is_out_of_memory(RuntimeError(message))


def test_cores_are_shared_by_the_processes_that_torchrun_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_cores() == torch.get_num_threads()
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert num_cores() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert num_cores() == 1


def test_what_this_process_has_is_seen_from_another() -> None:
    assert gpus_from_outside(of_machine=False) == gpus()
