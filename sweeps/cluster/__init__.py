"""Cluster: talking to Ray's nodes."""
