"""Known accuracies: what others measured of the released ImageNet-2012 checkpoints, on its 50,000 validation images.

The authors' code squashes images into squares, as ours does; timm crops the centre (all of the shorter side at 384 px,
0.9 of it at 224), which gives up to half a point more at 224 px. Left out: PaddleClas's port (84.14, 81.76, 85.13,
81.53; 81.95 and 83.23 at 224 px), whose preprocessing isn't stated, and two users' rewrites (83.6 for ViT-B_16, 83.41
for the hybrid), which the authors answered with 85.08.
"""

from dataclasses import dataclass

TIMM = "timm, centre crop (results-imagenet.csv of 2020-10-29 to 2025-10-30)"


@dataclass(frozen=True)
class KnownAccuracy:
    """One figure."""

    accuracy: float
    """Top-1, a fraction in [0, 1]."""
    source: str
    """Who measured it, and how."""


KNOWN = {
    ("R50+ViT-B_16", 384): (
        KnownAccuracy(0.85082, "the authors (google-research/vision_transformer, issue 39)"),
        KnownAccuracy(0.84988, TIMM),
    ),
    ("ViT-B_16", 224): (
        KnownAccuracy(0.812, "the authors (README of 2020-10-29)"),
        KnownAccuracy(0.81782, TIMM),
    ),
    ("ViT-B_16", 384): (KnownAccuracy(0.84212, TIMM),),
    ("ViT-B_32", 384): (KnownAccuracy(0.81652, TIMM),),
    ("ViT-L_16", 224): (
        KnownAccuracy(0.827, "the authors (README of 2020-10-29)"),
        KnownAccuracy(0.83062, TIMM),
    ),
    ("ViT-L_16", 384): (KnownAccuracy(0.85158, TIMM),),
    ("ViT-L_32", 384): (KnownAccuracy(0.81508, TIMM),),
}
"""By model and the resolution of the file's position embeddings."""


def known_accuracies(model: str, dataset: str, split: str, resolution: int) -> tuple[KnownAccuracy, ...]:
    """What is known of the released checkpoint; the authors' first, empty where nothing is."""
    is_measured = (dataset, split) == ("imagenet2012", "test")  # its validation images, as published, are our test
    return KNOWN.get((model, resolution), ()) if is_measured else ()
