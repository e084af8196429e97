"""Does everything hold on this GPU? Parity, the same bits twice and after a kill, speed: a quarter of an hour at most.

Stage after stage, each in processes of its own that are ended when their time is up; what was found is written after
each, since such a machine may be taken away. Not yet run on GPUs; with --tiny it tries itself on miniatures anywhere.

Command: python benchmarks/gpu_check.py, or make gpu-check
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.probes import NO_TIME, probe_all, probed_text, run_within
from benchmarks.provenance import ROOT, machine, write_json
from benchmarks.step import IN_ORDER
from vit_trainer.command_line import new_app, run
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import Storage

app = new_app("Checks parity, repeatability and speed on one GPU.", name="gpu_check.py")


@dataclass(frozen=True)
class Found:
    """What a stage came to."""

    stage: str
    has_passed: bool
    summary: str
    """In a line."""
    seconds: float
    """That it took."""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """What is trained: large enough for the kernels that matter, and done in seconds."""

    model: str
    resolution: int
    global_batch_size: int
    total_steps: int
    probe_seconds: float
    verify_seconds: float
    """Limit of the ladder; what the stages before leave goes to speed."""
    train_seconds: float
    """Limit of one training."""

    def config(self) -> FinetuneConfig:
        """The trial that is run again and again, with dropout 0.1."""
        return FinetuneConfig.official(
            self.model,
            "digits-even",
            upstream="scratch",
            dropout=0.1,
            resolution=self.resolution,
            global_batch_size=self.global_batch_size,
            total_steps=self.total_steps,
            warmup_steps=self.total_steps // 10,
        )


FULL = Size("ViT-B_16", 224, 128, 200, 10.0, verify_seconds=240.0, train_seconds=150.0)
TINY = Size("ViT-B_32-mini", 32, 16, 30, 0.5, verify_seconds=600.0, train_seconds=300.0)


@app.default
def gpu_check(*, tiny: bool = False, minutes: float = 14.5, json: Path | None = None) -> int:
    """Check this machine's first GPU. Exits with 0 if every stage has passed, else with 1.

    Args:
        tiny: miniatures, to try the check itself; needs no GPU.
        minutes: for everything.
        json: where to write what was found; benchmarks/reports/gpu-check-<the card>.json unless given.
    """
    import torch

    ends_at = time.monotonic() + 60 * minutes
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or tiny):
        raise InputError(
            "PyTorch sees no GPU here: go to a machine that has one, or give --tiny to try the check itself"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    path = json or ROOT / "benchmarks" / "reports" / f"gpu-check-{device.replace(' ', '-')}.json"
    console = Console(highlight=False, soft_wrap=True)
    console.print(device if on_gpu else f"This ran on a CPU and says nothing of GPUs: {machine()}")
    done: list[Found] = []
    with tempfile.TemporaryDirectory() as folder:
        for found in stages(TINY if tiny else FULL, Path(folder), on_gpu=on_gpu, ends_at=ends_at):
            done = [*(each for each in done if each.stage != found.stage), found]
            facts = {"device": device, "ran_on_gpu": on_gpu, "tiny": tiny, "built_with": versions}
            write_json(path, facts | {"stages": [asdict(each) for each in done]})
            mark = "passed" if found.has_passed else "FAILED"
            console.print(f"{mark} {found.stage} ({found.seconds:.0f} s): {found.summary}", markup=False)
    console.print(f"written to {path}", markup=False)
    return 0 if all(found.has_passed for found in done) else 1


def stages(size: Size, folder: Path, *, on_gpu: bool, ends_at: float) -> Iterator[Found]:
    """Stage after stage, those first without which figures of speed mean nothing.

    Args:
        folder: to train in.
        ends_at: by the monotonic clock.

    Yields:
        What each came to; speed again and again as it grows.
    """
    yield parity(size, on_gpu=on_gpu, ends_at=ends_at)
    trainings = Trainings(size, folder, ends_at)
    yield trainings.same_bits_twice()
    yield trainings.same_bits_after_a_kill()
    yield trainings.price_of_determinism()
    yield from speeds(size, ends_at)


def parity(size: Size, *, on_gpu: bool, ends_at: float) -> Found:
    """`python -m vit_trainer verify` on the device."""
    start = time.monotonic()
    command = [sys.executable, "-m", "vit_trainer", "verify", *(["--device", "cuda"] if on_gpu else [])]
    command += [] if size is FULL else ["--no-full"]
    ended = run_within(command, min(ends_at - start, size.verify_seconds))
    lines = ended.out.strip().splitlines()
    summary = "; ".join([*([ended.problem] if ended.problem else []), *lines[-1:]])
    return Found("parity", ended.problem is None, summary, time.monotonic() - start, {"lines": lines})


class Trainings:
    """The same trial, in one storage after the other."""

    def __init__(self, size: Size, folder: Path, ends_at: float) -> None:
        self._config, self._limit, self._folder, self._ends_at = size.config(), size.train_seconds, folder, ends_at

    def same_bits_twice(self) -> Found:
        """Two runs with --deterministic."""
        start = time.monotonic()
        problem = self._train("first") or self._train("second") or self._difference("first", "second")
        return self._found("same bits twice", start, problem, "two runs with --deterministic end with the same weights")

    def same_bits_after_a_kill(self) -> Found:
        """A run with --deterministic that is killed once it has a checkpoint, and goes on, against the first one."""
        start = time.monotonic()
        problem = self._train_until_checkpoint("killed") or self._train("killed")
        attempts = self._run_dir("killed").attempts()
        from_step = attempts[-1]["from_step"] if len(attempts) > 1 else 0
        if problem is None and not from_step:
            problem = "it began anew instead of going on from its checkpoint"
        problem = problem or self._difference("first", "killed")
        said = f"killed, gone on from step {from_step}: the weights of the uninterrupted run"
        return self._found("same bits after a kill", start, problem, said)

    def price_of_determinism(self) -> Found:
        """A run without --deterministic: slower or faster, and whether it has the same bits, which it needn't."""
        start = time.monotonic()
        problem = self._train("free", "--no-deterministic")
        if problem is not None:
            return self._found("price of --deterministic", start, problem, "")
        rates = {name: self._rate(name) for name in ("first", "free")}
        bits = "other bits" if self._difference("first", "free") else "the same bits"
        said = f"{rates['first']:.0f} images/s with it, {rates['free']:.0f} without, which ends with {bits}"
        return self._found("price of --deterministic", start, None, said)

    def _found(self, stage: str, start: float, problem: str | None, said: str) -> Found:
        names = [path.name for path in self._folder.iterdir()]
        details = {name: {"attempts": self._run_dir(name).attempts(), "rate": self._rate(name)} for name in names}
        return Found(stage, problem is None, problem or said, time.monotonic() - start, details)

    def _run_dir(self, name: str) -> RunDir:
        return Storage(self._folder / name).run_dir(self._config.trial_id)

    def _rate(self, name: str) -> float:
        """Images per second: the median of the rows."""
        return float(median([row["images_per_second"] for row in self._run_dir(name).journal()] or [0.0]))

    def _command(self, name: str, *flags: str) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "vit_trainer",
            "train",
            "--storage",
            str(self._folder / name),
            "--save-weights",
        ]
        for field_name in ("model", "dataset", "upstream", "dropout", "resolution", "global_batch_size"):
            command += [f"--{field_name.replace('_', '-')}", str(getattr(self._config, field_name))]
        command += ["--total-steps", str(self._config.total_steps), "--warmup-steps", str(self._config.warmup_steps)]
        return [*command, "--num-evaluations", "4", "--log-every-steps", "5", *(flags or ["--deterministic"])]

    def _train(self, name: str, *flags: str) -> str | None:
        """Run the trial to its end; what went wrong."""
        limit = min(self._limit, self._ends_at - time.monotonic())
        return run_within(self._command(name, *flags), limit).problem if limit > 0 else NO_TIME

    def _train_until_checkpoint(self, name: str) -> str | None:
        """Kill the trial after a quarter of its steps, once it has a checkpoint; what went wrong."""
        command = self._command(name, "--deterministic", "--checkpoint-every-minutes", "0.001")
        run_dir, limit = self._run_dir(name), min(self._ends_at, time.monotonic() + self._limit)
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=ROOT, start_new_session=True)
        try:
            while process.poll() is None and time.monotonic() < limit:
                rows = run_dir.journal()
                with run_dir.checkpoint() as path:
                    if path is not None and rows and rows[-1]["step"] >= self._config.total_steps // 4:
                        return None
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return "it ended, or its time was up, before it could be killed"

    def _difference(self, name: str, other: str) -> str | None:
        """What tells two runs' weights apart; None: nothing."""
        import torch
        from safetensors.torch import load_file

        with self._run_dir(name).weights() as one, self._run_dir(other).weights() as two:
            if one is None or two is None:
                return "there are no weights to compare"
            before, after = load_file(one), load_file(two)
        worst = max(float((before[key].float() - after[key].float()).abs().max()) for key in before)
        same = all(torch.equal(before[key], after[key]) for key in before)
        return None if same else f"the weights differ by up to {worst:.2g}"


def speeds(size: Size, ends_at: float) -> Iterator[Found]:
    """The quick form of benchmarks/step.py, as far as there is time."""
    start = time.monotonic()
    if size is FULL:
        shapes: list[dict[str, Any]] = [{"model": model, "dataset": "cifar10"} for model in IN_ORDER]
    else:
        batch = size.global_batch_size
        shapes = [{"model": size.model, "dataset": "digits-even", "resolution": 32, "global_batch_size": batch}]
    configs = [FinetuneConfig.official(**shape, dropout=dropout) for dropout in (0.0, 0.1) for shape in shapes]
    for done in probe_all(configs, size.probe_seconds, ends_at):
        measured = [each for each in done if each.problem is None]
        has_passed = bool(measured) and all(each.problem in (None, NO_TIME) for each in done)
        summary = f"{len(measured)} of {len(configs)} measured; {probed_text(done[-1])}"
        details = {"probed": [asdict(each) for each in done]}
        yield Found("speed", has_passed, summary, time.monotonic() - start, details)


if __name__ == "__main__":
    run(app)
