"""--profile: what it leaves of a real run; what it does with a GPU's memory, as far as a CPU can tell."""

import dataclasses
import gzip
import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import MEMORY, TRACE, Row, RunDir
from vit_trainer.loop.profiling import NUM_BEFORE, NUM_STEPS, profiled_steps
from vit_trainer.train import train

CONFIG = FinetuneConfig.official(
    "ViT-B_32-mini", "digits-even", dropout=0.1, total_steps=15, warmup_steps=2, global_batch_size=8
)
EXECUTION = Execution(micro_batch_size=4, num_evaluations=1, save_weights=True)


def test_a_trace_of_ten_steps_that_changes_nothing(tmp_path: Path, bucket: str) -> None:
    plain, profiled = RunDir(tmp_path), RunDir(f"{bucket}")
    reports: list[Row] = []
    train(CONFIG, plain, EXECUTION)
    train(CONFIG, profiled, dataclasses.replace(EXECUTION, profile=True), reports.append)

    content = profiled.folder.read(TRACE)
    assert content is not None
    events = json.loads(gzip.decompress(content))["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep#")}
    assert steps == {f"ProfilerStep#{step}" for step in range(NUM_BEFORE, NUM_BEFORE + NUM_STEPS)}
    matrix_products = [event for event in events if event.get("name") == "aten::addmm"]
    assert len(matrix_products) % (2 * NUM_STEPS) == 0 < len(matrix_products), "two micro-batches each"
    notes = [line["note"] for line in profiled.lines() if "note" in line]
    assert notes == [f"profiled 10 steps: {profiled.location}/{TRACE} opens in https://ui.perfetto.dev"]
    assert [report["note"] for report in reports if "note" in report] == notes
    assert profiled.folder.read(MEMORY) is None

    with plain.weights() as one, profiled.weights() as other:
        assert one is not None
        assert other is not None
        weights = load_file(one)
        for name, tensor in load_file(other).items():
            assert torch.equal(tensor, weights[name]), name


def test_a_run_that_is_too_short_is_refused_and_one_that_ends_before_leaves_nothing(tmp_path: Path) -> None:
    profiling = dataclasses.replace(EXECUTION, profile=True)
    with pytest.raises(InputError, match="total_steps 12 is too few for --profile: give at least 13"):
        train(dataclasses.replace(CONFIG, total_steps=12), RunDir(tmp_path / "short"), profiling)
    assert not (tmp_path / "short").exists()

    run_dir = RunDir(tmp_path / "interrupted")
    run_dir.open_for_writing(CONFIG.to_dict())
    for _ in range(2):  # the second one finds a profiler that was left as it should be
        with suppress(KeyboardInterrupt), profiled_steps(run_dir, torch.device("cpu"), None) as step_done:
            for _ in range(NUM_BEFORE + 4):
                step_done()
            raise KeyboardInterrupt
    assert run_dir.folder.read(TRACE) is None


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_gpu_also_leaves_a_snapshot_of_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def record(enabled: str | None = "all", **_: object) -> None:
        done.append("recording" if enabled else "over")

    def dump(path: str) -> None:
        done.append("dumped")
        Path(path).write_bytes(b"the snapshot")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("waited"))
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", record)
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    run_dir = RunDir(tmp_path)
    run_dir.open_for_writing(CONFIG.to_dict())
    with profiled_steps(run_dir, torch.device("cuda"), None) as step_done:
        for _ in range(NUM_BEFORE + NUM_STEPS + 5):
            step_done()
    assert done == ["waited", "recording", "waited", "dumped", "over"]
    assert run_dir.folder.read(MEMORY) == b"the snapshot"
    (line,) = run_dir.lines()
    assert line["note"].endswith(f"{tmp_path}/{MEMORY} in https://pytorch.org/memory_viz")
