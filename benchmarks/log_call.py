"""How long does training wait for a row of the journal? MLflow is another process's business.

Command: python benchmarks/log_call.py
"""

import json as json_format
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.provenance import machine, write_json
from vit_trainer.command_line import new_app, run
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import RunDir

app = new_app("Measures how long a row of the journal takes.", name="log_call.py")

ROW = {
    "train/loss": 1.386279678344726,
    "lr": 0.0028305162497673326,
    "images_per_second": 648.0938201273302,
    "input_wait_fraction": 0.0034082018273302,
    "val/accuracy": 0.9666666666666667,
    "val/loss": 0.8809935722086165,
    "runtime_hours": 0.0005812407238883882,
    "gpu_hours": 0.0,
}


@app.default
def log_call(*, num_calls: int = 5000, json: Path | None = None) -> int:
    """Append rows to a journal in a temporary folder, and beside it to a bare open file.

    Args:
        num_calls: rows; at least 100.
        json: where to write the figures.
    """
    if num_calls < 100:
        raise InputError(f"num_calls {num_calls} is below 100: give a whole number of at least 100")
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder) / "trial")
        run_dir.open_for_writing(FinetuneConfig("ViT-B_16", "cifar10").to_dict())
        ours = _seconds(lambda step: run_dir.append({"step": step + 1, **ROW}), num_calls)
        run_dir.close()
        assert len(run_dir.rows()) == num_calls
        with (Path(folder) / "bare.jsonl").open("ab", buffering=0) as file:
            bare = _seconds(lambda step: file.write(json_format.dumps({"step": step, **ROW}).encode()), num_calls)
    figures = {name: _figures(seconds) for name, seconds in (("ours", ours), ("bare", bare))}
    print(machine())
    for name, values in figures.items():
        print(f"{name}: median {values['median_ms']:.3f} ms, 99% below {values['p99_ms']:.3f} ms of {num_calls} calls")
    print("target for ours: a median of at most 1 ms")
    if json is not None:
        write_json(json, {"num_calls": num_calls, "load": os.getloadavg()[0], **figures})
    return 0


def _seconds(call: Callable[[int], object], num_calls: int) -> list[float]:
    """Seconds of each call, which gets its number."""
    seconds = []
    for i in range(num_calls):
        start = time.perf_counter()
        call(i)
        seconds.append(time.perf_counter() - start)
    return seconds


def _figures(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"median_ms": 1000 * ordered[len(ordered) // 2], "p99_ms": 1000 * ordered[len(ordered) * 99 // 100]}


if __name__ == "__main__":
    run(app)
