"""Imported by the process that forks those who read from a bucket, and by nobody else.

A trial with threads in a bucket's client can't be forked; a process that has imported everything and asks for nothing
can. A request to end that goes to all processes of a job must not end this one: the trial may have a step to finish.
"""

import signal

import vit_trainer.data.image_files
import vit_trainer.data.shards.reading  # noqa: F401

signal.signal(signal.SIGTERM, signal.SIG_IGN)
