"""Fine-tunes one Vision Transformer by the official protocol, on one GPU or several."""
