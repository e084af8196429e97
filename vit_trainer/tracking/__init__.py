"""Tracking: run folders to MLflow."""
