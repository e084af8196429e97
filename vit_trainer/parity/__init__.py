"""Parity: our numbers against those of the official code, which `python -m vit_trainer verify` prints.

ladder             all rungs in order, and their printing
rung               one comparison, and what it is made with
forward_pass       rungs of logits, layers, dropout and position embeddings
updates            rungs of learning rates and optimiser steps, and of fine-tuning as a whole
pixels             rungs of pixels and of the distribution of crops
bfloat16           rungs in training's precision on GPUs, and what rounding explains there
same_bits          rungs of equal bits: dropout masks, and a run that was interrupted
golden             what the official code computed, and the weights and images that it was given
official_forward   the official forward pass in float64, which finds the first layer that differs
"""
