"""Reporting: what a sweep came to, as a page, charts and a table for other tools.

statement    what the table says as a whole beside the published figures
accuracies   what each cell achieved, beside what was published
comparison   two results side by side
charts       which charts are drawn of which cells
outcomes     what became of trials: mistakes, stopped, failed, and the hours of all
trial_pages  every trial by itself
origin       what the results were made with, what differs from the official protocol, the reproducibility checklist
rows         the table for other tools
texts        how numbers, times, verdicts, cards and cells are said
draw_charts  draws them with matplotlib
pages        what a page is made of, as Markdown and as HTML
write        which sections a report has, and all of it as files in a storage
"""
