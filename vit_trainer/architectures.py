"""MODELS: the architectures of the published tables, and their miniatures. Standard library only.

Source of the official ones: google-research/vision_transformer at c6de1e5, vit_jax/configs/models.py.
"""

from dataclasses import dataclass

MOST_PER_SIDE = 128
"""Tokens along one side of an image at most: attention over more is none that a GPU has memory for."""
TRAIN_FLOPS_PER_FORWARD = 3
"""A backward pass costs twice a forward pass."""


@dataclass(frozen=True)
class Architecture:
    """The shape of one Vision Transformer.

    A hybrid has `resnet_stages`: its patches are cut from the feature map of a ResNetV2 instead of the image.
    """

    patch_size: int
    """Side of a patch in pixels (of feature-map positions for a hybrid)."""
    width: int
    """Features per token."""
    depth: int
    """Encoder blocks."""
    num_heads: int
    """Attention heads per block."""
    mlp_dim: int
    """Features of the hidden layer in each MLP."""
    resnet_stages: tuple[int, ...] | None = None
    """Units per ResNet stage; None for a pure ViT."""
    resnet_width_factor: float = 1.0
    """Width of the ResNet relative to 64 root channels."""
    timm_name: str | None = None
    """The timm model whose parameters have the same names and shapes; None for miniatures."""
    is_miniature: bool = False
    """Whether it is made for trials of seconds on a laptop; its weights come with the project."""
    resolution: int = 384
    """Side of the input image in pixels that fine-tuning uses unless told otherwise."""
    published_resolutions: tuple[int, ...] = (224, 384)
    """Resolutions in pixels that are valid even where they are no multiple of the stride (ViT-H_14 at 384)."""

    @property
    def stride(self) -> int:
        """Pixels per token along one side: 16 for ViT-B_16 and for R50+ViT-B_16."""
        if self.resnet_stages is None:
            return self.patch_size
        return self.patch_size * 4 << (len(self.resnet_stages) - 1)

    def grid(self, resolution: int) -> int:
        """Tokens along one side of an image of `resolution` pixels; pixels that don't fill a token are unused."""
        return resolution // self.stride

    def accepts(self, resolution: int) -> bool:
        """Whether images of this side can be given to the model: a multiple of the stride, at most MOST_PER_SIDE."""
        fits = resolution % self.stride == 0 or resolution in self.published_resolutions
        return fits and 0 < resolution <= MOST_PER_SIDE * self.stride

    def resnet_units(self) -> list[tuple[int, int, int, int, bool]]:
        """ResNet units in order: (input channels, bottleneck channels, output channels, stride, has projection)."""
        root = int(64 * self.resnet_width_factor)
        units, channels = [], root
        for stage, num_units in enumerate(self.resnet_stages or ()):
            bottleneck = root * 2**stage
            for unit in range(num_units):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append((channels, bottleneck, 4 * bottleneck, stride, unit == 0))
                channels = 4 * bottleneck
        return units

    @property
    def patch_channels(self) -> int:
        """Channels of what is cut into patches: 3, or those of the last ResNet unit."""
        return self.resnet_units()[-1][2] if self.resnet_stages else 3

    def num_parameters(self, resolution: int) -> int:
        """Parameters without the head at this resolution (position embeddings grow with it)."""
        w, m = self.width, self.mlp_dim
        block = 4 * w * (w + 1) + 2 * w * m + m + w + 4 * w
        count = self.depth * block + 2 * w + w + (self.grid(resolution) ** 2 + 1) * w
        count += self.patch_size**2 * self.patch_channels * w + w
        if self.resnet_stages:
            root = int(64 * self.resnet_width_factor)
            count += 7 * 7 * 3 * root + 2 * root
            for inputs, bottleneck, outputs, _, projects in self.resnet_units():
                count += inputs * bottleneck + 9 * bottleneck**2 + bottleneck * outputs + 4 * bottleneck + 2 * outputs
                count += (inputs * outputs + 2 * outputs) if projects else 0
        return count

    def forward_flops(self, resolution: int) -> float:
        """Floating-point operations of one image's forward pass (a multiply-add is 2), head not counted."""
        w, grid = self.width, self.grid(resolution)
        tokens = grid**2 + 1
        flops = self.depth * (tokens * 2 * (4 * w * w + 2 * w * self.mlp_dim) + 4 * tokens**2 * w)
        flops += grid**2 * 2 * self.patch_size**2 * self.patch_channels * w
        if self.resnet_stages:
            side = resolution // 2
            flops += side**2 * 2 * 7 * 7 * 3 * int(64 * self.resnet_width_factor)
            side //= 2
            for inputs, bottleneck, outputs, stride, projects in self.resnet_units():
                flops += side**2 * 2 * inputs * bottleneck
                side //= stride
                flops += side**2 * 2 * (9 * bottleneck**2 + bottleneck * outputs)
                flops += side**2 * 2 * inputs * outputs if projects else 0
        return float(flops)

    def train_flops(self, resolution: int) -> float:
        """Floating-point operations of one image's forward and backward pass."""
        return TRAIN_FLOPS_PER_FORWARD * self.forward_flops(resolution)

    def activation_bytes(self, resolution: int, *, dropout: bool) -> int:
        """Estimated bytes that one image's forward pass keeps for its backward pass, in bfloat16 on a GPU.

        Per token and block: two float32 inputs of layer norms (8 bytes per feature), two bfloat16 outputs of them (4),
        queries, keys and values (6), the attention's output (2), and before and after the GELU 2 bytes per hidden
        feature each; attention weights are never kept. Dropout keeps a byte per value. Of a hybrid's convolutions,
        10 bytes per output: what GroupNorm reads and the ReLU writes in float32, and what the next one reads.
        """
        tokens = self.grid(resolution) ** 2 + 1
        per_token = 20 * self.width + 4 * self.mlp_dim + (2 * self.width + self.mlp_dim if dropout else 0)
        num_outputs = 0
        if self.resnet_stages:
            side = resolution // 2
            num_outputs += side**2 * int(64 * self.resnet_width_factor)
            side //= 2
            for _, bottleneck, outputs, stride, projects in self.resnet_units():
                num_outputs += side**2 * bottleneck
                side //= stride
                num_outputs += side**2 * (bottleneck + outputs * (2 if projects else 1))
        return self.depth * tokens * per_token + 10 * num_outputs


def _miniature(patch_size: int, width: int, depth: int, stages: tuple[int, ...] | None = None) -> Architecture:
    return Architecture(
        patch_size,
        width,
        depth,
        num_heads=width // 16,
        mlp_dim=2 * width,
        resnet_stages=stages,
        resnet_width_factor=0.5 if stages else 1.0,
        resolution=32,
        published_resolutions=(),
        is_miniature=True,
    )


MODELS: dict[str, Architecture] = {
    "ViT-B_16": Architecture(16, 768, 12, 12, 3072, timm_name="vit_base_patch16_224"),
    "ViT-B_32": Architecture(32, 768, 12, 12, 3072, timm_name="vit_base_patch32_224"),
    "ViT-L_16": Architecture(16, 1024, 24, 16, 4096, timm_name="vit_large_patch16_224"),
    "ViT-L_32": Architecture(32, 1024, 24, 16, 4096, timm_name="vit_large_patch32_224"),
    "ViT-H_14": Architecture(14, 1280, 32, 16, 5120, timm_name="vit_huge_patch14_224"),
    "R50+ViT-B_16": Architecture(1, 768, 12, 12, 3072, (3, 4, 9), timm_name="vit_base_r50_s16_224"),
    # Miniatures keep what makes each one itself: B and L differ in width and depth, 16 and 32 in the number
    # of tokens, R50 in the ResNet before the patches. 32 px, so that a laptop trains one in seconds.
    "ViT-B_16-mini": _miniature(4, 48, 3),
    "ViT-B_32-mini": _miniature(8, 48, 3),
    "ViT-L_16-mini": _miniature(4, 64, 4),
    "ViT-L_32-mini": _miniature(8, 64, 4),
    "R50+ViT-B_16-mini": _miniature(1, 48, 3, stages=(1, 1)),
}
