"""Tracking: run folders to MLflow, which is a view of them.

trial_runs   a trial's folder becomes its MLflow run, as often as one likes
cell_runs    the run of a cell, above those of its trials
chosen       which candidate of a cell counts, and what it came to
experiment   what MLflow's client is asked for
background   the thread that ships while trials go on
views        what MLflow's page shows of an experiment, and the note that leads there
catalogue    what is to be said of a sweep's trials beyond their folders
sync         all folders of a storage
database     MLflow's SQLite file: made whole, and recognised
moved        a storage that was copied or moved: MLflow's paths follow
store        where MLflow keeps its runs; the check of a tracking URI
"""
