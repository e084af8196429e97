"""Fine-tunes one Vision Transformer by the official protocol, on one GPU or several. Knows nothing of Ray.

train           train(): one trial from its config to its result, which the loop is written out in
config          FinetuneConfig, what a trial is; Execution, how it is run
architectures   MODELS: the architectures of the published tables, and their miniatures
evaluate        accuracy by exact sums
pretrain        makes the checkpoints of the miniatures
commands/       python -m vit_trainer <command>, a file each; __main__ puts them together
loop/           what train() is made of: a step, the learning rate, checkpoints, the journal
data/           data sets, and their images as batches: decoding, crops, flips
model/          timm's Vision Transformers with the official numerics; dropout, compilation, memory
weights/        official .npz files: fetched, checked, loaded, exported; position embeddings resized
inference/      predictions and attention of a model that is fine-tuned
parity/         the proof that all of this computes what the official code does
tracking/       run folders to MLflow
files/          folders and buckets, the run folder, the layout of a storage, downloads
machine         what PyTorch finds here; device names
cards           CARDS: peaks and memory of GPUs, by our names and the drivers'
kernels         where compiled kernels lie, and who makes them
provenance      which code and versions a run was made with
command_line    flags, errors and exit codes of every command
errors          what can go wrong, as a tree
"""
