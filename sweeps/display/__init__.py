"""Display: what one sees of a sweep while it runs.

sweep_display  a live table in a terminal, else a line per event
final_table    what the cells came to
live_table     draws it for any size of terminal
running_list   a line per running candidate
words          how these say steps, times and candidates
standing       how a sweep and each of its trials stand
from_folders   how they stand by the run folders alone, for watch.py
"""
