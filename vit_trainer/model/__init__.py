"""Model: timm's Vision Transformers with the official numerics.

build               build_model()
dropout             dropout whose mask is a function of the image
attention_backend   the fastest of PyTorch's attention kernels, measured
compiled            a model compiled once per shape, and once per node
memory              what a trial needs of a GPU's memory, estimated; the largest micro-batch
"""
