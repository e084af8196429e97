"""Selection: which candidates of a cell go on."""
