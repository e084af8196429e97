"""Table: what is asked, and what counts as right.

cells         Cell, Trial, the published grids as data, and names of cells as one types them
labels        what rows and columns of a table of cells are called
search_space  what Optuna searches in a cell, and within which ends
published     the published figures, and which cell each belongs to; published_tables/ has them with their sources
spread        how much runs differ by chance, pooled over the published ones and ours; Student's t
verdict       reproduced, above, below or inconclusive; see docs/verdict.md
whole_table   what the verdicts of many cells say together
"""
