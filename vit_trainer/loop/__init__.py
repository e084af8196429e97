"""Loop: what train() is made of."""
