"""Reporting: what a sweep came to, as a page, charts and a table for other tools.

sections     which sections a report has, and in which order
statement    what the table says as a whole beside the published figures
accuracies   what each cell achieved, beside what was published
charts       which charts are drawn of which cells
outcomes     what became of trials: mistakes, stopped, failed, and the hours of all
origin       what the results were made with, and the commands that make them again
rows         the table for other tools
texts        how numbers, times, verdicts, cards and cells are said
best_region  which learning rates do as well as a cell's best
draw_charts  draws them with matplotlib
pages        what a page is made of, as Markdown and as HTML
write        all of this as files in a storage
"""
