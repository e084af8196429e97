"""Weights for other programs: safetensors that plain timm loads with the same logits, and official .npz files."""

import math
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.config import require_resolution
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.folder import write_atomically
from vit_trainer.weights.choice import Weights
from vit_trainer.weights.layouts import Arrays, to_parameters
from vit_trainer.weights.load import read_weights, resize_position_embedding
from vit_trainer.weights.npz_files import write_npz
from vit_trainer.weights.npz_layout import POSITION_EMBEDDING, check_fits
from vit_trainer.weights.safetensors_files import FOLDED, in_order, metadata_of

STD_EPSILON, TIMM_VARIANCE_EPSILON = 1e-5, 1e-8
"""Epsilons of weight standardisation: officially added to the standard deviation, in timm to the variance."""

NORM_EPSILON, TIMM_NORM_EPSILON = 1e-6, 1e-5
"""Epsilons of GroupNorm in the ResNet."""


def export_weights(weights: Weights, output: Path, *, resolution: int | None = None) -> str:
    """Write a model's weights as .safetensors for timm, or as an official .npz, by the suffix of `output`.

    Args:
        resolution: side in pixels that position embeddings are resized to; None leaves them as they are.

    Returns:
        How to load what was written.

    Raises:
        InputError: the weights can't be read, or not be written as that kind of file.
    """
    architecture = MODELS[weights.model]
    if output.suffix not in (".npz", ".safetensors"):
        raise InputError(f"cannot write {output}: give a name that ends in .safetensors, .onnx or .npz")
    arrays = read_weights(weights.path, weights.model)
    if resolution is not None:
        require_resolution(weights.model, resolution)
        table = torch.from_numpy(np.ascontiguousarray(arrays[POSITION_EMBEDDING]))
        arrays[POSITION_EMBEDDING] = resize_position_embedding(table, architecture.grid(resolution)).numpy()
    contents = check_fits({name: array.shape for name, array in arrays.items()}, architecture, source=weights.source)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix == ".npz":
            write_npz(output, arrays)
            return f"--checkpoint {output}"
        side = resolution or contents.resolution(architecture)
        loads = (
            f'timm.create_model("{architecture.timm_name}", pretrained=False, img_size={side}, '
            f'num_classes={contents.num_classes or 0}, act_layer="gelu_tanh")'
        )
        config = {"model": weights.model, "dataset": weights.dataset, "resolution": side}
        metadata = metadata_of(config, weights.class_names) | {"timm": loads}
        metadata |= {FOLDED: "yes"} if architecture.resnet_stages else {}
        write_atomically(output, in_order(safetensors.numpy.save(timm_parameters(arrays, architecture), metadata)))
    except OSError as error:
        raise InputError(f"cannot write {output} ({reason_of(error)}): give another place") from error
    return loads if architecture.timm_name else f"a timm model of the shape of MODELS[{weights.model!r}]"


def timm_parameters(arrays: Arrays, architecture: Architecture) -> Arrays:
    """What plain timm's `load_state_dict` takes, such that its logits are the official ones.

    timm_name with `act_layer="gelu_tanh"` computes a ViT as we do. Its hybrid has other epsilons in the ResNet, with
    which random full-size weights at 224 px give logits that are 7e-4 off (4e-3 with small GroupNorm scales).
    They are therefore made up for in the weights, see `_fold_resnet`: 4e-5 remains, which is rounding, and for images
    of a single colour 1.5e-2, because the first GroupNorm follows the image itself and can't be made up for.

    Raises:
        InputError: the weights have `pre_logits`, which timm's models don't.
    """
    if "pre_logits/kernel" in arrays:
        raise InputError("timm's model has no pre_logits layer: export these weights as .npz, or fine-tune them first")
    parameters = to_parameters(arrays, architecture, head="head/kernel" in arrays)
    if architecture.resnet_stages:
        parameters = _fold_resnet(parameters)
    return {name: np.ascontiguousarray(parameter) for name, parameter in parameters.items()}


def _fold_resnet(parameters: Arrays) -> Arrays:
    """Weights with which timm's epsilons compute what the official ones do with the given weights.

    Convolutions: standardised weights have standard deviation r = s / (s + 1e-5) officially and t / sqrt(t^2 + 1e-8)
    in timm, equal for t = 1e-4 * r / sqrt(1 - r^2). GroupNorms: one with ten times the epsilon does the same to
    sqrt(10) times the input, so every GroupNorm's output is multiplied by that (ReLU, pooling and sums pass it on),
    and the patch embedding divides it out again.
    """
    gain = math.sqrt(TIMM_NORM_EPSILON / NORM_EPSILON)
    folded = dict(parameters)
    for name, parameter in parameters.items():
        if not name.startswith("patch_embed.backbone."):
            continue
        if parameter.ndim == 4:
            centred = parameter - parameter.mean((1, 2, 3), keepdims=True, dtype=np.float64)
            std = np.sqrt(np.mean(centred**2, (1, 2, 3), keepdims=True))
            ratio = std / (std + STD_EPSILON)
            target = math.sqrt(TIMM_VARIANCE_EPSILON) * ratio / np.sqrt(1 - ratio**2)
            folded[name] = (centred * (target / np.maximum(std, np.finfo(np.float64).tiny))).astype(np.float32)
        else:
            folded[name] = (parameter * gain).astype(np.float32)
    folded["patch_embed.proj.weight"] = (parameters["patch_embed.proj.weight"] / gain).astype(np.float32)
    return folded
