"""Records: what sweeps leave in a storage, read back.

commands    which command ran which cells
decisions   what was decided about candidates, and from what
results     what all run folders hold, as the cells of a table
hours       what trials took, what early stopping saved and faults lost
comparison  predicted against actual hours
budget      the hours that a sweep may take, and those that it has taken
"""
