"""Records: what sweeps leave in a storage, read back.

trial_record     what one run folder holds
cell_record      one cell of the table and everything that was run for it
results          the run folders of a storage as the cells of a table
commands         which command ran which cells
parity           what nodes came to that were compared with the official code
decisions        what was decided about candidates, and from what
slots            since when and until when trials held GPUs
hours            what trials took, what early stopping saved and faults lost
predicted_hours  what a plan would have said of trials that have run
left_states      checkpoints that no sweep works at any more
budget           the hours that a sweep may take, and those that it has taken
unpacked         a bundle of evidence as the storage that it was packed from
"""
