"""Parity: every number that matters against the official code's."""
