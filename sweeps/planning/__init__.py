"""Planning: what a sweep will cost, and where it fits."""
