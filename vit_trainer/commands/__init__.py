"""Commands: a file per `python -m vit_trainer <command>`, with its flags, its help and what it prints.

train           one trial without Ray
evaluate        a released checkpoint with its own head
predict         the most probable classes of image files
attention       figures of what a model attends to
probe           how fast a model is on this machine
fetch           checkpoints and data sets from the web
pack            a folder of classes as shards
export          weights for other programs
pretrain_mini   the checkpoints of the miniatures
score           what kept predictions say
verify          parity with the official code
sync            run folders to MLflow
"""
