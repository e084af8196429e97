"""Ways to train the same model on the same batches: ours, a bare loop, raw Accelerate, the Hugging Face Trainer."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch import Tensor, nn

import vit_trainer.train
from vit_trainer.architectures import MODELS
from vit_trainer.config import Execution, FinetuneConfig
from vit_trainer.data.datasets import dataset_info
from vit_trainer.data.splits import MicroBatch, Split, Splits
from vit_trainer.errors import InputError
from vit_trainer.files.run_dir import RunDir
from vit_trainer.loop.optim import learning_rate
from vit_trainer.model.build import build_model

AfterStep = Callable[[], None]
"""Called after each optimiser step."""
Batch = tuple[Tensor, Tensor]
NUM_READY_BATCHES = 4


@dataclass(frozen=True)
class Work:
    """What every loop is given."""

    config: FinetuneConfig
    """The trial whose `total_steps` are run; its dropout is 0, since a loop of torch's would draw other masks."""
    micro_batch_size: int
    device: torch.device
    bfloat16: bool = False
    """Autocast."""
    compile: bool = False

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches per step."""
        return self.config.global_batch_size // self.micro_batch_size

    def model(self) -> nn.Module:
        """Ours with random weights."""
        torch.manual_seed(0)
        architecture, resolution = MODELS[self.config.model], self.config.resolution
        model: nn.Module = build_model(architecture, num_classes=self.num_classes, resolution=resolution)
        return model.to(self.device)

    def batches(self) -> list[Batch]:
        """Some ready micro-batches on the device."""
        generator = torch.Generator().manual_seed(0)
        shape, num_classes = (self.micro_batch_size, 3, *2 * [self.config.resolution]), self.num_classes
        return [
            (
                (2 * torch.rand(shape, generator=generator) - 1).to(self.device),
                torch.randint(num_classes, shape[:1], generator=generator).to(self.device),
            )
            for _ in range(NUM_READY_BATCHES)
        ]

    @property
    def num_classes(self) -> int:
        """Classes of the head."""
        return dataset_info(self.config.dataset).num_classes

    def lr(self, step: int) -> float:
        """The official learning rate."""
        config = self.config
        return learning_rate(
            step, base_lr=config.base_lr, warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast of a bare loop."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()


class ReadySplit:
    """A split that costs nothing: the same few micro-batches over and over."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches, self.names = batches, np.zeros(0, dtype="S1")

    def __len__(self) -> int:
        return 2 * len(self._batches[0][1])

    def train_batches(
        self, micro_batches: Iterable[MicroBatch], *, seed: int, resolution: int, device: torch.device
    ) -> Iterator[Batch]:
        """One for each that is asked for, of its size."""
        for micro_batch, (images, labels) in zip(micro_batches, cycle(self._batches), strict=False):
            count = len(micro_batch.indices)
            yield images[:count], labels[:count]

    def evaluation_batches(
        self, indices: NDArray[np.int64], batch_size: int, *, resolution: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        """Two, whatever is asked for."""
        for images, labels in self._batches[:2]:
            yield images, labels, indices[: len(labels)]


def ours(work: Work, after_step: AfterStep, train_split: Split | None = None) -> None:
    """The real train(), its data replaced by ready batches unless others are given."""
    ready = ReadySplit(work.batches())
    config = replace(work.config, upstream="scratch")
    execution = Execution(
        micro_batch_size=work.micro_batch_size,
        precision="bfloat16" if work.bfloat16 else "float32",
        compile=work.compile,
        num_evaluations=1,
    )

    def interrupted() -> bool:  # train() asks after each step, and then after each batch of an evaluation
        after_step()
        return False

    def load(*_: object, **__: object) -> Splits:
        return Splits(train_split or ready, ready, ready)

    with tempfile.TemporaryDirectory() as folder, patch.object(vit_trainer.train, "load_dataset", load):
        vit_trainer.train.train(config, RunDir(Path(folder) / "trial"), execution, interrupted=interrupted)


def bare(work: Work, after_step: AfterStep, model: nn.Module | None = None) -> None:
    """A loop as one writes it by hand, with the multi-tensor kernels that PyTorch takes by itself only on GPUs."""
    model = (model or work.model()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, foreach=True)
    forward = torch.compile(model, dynamic=False) if work.compile else model
    batches = cycle(work.batches())
    loss_sum = torch.zeros((), device=work.device)
    for step in range(work.config.total_steps):
        for images, labels in islice(batches, work.accumulation_steps):
            with work.autocast():
                loss = F.cross_entropy(forward(images), labels) / work.accumulation_steps
            loss.backward()
            loss_sum += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = work.lr(step)
        optimizer.step()
        optimizer.zero_grad()
        after_step()


def raw_accelerate(work: Work, after_step: AfterStep) -> None:
    """A loop as Accelerate's documentation writes it."""
    accelerator = Accelerator(
        mixed_precision="bf16" if work.bfloat16 else "no",
        gradient_accumulation_steps=work.accumulation_steps,
        cpu=work.device.type == "cpu",
    )
    module = work.model()
    model, optimizer = accelerator.prepare(
        module, torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9, foreach=True)
    )
    model.train()
    batches = cycle(work.batches())
    loss_sum = torch.zeros((), device=work.device)
    for step in range(work.config.total_steps):
        for images, labels in islice(batches, work.accumulation_steps):
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(images), labels)
                accelerator.backward(loss)
                loss_sum += loss.detach()
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = work.lr(step)
                optimizer.step()
                optimizer.zero_grad()
        after_step()


class _WithLoss(nn.Module):
    """In the form that the Trainer asks for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(images)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def hf_trainer(work: Work, after_step: AfterStep) -> None:
    """With what it does beside training switched off."""
    try:
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
        from transformers.utils import logging
    except ImportError as error:
        raise InputError("transformers isn't installed: pip install -e '.[benchmark]'") from error
    logging.set_verbosity_error()
    batches = [{"images": images, "labels": labels} for images, labels in work.batches()]

    class ReadyDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return len(batches) * work.accumulation_steps

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return batches[index % len(batches)]

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: object, **__: object) -> None:
            after_step()

    class ReadyTrainer(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(ReadyDataset(), batch_size=None)

    model = _WithLoss(work.model()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, foreach=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ReadyTrainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=work.config.total_steps,
                per_device_train_batch_size=work.micro_batch_size,
                gradient_accumulation_steps=work.accumulation_steps,
                max_grad_norm=1.0,
                logging_steps=50,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=work.device.type == "cpu",
                bf16=work.bfloat16,
                torch_compile=work.compile,
            ),
            train_dataset=ReadyDataset(),
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, work.lr)),
            callbacks=[Steps()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


LOOPS: dict[str, Callable[[Work, AfterStep], None]] = {
    "bare loop": bare,
    "raw Accelerate": raw_accelerate,
    "HF Trainer": hf_trainer,
    "ours": ours,
}


def step_seconds(loop: Callable[[Work, AfterStep], None], work: Work, num_warmups: int) -> list[float]:
    """Seconds of each step but the first few, once the device has done it.

    Args:
        num_warmups: how many of the steps aren't counted; at least 1.
    """
    ends: list[float] = []

    def after_step() -> None:
        if work.device.type == "cuda":
            torch.cuda.synchronize(work.device)
        ends.append(time.perf_counter())

    try:
        loop(work, after_step)
    finally:
        AcceleratorState._reset_state(True)  # the next loop may start one with other settings
    ends = ends[num_warmups - 1 : work.config.total_steps]
    return [after - before for before, after in pairwise(ends)]


def step_seconds_in_turn(work: Work, num_warmups: int) -> dict[str, list[float]]:
    """Seconds of each loop's steps but the first few; each does one step, and then it is the next one's turn.

    A machine that others use is fast in one second and slow in the next. Rivals that do their steps in turn meet the
    same seconds. They share one thread, so that they share its pool of threads too.

    Args:
        work: on the CPU, with one micro-batch per step, because loops with Accelerate share its count of them.
        num_warmups: how many of the steps aren't counted.
    """
    from greenlet import getcurrent, greenlet

    assert work.accumulation_steps == 1
    referee = getcurrent()
    steps_done = dict.fromkeys(LOOPS, 0)

    def start(name: str) -> None:
        def after_step() -> None:
            steps_done[name] += 1
            if steps_done[name] <= work.config.total_steps:  # ours evaluates after its last
                referee.switch()

        LOOPS[name](work, after_step)

    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    rivals = {name: greenlet(start) for name in LOOPS}
    order = list(LOOPS)
    try:
        for step in range(work.config.total_steps):
            for name in order:
                before = time.perf_counter()
                rivals[name].switch(*[name] if step == 0 else [])
                if step >= num_warmups:
                    seconds[name].append(time.perf_counter() - before)
            order = [*order[1:], order[0]] if step % 2 else order[::-1]
        for rival in rivals.values():
            rival.switch()
    finally:
        AcceleratorState._reset_state(True)
    return seconds
