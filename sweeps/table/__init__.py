"""Table: what is asked, and what counts as right.

cells         Cell, Trial, the published grids as data, and names of cells as one types them
labels        what rows and columns of a table of cells are called
search_space  what Optuna searches in a cell, and within which ends
published     the published figures, and which cell each belongs to; published_tables/ has them with their sources
verdict       reproduced, above, below or inconclusive; see docs/verdict.md
"""
