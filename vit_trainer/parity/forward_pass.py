"""Rungs of the forward pass: logits, layers, features, dropout, and position embeddings for another resolution."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.model.build import build_model, dropout_keys_of
from vit_trainer.model.compiled import compile_forward
from vit_trainer.model.dropout import ImageDropout
from vit_trainer.parity.golden import ForwardFacts, FullFacts, GoldenFolder, make_images, make_params
from vit_trainer.parity.official_forward import LayerError, layer_errors
from vit_trainer.parity.rung import CPU, Rung, Setting, error_of, first_missing, largest, matching, missing
from vit_trainer.weights.layouts import Arrays
from vit_trainer.weights.load import load_arrays, resize_position_embedding


@dataclass(frozen=True)
class Bounds:
    """Largest differences that rounding explains, for one kind of model."""

    logits: float
    gradient_norm: float
    """Of the norms of a run's gradients, relative to the largest of them."""
    loss: float
    """Of the losses over a run with float32 momentum."""
    weights: float
    """Of the weights after a run with float32 momentum."""


VIT_BOUNDS = Bounds(logits=2e-6, gradient_norm=1e-5, loss=2e-6, weights=1e-6)
# Convolutions, ReLUs and max-pooling amplify rounding: after 20 steps of the tiny hybrid at rate 0.003, the official
# losses are 1.1e-5 from the same run in float64, and ours 2.2e-5.
HYBRID_BOUNDS = Bounds(logits=1e-5, gradient_norm=1e-3, loss=1e-4, weights=5e-5)


@dataclass(frozen=True)
class Case:
    """Weights, and the model that they are put into."""

    architecture: Architecture
    weights: Arrays
    resolution: int
    num_classes: int
    keep_head: bool = True
    representation_size: int | None = None
    setting: Setting = CPU

    @property
    def bounds(self) -> Bounds:
        return HYBRID_BOUNDS if self.architecture.resnet_stages else VIT_BOUNDS

    def model(self, dropout: float = 0.0) -> VisionTransformer:
        """The loaded model, in evaluation mode."""
        model = build_model(
            self.architecture,
            num_classes=self.num_classes,
            resolution=self.resolution,
            dropout=dropout,
            representation_size=self.representation_size,
        )
        source = "the golden checkpoint"
        load_arrays(model, self.architecture, self.weights, keep_head=self.keep_head, source=source)
        model.to(self.setting.device).eval()
        if self.setting.compiled:
            compile_forward(model)
        if self.setting.bfloat16:
            model.forward = torch.autocast(self.setting.device, torch.bfloat16)(model.forward)
        return model

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """An array where the model is."""
        return torch.from_numpy(array).to(self.setting.device)

    def dropout_logits(self, images: NDArray[np.float32]) -> tuple[Tensor, int]:
        """Logits under the golden dropout masks, and how many dropouts a forward pass has."""
        model = self.model(dropout=0.1).train()
        dropout_keys_of(model).set(torch.zeros(len(images), dtype=torch.int32, device=self.setting.device))
        sites = _fix_masks(model)
        with torch.no_grad():
            return model(self.tensor(images)), len(sites)


def position_embeddings(golden: GoldenFolder) -> Iterator[Rung]:
    """Tables resized from one grid to another."""
    arrays = golden.arrays("posembed")
    if arrays is None:
        yield missing("position embeddings", "posembed.npz")
        return
    errors = []
    for name, (_, grid) in matching(arrays, r"in_(\d+)_(\d+)"):
        resized = resize_position_embedding(torch.from_numpy(arrays[name]), int(grid))
        errors.append(error_of(resized, arrays, name.replace("in", "out")))
    yield Rung("position embeddings", largest(errors), 5e-6)


def forward(golden: GoldenFolder, name: str, setting: Setting = CPU) -> Iterator[Rung]:
    """Logits, every layer, features before the head, and logits under the golden dropout masks.

    The layers are compared with our own reading of the official code in float64, since no file holds them.
    """
    given = golden.arrays(f"{name}_forward"), golden.checkpoint(name), golden.facts("forward", ForwardFacts)
    arrays, weights, facts = given
    if arrays is None or weights is None or facts is None:
        yield missing(f"logits {name}", first_missing(given, f"{name}_forward.npz", f"{name}_ckpt.npz", "forward"))
        return
    case = Case(golden.architectures[name], weights, golden.resolution(name), golden.num_classes, setting=setting)
    images = make_images(facts.batch, case.resolution, facts.image_seed)
    yield logits_rung(f"logits {name}", case, images, arrays, "logits", case.bounds.logits)
    layers = list(layer_errors(case.model(), case.architecture, case.weights, images))
    worst = max(layers, key=lambda layer: layer.error)
    yield Rung(f"layers {name}, in float64", worst.error, worst.tolerance, _first_difference(layers))
    if "features" in arrays:
        model = case.model()
        with torch.no_grad():
            features = model.forward_head(model.forward_features(case.tensor(images)), pre_logits=True)
        yield Rung(f"features {name}", error_of(features, arrays, "features"), 2 * case.bounds.logits)
    if "dropout01_logits" in arrays:
        logits, num_sites = case.dropout_logits(images)
        if "dropout_sites" in arrays:
            yield Rung(f"dropout {name}: places", abs(num_sites - int(arrays["dropout_sites"])), 0)
        yield Rung(f"dropout {name}: logits", error_of(logits, arrays, "dropout01_logits"), 1e-5)


def full_size(golden: GoldenFolder, setting: Setting = CPU) -> Iterator[Rung]:
    """Logits of full-size models with weights from a seed, position embeddings resized where the resolution asks it."""
    arrays = golden.arrays("full_logits")
    if arrays is None:
        yield missing("logits of full-size models", "full_logits.npz")
        return
    facts = golden.facts("full", FullFacts) or FullFacts()
    weights: Arrays = {}
    weights_of = None
    for name, (model_name, resolution) in matching(arrays, r"(.+)_(\d+)"):
        rung = f"logits {model_name} at {resolution} px"
        architecture = golden.architectures.get(model_name) or MODELS.get(model_name)
        if architecture is None:
            yield Rung(rung, None, note=f"{model_name} is no architecture in meta.json, nor one of ours")
            continue
        num_classes = arrays[name].shape[-1]
        if model_name != weights_of:
            grid, weights_of = architecture.grid(facts.pretrain_resolution), model_name
            weights = make_params(architecture, grid, num_classes, seed=facts.weights_seed)
        images = make_images(facts.batch, int(resolution), facts.image_seed)
        case = Case(architecture, weights, int(resolution), num_classes, setting=setting)
        yield logits_rung(rung, case, images, arrays, name, 5e-5)


def logits_rung(rung: str, case: Case, images: NDArray[np.float32], arrays: Arrays, name: str, bound: float) -> Rung:
    """A rung for a forward pass, with the first layer that differs where it fails."""
    model = case.model()
    with torch.no_grad():
        error = error_of(model(case.tensor(images)), arrays, name)
    if error <= bound:
        return Rung(rung, error, bound)
    layers = layer_errors(model, case.architecture, case.weights, images)
    return Rung(rung, error, bound, _first_difference(layers) or "no layer differs from our float64 reference")


def _first_difference(layers: Iterable[LayerError]) -> str:
    """Which of some layers is the first to differ, in words; empty if none does."""
    first = next((layer for layer in layers if layer.differs), None)
    return f"first differs: {first.layer} (relative error {first.error:.1e} in float64)" if first else ""


def _fix_masks(model: VisionTransformer) -> list[ImageDropout]:
    """Have the k-th dropout of a forward pass keep element i of each image where (7919 i + 31 k) % 10 is not 0."""
    sites = [module for module in model.modules() if isinstance(module, ImageDropout)]
    calls = iter(range(len(sites)))

    def kept(keys: Tensor, size: int) -> Tensor:
        mask = (7919 * torch.arange(size, device=keys.device) + 31 * next(calls)) % 10 != 0
        return mask.expand(len(keys), size)

    for site in sites:
        site.kept = kept  # type: ignore[method-assign]
    return sites
