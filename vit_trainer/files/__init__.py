"""Files: where everything lies that a trial reads or leaves.

location       what was typed for a place, expanded, checked and refused
folder         a local folder or a bucket, read and written whole
storage        the layout of what --storage names
run_dir        the files of a run folder: config, lease, journal, checkpoint, result, weights
schema         what may stand in them
predictions    what a trial's final model said of every test image
download       a file from the web, whole or not at all
published      files of data sets, as published: downloaded, checked and unpacked
mirror         the same files in a folder or bucket of one's own, for others to fetch
outgoing       text that leaves the process: without secrets and control characters
progress_bar   how a download goes on
"""
