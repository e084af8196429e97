"""Running: trials as processes."""
