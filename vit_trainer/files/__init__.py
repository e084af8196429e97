"""Files: folders and buckets, and what lies in a run folder."""
