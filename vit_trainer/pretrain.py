"""Makes the miniature checkpoints: pre-training on digits that no fine-tuning ever sees.

As in the paper's own pre-training: Adam, weight decay, warm-up, linear decay. Half of each batch is cropped as in
fine-tuning and half is whole images: of crops alone, 718 images of 8x8 pixels are too few to learn much from.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vit_trainer.architectures import MODELS
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.datasets import dataset_info
from vit_trainer.data.load import load_dataset
from vit_trainer.data.randomness import image_order
from vit_trainer.data.splits import MicroBatch
from vit_trainer.evaluate import evaluate
from vit_trainer.loop.accelerator import start_accelerator
from vit_trainer.model.build import build_model
from vit_trainer.weights.load import export_arrays
from vit_trainer.weights.npz_files import write_npz

PEAK_LR = 1e-3
WEIGHT_DECAY = 0.1
TOTAL_STEPS = {"ViT-B_32-mini": 16_000}
"""Optimiser steps where DEFAULT_TOTAL_STEPS are too few: with 16 tokens of 48 features, learning is slow."""
DEFAULT_TOTAL_STEPS = 4_000


def pretrain_miniature(model_name: str, path: Path, *, total_steps: int | None = None) -> float:
    """Train a miniature from random weights on `digits-pretrain` and write it as an official-format .npz.

    Returns:
        Accuracy in [0, 1] on the validation split of `digits-pretrain`.
    """
    if total_steps is None:
        total_steps = TOTAL_STEPS.get(model_name, DEFAULT_TOTAL_STEPS)
    config = FinetuneConfig.official(
        model_name, "digits-pretrain", total_steps=total_steps, warmup_steps=total_steps // 10
    )
    torch.manual_seed(config.seed)
    architecture, data = MODELS[model_name], load_dataset(config.dataset)
    num_classes = dataset_info(config.dataset).num_classes
    model = build_model(architecture, num_classes=num_classes, resolution=config.resolution)
    nn.init.normal_(model.pos_embed, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    device = torch.device("cpu")
    half = config.global_batch_size // 2
    for step in range(total_steps):
        order = image_order(config.seed, step * 2 * half, 2 * half, len(data.train))
        options: dict[str, Any] = {"resolution": config.resolution, "device": device}
        cropped = data.train.train_batches(
            [MicroBatch(step, slice(0, half), order[:half])], seed=config.seed, **options
        )
        whole = data.train.evaluation_batches(order[half:], half, **options)
        images, labels = (torch.cat(pair) for pair in zip(next(cropped), next(whole)[:2], strict=True))
        warm_up, decay = step / config.warmup_steps, (total_steps - step) / (total_steps - config.warmup_steps)
        optimizer.param_groups[0]["lr"] = PEAK_LR * min(warm_up, decay)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    write_npz(path, export_arrays(model, architecture))
    accelerator = start_accelerator("float32", on_gpu=False)
    return evaluate(model, data.validation, accelerator, resolution=config.resolution, batch_size=256).accuracy
