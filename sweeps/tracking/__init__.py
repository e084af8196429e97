"""Tracking: where a sweep's news goes."""
