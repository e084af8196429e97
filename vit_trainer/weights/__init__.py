"""Weights: official .npz files, from the web into a model and back.

npz_layout    names and shapes of the arrays, and the parameters that they pair with
npz_files     where the files are; checking, reading and writing them
safetensors_files   what a .safetensors of ours says of itself
fetch         files from the web, a mirror or a folder into the cache
load          arrays into a model and out of it; position embeddings resized to another resolution
known_accuracies   what others measured of the released ImageNet-2012 checkpoints
export        weights for other programs
choice        whose weights a command is to read: a trial's, an upstream's or a file's
miniatures/   the checkpoints of the miniatures
"""
