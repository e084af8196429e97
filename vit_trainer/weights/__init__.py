"""Weights: official .npz files, from the web into a model and back.

npz_layout    names and shapes of the arrays, and the parameters that they pair with
kinds         what a file holds, by its first bytes; what is said of those that aren't read here
npz_files     where the files are; checking, reading and writing them
safetensors_files   headers of .safetensors, and what those of ours say of themselves
fetch         files from the web, a mirror or a folder into the cache
layouts       arrays as parameters, and back
load          arrays into a model and out of it; position embeddings resized to another resolution
known_accuracies   what others measured of the released ImageNet-2012 checkpoints
export        weights for other programs
choice        whose weights a command is to read: a trial's, an upstream's or a file's
miniatures/   the checkpoints of the miniatures
"""
