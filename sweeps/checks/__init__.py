"""Checks: what the doctor looks at, and what may explain a result.

finding                the outcome of a check, as a line
cluster_file_promises  what cluster files keep beyond Ray's schema
cluster_inputs         what their machines fetch: whether one's bucket has it, and their disks hold it
aws_account            whether one's own on AWS lets a cluster be launched
before_launch          a cluster file, and whether it can be launched from here
parity_on_nodes        whether nodes compute what the official code does
explanations           why a result may differ from the published one
inputs                 whether checkpoints and data sets are where trials run
open_ports             what of Ray and MLflow the world could reach on a machine
on_nodes               a running cluster: versions, GPUs, weights, data, the storage
new_node               a machine alone, before it joins a cluster
"""
