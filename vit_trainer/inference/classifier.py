"""Classifier: a model with its head, which sees image files as the evaluation does."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vit_trainer.architectures import MODELS
from vit_trainer.data.class_names import numbered
from vit_trainer.data.crops import resize_cuts, thinned
from vit_trainer.errors import CheckpointError, InputError
from vit_trainer.model.build import build_model
from vit_trainer.weights.choice import Weights
from vit_trainer.weights.load import load_arrays, read_weights
from vit_trainer.weights.npz_layout import check_fits, token_grid


@dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode, in float32."""

    model: VisionTransformer
    resolution: int
    """Side of its input in pixels."""
    stride: int
    """Pixels per token along one side."""
    has_head: bool
    """Whether its logits mean anything: of weights without a head, the model's is zero."""

    @classmethod
    def load(cls, weights: Weights) -> "Classifier":
        """Read weights, their head included if they have one, to a GPU if there is one.

        Raises:
            CheckpointError: the file is missing, damaged or another model's.
        """
        architecture, arrays = MODELS[weights.model], read_weights(weights.path, weights.model)
        shapes = {name: array.shape for name, array in arrays.items()}
        contents = check_fits(shapes, architecture, source=weights.source)
        side, has_head = weights.resolution or contents.resolution(architecture), contents.num_classes is not None
        model = build_model(
            architecture,
            num_classes=contents.num_classes or 1,
            resolution=side,
            representation_size=contents.representation_size,
        )
        load_arrays(model, architecture, arrays, keep_head=has_head, source=weights.source)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.eval().to(device), side, architecture.stride, has_head)

    @property
    def covered(self) -> int:
        """Side in pixels of the part that its patches cover, from the top left: 378 of 384 for ViT-H_14."""
        return token_grid(self.model.pos_embed.shape[1]) * self.stride

    @property
    def batch_size(self) -> int:
        """Images that it is given at once."""
        return 32 if self.model.pos_embed.device.type == "cuda" else 8

    def input_of(self, image: Image) -> Tensor:
        """An RGB image of any size, resized as a whole: (1, 3, R, R) float32 in [-1, 1], on the model's device."""
        device = self.model.pos_embed.device
        pixels = torch.tensor(thinned(np.asarray(image), self.resolution), device=device)
        no_flip = torch.zeros(1, dtype=torch.bool, device=device)
        return resize_cuts(pixels.flatten(), np.array([(image.height, image.width)]), no_flip, self.resolution)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """(batch, 3, R, R) as from `input_of` -> (batch, num_classes) float64, each row of sum 1."""
        logits: Tensor = self.model(images)
        return logits.double().softmax(1)

    def require_head(self, source: str) -> None:
        """Raise CheckpointError unless the weights had a head; source: what to call them."""
        if not self.has_head:
            raise CheckpointError(
                f"{source} has no head for predictions: fine-tune it with python -m vit_trainer train, or give a "
                "checkpoint with head/kernel and head/bias"
            )

    def names(self, weights: Weights) -> tuple[str, ...]:
        """A name per class, or numbers where nothing says them.

        Raises:
            InputError: there are more or fewer names than outputs of the head.
        """
        num_classes: int = self.model.num_classes
        names = weights.class_names or numbered(num_classes)
        if len(names) != num_classes:
            raise InputError(
                f"the head of {weights.source} has {num_classes} classes, {weights.dataset} has {len(names)}: give the "
                "data set of its classes, or leave --dataset out"
            )
        return names


def top(probabilities: Tensor, names: tuple[str, ...], count: int = 5) -> list[tuple[str, float]]:
    """Names and probabilities of the most probable classes, falling; probabilities: (num_classes,)."""
    values, classes = probabilities.sort(descending=True, stable=True)
    return [(names[i], value) for i, value in zip(classes[:count].tolist(), values.tolist(), strict=False)]
