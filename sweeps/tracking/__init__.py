"""Tracking: where a sweep's news goes.

trackers        all of these together
to_mlflow       trials as MLflow runs, within the run of their cell
to_tensorboard  journals as event files
to_webhook      a small JSON object to a web address
registry        a trial of each cell's chosen candidate as a registered MLflow model
"""
