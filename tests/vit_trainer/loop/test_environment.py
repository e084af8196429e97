"""What the environment may decide: with whom a process of torchrun trains, and nothing of what it computes."""

import re
from pathlib import Path

import accelerate
import pytest

from tests.vit_trainer.test_command_line import TRAIN, error_of
from vit_trainer.__main__ import app
from vit_trainer.loop.accelerator import for_trials, start_accelerator

HARMLESS = {"OMP_NUM_THREADS", "PYTORCH_ENABLE_MPS_FALLBACK", "PT_HPU_LAZY_MODE", "PJRT_DEVICE", "TPU_NAME", "FOO"}
"""What Accelerate reads and trials may have: threads are set, there are no such devices, FOO is an example."""
READ = re.compile(r'(?:environ(?:\.get)?[\[(]|getenv\(|parse_\w+_from_env\(|prefix = )\s*f?"([A-Z0-9_]+)"')
SEVERAL = re.compile(r"get_int_from_env\(\s*\[([^\]]*)\]")


def test_a_trial_has_nothing_of_what_accelerate_reads() -> None:
    package = Path(accelerate.__file__).parent
    sources = [
        path.read_text()
        for path in (*package.glob("*.py"), *package.glob("utils/*.py"))
        if path.stem not in ("launch", "launchers", "tracking")
    ]
    names = {name for source in sources for name in READ.findall(source)}
    names |= {name for source in sources for some in SEVERAL.findall(source) for name in re.findall(r"\w+", some)}
    assert len(names) > 60
    assert set(for_trials(dict.fromkeys(names, "1"))) <= HARMLESS


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "contradicts this run, which its flags alone decide: unset"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "ACCELERATE_MIXED_PRECISION=fp16 contradicts"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "unset ACCELERATE_MIXED_PRECISION, or give --precision bfloat16"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "ACCELERATE_DYNAMO_BACKEND=INDUCTOR contradicts"),
        ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP=true contradicts"),
        ({"ACCELERATE_USE_DEEPSPEED": "1"}, "ACCELERATE_USE_DEEPSPEED=1 contradicts"),
        ({"ACCELERATE_USE_MEGATRON_LM": "True"}, "ACCELERATE_USE_MEGATRON_LM=True contradicts"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "ACCELERATE_USE_PARALLELISM_CONFIG=true contradicts"),
        ({"ACCELERATE_TORCH_DEVICE": "meta"}, "ACCELERATE_TORCH_DEVICE=meta contradicts"),
        ({"NVIDIA_TF32_OVERRIDE": "1"}, "NVIDIA_TF32_OVERRIDE=1 contradicts"),
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2 without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT finds no other processes",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "WORLD_SIZE=2 without LOCAL_RANK"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK=0 without RANK, WORLD_SIZE"),
        ({"RANK": "1"}, "RANK=1 without LOCAL_RANK, WORLD_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "start several with torchrun, or unset OMPI_COMM_WORLD_SIZE"),
        ({"PMI_SIZE": "8"}, "PMI_SIZE=8 without RANK"),
        ({"WORLD_SIZE": "two"}, "a number in WORLD_SIZE"),
    ],
)
def test_what_contradicts_a_run_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    assert message in error_of(app, [*TRAIN, "--storage", str(tmp_path / "s"), "--tracking-uri", store], capsys)
    assert list(tmp_path.iterdir()) == []


def test_what_accelerate_launch_sets_for_one_process_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_USE_CPU": "True",
        "WORLD_SIZE": "1",
        "RANK": "0",
        "PMI_SIZE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    accelerator = start_accelerator()
    assert (accelerator.num_processes, accelerator.gradient_accumulation_steps) == (1, 1)
