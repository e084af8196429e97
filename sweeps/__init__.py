"""Asks the questions of the published tables: grids of fine-tunes, scheduled by Ray Tune."""
