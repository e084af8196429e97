"""Reporting: what a sweep came to."""
