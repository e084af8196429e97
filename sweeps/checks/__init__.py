"""Checks: what the doctor looks at."""
