"""A probe's steps are real ones; the memory that is planned with is what autograd really keeps."""

import dataclasses
import gc
import json
import subprocess
import sys
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vit_trainer.loop.step
from vit_trainer.__main__ import app
from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.command_line import run
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.loop.probe import ProbeResult, probe
from vit_trainer.machine import device_name
from vit_trainer.model.build import build_model, dropout_keys_of

ROOT = Path(__file__).parents[3]
CONFIG = FinetuneConfig.official("ViT-B_32-mini", "digits-even", dropout=0.1, upstream="scratch")


def test_a_probe_measures_for_as_long_as_it_was_asked_to() -> None:
    result = probe(CONFIG, Execution(evaluation_batch_size=32), seconds=0.5)
    assert result.num_steps * CONFIG.global_batch_size / result.train_images_per_second >= 0.4
    assert result.evaluation_images_per_second > 0
    assert result.micro_batch_size == 64
    assert result.device_name == device_name()
    if not torch.cuda.is_available():
        assert result.peak_memory_bytes is None
        assert "with 1 threads" in result.device_name


@pytest.mark.parametrize("limit", [20, 0])
def test_a_micro_batch_that_needs_too_much_memory_is_halved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int
) -> None:
    backward, sizes = vit_trainer.loop.step.backward, list[int]()

    def short_of_memory(
        accelerator: object, model: nn.Module, images: Tensor, labels: Tensor, last: bool, share: int
    ) -> Tensor:
        sizes.append(len(images))
        if len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return backward(accelerator, model, images, labels, last, share)  # type: ignore[arg-type]

    monkeypatch.setattr(vit_trainer.loop.step, "backward", short_of_memory)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # which takes long in a process with as many objects as this one
    if limit:
        assert probe(CONFIG, Execution(evaluation_batch_size=32), seconds=0.1).micro_batch_size == 16
        assert sizes[:3] == [64, 32, 16]
    else:
        with pytest.raises(InputError, match=r"ViT-B_32-mini at 32 px does not fit into the memory of .*, with one"):
            probe(CONFIG, seconds=0.1)
        assert sizes == [64, 32, 16, 8, 4, 2, 1]

    # Where it is compiled, the next one compiles nothing in vain.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    compiled = Execution(compile=True, evaluation_batch_size=32)
    for execution in (compiled, compiled, dataclasses.replace(compiled, compile=False)):
        sizes.append(0)
        with nullcontext() if limit else pytest.raises(InputError):
            probe(CONFIG, execution, seconds=0.1)
    first_sizes = [size for before, size in pairwise(sizes) if before == 0]
    assert first_sizes == ([64, 16, 64] if limit else [64, 64, 64])


def test_the_command_prints_a_result_that_can_be_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["probe", "--model", "ViT-B_32-mini", "--dataset", "cifar10", "--seconds", "0.1"]
    with pytest.raises(SystemExit) as left:
        run(app, [*arguments, "--global-batch-size", "8", "--micro-batch-size", "4", "--json"])
    assert left.value.code == 0
    result = ProbeResult(**json.loads(capsys.readouterr().out))
    assert (result.micro_batch_size, result.seconds) == (4, 0.1)
    assert result.num_steps >= 1


def test_results_are_read_without_torch() -> None:
    code = "import sys, vit_trainer.loop.probe, sweeps.sweep; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def kept_bytes(architecture: Architecture, resolution: int, dropout: float, *, bfloat16: bool) -> float:
    """What one image more makes autograd keep, parameters not counted."""

    def kept(batch_size: int) -> int:
        model = build_model(architecture, num_classes=10, resolution=resolution, dropout=dropout).train()
        dropout_keys_of(model).set(torch.arange(batch_size, dtype=torch.int32))
        parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        storages: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
        ):
            logits = model(torch.zeros(batch_size, 3, resolution, resolution))
        del logits
        return sum(storage.nbytes() for storage in storages.values())

    return (kept(6) - kept(2)) / 4


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_transformer_keeps_what_is_estimated(dropout: float) -> None:
    architecture = Architecture(16, 192, 4, 3, 768)
    estimate = architecture.activation_bytes(128, dropout=dropout > 0)
    assert kept_bytes(architecture, 128, dropout, bfloat16=True) == pytest.approx(estimate, rel=0.1)


def test_a_resnet_keeps_what_is_estimated() -> None:
    """In float32, 8 of the estimate's 10 bytes per output: a CPU would run GroupNorm in bfloat16, a GPU doesn't."""
    hybrid = dataclasses.replace(MODELS["R50+ViT-B_16"], depth=1, width=64, num_heads=1, mlp_dim=64)
    plain = dataclasses.replace(hybrid, patch_size=16, resnet_stages=None)
    measured = kept_bytes(hybrid, 64, 0.0, bfloat16=False) - kept_bytes(plain, 64, 0.0, bfloat16=False)
    estimate = hybrid.activation_bytes(64, dropout=False) - plain.activation_bytes(64, dropout=False)
    assert measured == pytest.approx(0.8 * estimate, rel=0.1)
