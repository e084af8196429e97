"""Compiling changes how fast a trial is, and what it computes by rounding alone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vit_trainer.config import Execution
from vit_trainer.model.compiled import compile_forward, compiles

ROOT = Path(__file__).parents[3]


def test_only_gpus_compile_unless_told() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [compiles(Execution(), device) for device in (cpu, cuda)] == [False, True]
    assert compiles(Execution(compile=True), cpu)
    assert not compiles(Execution(compile=False), cuda)


def test_each_size_is_compiled_but_the_odd_end_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_calls: list[tuple[bool, int]] = []
    model = nn.Linear(4, 2)

    def compile_(function: Callable[[Tensor], Tensor], **options: Any) -> Callable[[Tensor], Tensor]:
        assert options == {"dynamic": False}

        def call(images: Tensor) -> Tensor:
            compiled_calls.append((model.training, len(images)))
            return function(images)

        return call

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", compile_)
    compile_forward(model)

    def run(*sizes: int) -> list[tuple[bool, int]]:
        compiled_calls.clear()
        for size in sizes:
            assert model(torch.zeros(size, 4)).shape == (size, 2)
        return list(compiled_calls)

    assert run(8, 8, 4) == [(True, 8), (True, 8), (True, 4)]  # 4: memory was short
    model.eval()
    assert run(16, 16, 5, 64, 5) == [(False, 16), (False, 16), (False, 64)]
    assert len(list(tmp_path.glob("vit-*.lock"))) == 4


def test_a_gangs_graph_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def graphs_of(compile_: Callable[[nn.Module], None]) -> int:
        graphs.clear()
        model = nn.Sequential(*(nn.Linear(600, 600) for _ in range(3)))
        compile_(model)
        gang_member = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1)
        gang_member(torch.ones(2, 600)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        return len(graphs)

    def as_ever(model: nn.Module) -> None:
        model.forward = torch.compile(model.forward)

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert (graphs_of(as_ever), graphs_of(compile_forward)) == (3, 1)
    finally:
        torch.distributed.destroy_process_group()


TRAIN = """
import json, sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.files.run_dir import RunDir
from vit_trainer.train import train
torch.set_num_threads(1)
config = FinetuneConfig.official(
    "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=4, warmup_steps=1, global_batch_size=16
)
run_dir = RunDir(sys.argv[1])
size = dict(micro_batch_size=8, evaluation_batch_size=90)  # which leaves one shape to evaluations
train(config, run_dir, Execution(compile=sys.argv[2] == "compiled", log_every_steps=1, **size))
rows = [[row["train/loss"], row.get("val/accuracy")] for row in run_dir.rows()]
print(json.dumps({"rows": rows, "test": run_dir.result()["test/accuracy"], "attempt": run_dir.attempts()[0],
                  "cache": {key: counters["inductor"][key] for key in ("fxgraph_cache_miss", "fxgraph_cache_hit")}}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler for a CPU")
def test_a_compiled_trial_has_the_same_losses_and_the_next_one_finds_its_kernels(tmp_path: Path) -> None:
    def started(name: str, how: str) -> "subprocess.Popen[str]":
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", TRAIN, str(tmp_path / name), how]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    def ended(process: "subprocess.Popen[str]") -> dict[str, Any]:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    eager, first = (ended(each) for each in [started("eager", "eager"), started("first", "compiled")])
    second = ended(started("second", "compiled"))
    assert not eager["attempt"]["compiled"]
    assert first["attempt"]["compiled"]
    for one, other in zip(eager["rows"], first["rows"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert first["test"] == pytest.approx(eager["test"], abs=1e-9)
    assert second["rows"] == first["rows"]
    assert first["cache"]["fxgraph_cache_miss"] >= 2  # forward and backward
    assert second["cache"] == {"fxgraph_cache_miss": 0, "fxgraph_cache_hit": first["cache"]["fxgraph_cache_miss"]}
