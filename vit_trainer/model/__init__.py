"""Model: timm models with the official numerics."""
