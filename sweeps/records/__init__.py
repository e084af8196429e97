"""Records: what sweeps leave in a storage, read back."""
