"""Ledger: what the loop counts, keeps and writes down while it goes on."""

import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from vit_trainer.config import Execution
from vit_trainer.errors import (
    CheckpointError,
    DataOutageError,
    GangRestartError,
    NonFiniteLossError,
    RunInterruptedError,
)
from vit_trainer.files.run_dir import Row, RunDir
from vit_trainer.loop.liveness import START_SECONDS, Pace, expect, wait_for_all
from vit_trainer.loop.state import TrainState, sealed
from vit_trainer.machine import device_name
from vit_trainer.provenance import commit, environment, versions
from vit_trainer.weights.npz_files import file_sha256

Report = Callable[[Row], None]
"""Gets the journal's rows with validations, others after some minutes, and its notes; the only seam towards whoever
started the run.

It may raise RunInterruptedError: then the state is kept, and the run ends.
"""
REPORT_MINUTES = 5.0
"""After so long without a validation, whoever started the run gets a row all the same: it may have other plans."""
VALIDATION_MINUTES = 2.0
"""At a validation, a checkpoint older than this is renewed: it is a moment to which one may want to go back."""


class Ledger:
    """Losses, time, journal, checkpoints and interruptions of one run. Each process has one; the first one's writes."""

    def __init__(
        self,
        state: TrainState,
        run_dir: RunDir,
        execution: Execution,
        accelerator: Accelerator,
        report: Report | None,
        interrupted: Callable[[], bool],
    ) -> None:
        self.state = state
        self._run_dir, self._execution, self._accelerator = run_dir, execution, accelerator
        self._report, self._interrupted = report, interrupted
        self._writes = accelerator.is_main_process
        self._num_gpus = accelerator.num_processes if accelerator.device.type == "cuda" else 0
        self._loss_sum = torch.zeros((), device=accelerator.device)
        self._first_bad_step = torch.full((), math.inf, device=accelerator.device)
        self._started_at = self._saved_at = self._told_at = time.monotonic()
        self._saved_step = -1  # none, or one whose row it didn't hold
        self._pace = Pace(60 * execution.hang_minutes)

    @property
    def seconds(self) -> float:
        """Time of all attempts of the run together."""
        return time.monotonic() - self._started_at

    def begin(self, made_with: Row, weights: Path | None = None) -> None:
        """Restore the last checkpoint, and say in the journal who goes on from where, and with what.

        Args:
            made_with: what the journal is to say beside the machine and the versions.
            weights: the file that the run started from at step 0; None: random weights.

        Raises:
            GangRestartError: the processes have read different checkpoints.
        """
        damage = None
        with self._run_dir.checkpoint() as path:
            if path is not None:
                try:
                    self.state.restore(path)
                except CheckpointError as error:
                    damage = str(error)
        progress, accelerator = self.state.progress, self._accelerator
        wait_for_all(accelerator.num_processes)
        steps = accelerator.gather(torch.tensor([progress.step], device=accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise GangRestartError(f"the checkpoint changed while {len(steps)} processes read it")
        self._loss_sum.fill_(progress.loss_sum)
        self._started_at -= progress.seconds
        if self._writes:
            self._write_beginning(made_with, weights)
            if damage:
                self.note(f"started anew: {damage}")
        wait_for_all(accelerator.num_processes)
        self._pace.begin()

    def _write_beginning(self, made_with: Row, weights: Path | None) -> None:
        progress, accelerator = self.state.progress, self._accelerator
        journal = self._run_dir.journal()
        if progress.row is not None and (not journal or journal[-1]["step"] < progress.row["step"]):
            self._run_dir.append(progress.row)  # a crash came between the checkpoint and its row
        self._run_dir.append(
            {
                "attempt": len(self._run_dir.attempts()) + 1,
                "from_step": progress.step,
                "from_seconds": progress.seconds,
                "host": socket.gethostname(),
                "device": accelerator.device.type,
                "device_name": device_name(),
                "num_processes": accelerator.num_processes,
                **made_with,
                "weights_sha256": file_sha256(weights) if weights else None,
                "versions": versions(),
                "environment": self._run_dir.write_environment(environment()),
                "commit": commit(),
            }
        )

    def note(self, note: str, **facts: int) -> None:
        """Tell the journal and whoever started the run; facts: what the line says beside it."""
        self._tell(self._run_dir.append({"note": note, **facts}))
        self._pace.begin()

    def _tell(self, line: Row) -> None:
        self._told_at = time.monotonic()
        try:
            if self._report is not None:
                self._report(line)
        except RunInterruptedError:
            self._save_now()
            raise

    def add_step(self, loss: Tensor) -> None:
        """Count one optimiser step; loss: this process's mean, a scalar on the device, which isn't waited for."""
        progress = self.state.progress
        progress.step += 1
        progress.num_summed_steps += 1
        loss = self._accelerator.reduce(loss, reduction="mean")
        self._loss_sum += loss
        bad_step = self._first_bad_step.clamp(max=progress.step)
        self._first_bad_step = torch.where(loss.isfinite(), self._first_bad_step, bad_step)
        self._pace.step_ends()

    def mean_loss(self) -> float:
        """Mean training loss since the last row: the first wait for the device since then.

        Raises:
            NonFiniteLossError: it is no number.
        """
        loss: float = self._loss_sum.item() / max(1, self.state.progress.num_summed_steps)
        if not math.isfinite(loss):
            step = f"{self._first_bad_step.item():.0f}"
            raise NonFiniteLossError(f"the training loss is {loss} at step {step}: try a lower base_lr")
        return loss

    def count_time(self) -> None:
        """Bring the hours up to now."""
        progress, seconds = self.state.progress, self.seconds
        progress.gpu_seconds += (seconds - progress.seconds) * self._num_gpus
        progress.seconds = seconds

    def row_is_due(self, evaluation_steps: set[int]) -> bool:
        """Whether the latest step gets a row in the journal that it doesn't have yet."""
        progress = self.state.progress
        is_written = progress.row is not None and progress.row["step"] == progress.step
        due = progress.step in evaluation_steps or progress.step % self._execution.log_every_steps == 0
        if due := due and progress.step > 0 and not is_written:
            self._pace.row_begins()
        return due

    def write_row(self, row: Row, *, is_last: bool = False) -> None:
        """Put a row into the journal, and report it if it has a validation or is the first in minutes.

        Whatever ends the process afterwards, the row stays: a checkpoint of this step holds it too, and from an older
        one the run comes to it again. After the last row there is nothing left to go on with.
        """
        progress = self.state.progress
        self.count_time()
        progress.row = row | {"runtime_hours": progress.seconds / 3600, "gpu_hours": progress.gpu_seconds / 3600}
        progress.row_seconds, progress.num_summed_steps = progress.seconds, 0
        self._loss_sum.zero_()
        self._saved_step = -1
        validated = "val/accuracy" in row
        if self._writes:
            if validated and not is_last:
                self.save_if_due(VALIDATION_MINUTES)
            written = self._run_dir.append(progress.row)
            if validated or time.monotonic() - self._told_at >= 60 * REPORT_MINUTES:
                self._tell(written)
        wait_for_all(self._accelerator.num_processes)
        self._pace.row_ends(validated=validated)

    def save_if_due(self, minutes: float = math.inf) -> None:
        """Begin a checkpoint if the last one is too long ago.

        Args:
            minutes: how long that is, where it is less than `Execution.checkpoint_every_minutes`.

        Raises:
            OSError: the storage refused the last one.
            LeaseLostError: another process has taken the run over.
        """
        minutes = min(minutes, self._execution.checkpoint_every_minutes)
        if not self._writes or self._run_dir.is_writing_checkpoint():
            return
        if time.monotonic() - self._saved_at >= 60 * minutes:
            self._save()

    def end_if_interrupted(self) -> None:
        """Keep the state and raise RunInterruptedError if that was asked for; else something has ended well."""
        self._pace.alive()
        if self._writes and self._interrupted():
            self._save_now()
            raise RunInterruptedError(f"interrupted after step {self.state.progress.step}; its state is kept")

    @contextmanager
    def kept_in_outage(self) -> Iterator[None]:
        """Keep the state where what images are read from doesn't answer; if that can't be either, the one before."""
        try:
            yield
        except DataOutageError:
            with suppress(OSError):
                if self._writes:
                    self._save_now()
            raise

    def _save(self) -> None:
        """Copy the state, and begin to write it; the one before must be finished."""
        self.mean_loss()  # a state that is no number is not worth keeping
        self.state.progress.loss_sum = self._loss_sum.item()
        self.count_time()
        self._run_dir.start_checkpoint(partial(sealed, self.state.copied()))
        self._saved_at, self._saved_step = time.monotonic(), self.state.progress.step

    def _save_now(self) -> None:
        """Have a checkpoint of this step in its place."""
        expect(START_SECONDS)
        self._run_dir.finish_checkpoint()
        if self._saved_step != self.state.progress.step:
            self._save()
            self._run_dir.finish_checkpoint()
