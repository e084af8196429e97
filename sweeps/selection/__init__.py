"""Selection: which candidates of a cell go on.

promotion       which of a cell's candidates go on, decided by whole rungs: a grid's
asha_rule       the rule of asynchronous successive halving, at the rungs of one cell
asha_scheduler  one ASHA per cell as a scheduler of Ray Tune's, rebuilt from journals
rehearsal       candidates ranked by complete short schedules
studies         one Optuna study per cell; the only importer of optuna
best_region     which learning rates did as well as a cell's best
repeats         the flags of a sweep that repeats cells over seeds, each with its best learning rate
"""
