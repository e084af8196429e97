"""python -m vit_trainer export: weights for other programs."""

from pathlib import Path

from vit_trainer.architectures import MODELS
from vit_trainer.errors import one_of


def export(
    *,
    model: str,
    output: Path,
    upstream: str | None = None,
    checkpoint: Path | None = None,
    resolution: int | None = None,
) -> None:
    """Write weights as .safetensors for plain timm, with the same logits, or as an official .npz.

    Parameters
    ----------
    model
        A name such as ViT-B_16.
    output
        File that ends in .safetensors or .npz.
    upstream
        Whose weights: imagenet21k, imagenet21k+imagenet2012, imagenet21k+imagenet2012-224, digits.
    checkpoint
        A local .npz instead, or a .safetensors such as a run folder's model.safetensors.
    resolution
        Side in pixels that the position embeddings are resized to; unchanged unless given.
    """
    from vit_trainer.weights.npz_files import require_weights

    if model not in MODELS:
        raise one_of("model", model, list(MODELS))
    own_weights = checkpoint is not None and checkpoint.suffix == ".safetensors" and upstream is None
    weights = checkpoint if own_weights else require_weights(model, upstream=upstream, file=checkpoint)
    assert weights is not None

    from vit_trainer.weights.export import export_weights

    print(f"{output}: load it with {export_weights(model, weights, output, resolution=resolution)}")
