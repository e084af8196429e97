"""Records: what sweeps leave in a storage, read back.

- budget: the hours that a sweep may take, and those that it has taken
- commands: which command ran which cells
- hours: what trials took, what early stopping saved and faults lost, against what was predicted
- trial_record: what one run folder holds
- cell_record: one cell of the table and everything that was run for it
- predicted_hours: what a plan would have said of trials that have run
- results: the run folders of a storage as the cells of a table
"""
