"""Weights: official .npz files, read, checked and loaded."""
