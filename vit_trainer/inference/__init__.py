"""Inference: what a fine-tuned model sees and says."""
