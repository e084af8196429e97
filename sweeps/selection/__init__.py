"""Selection: which candidates of a cell go on.

rungs      the rule of asynchronous successive halving
asha       one ASHA per cell behind Tune's scheduler interface, rebuilt from journals
rehearsal  candidates ranked by complete short schedules
studies    one Optuna study per cell; the only importer of optuna
repeats    the flags of a sweep that repeats cells over seeds, each with its best learning rate
"""
