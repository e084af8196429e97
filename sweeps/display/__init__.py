"""Display: what one sees of a sweep while it runs."""
