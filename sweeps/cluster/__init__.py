"""Cluster: talking to Ray's nodes.

join      the Ray cluster that a sweep runs on, and what it has
gpus      which cards the nodes have
nodes     the living nodes, whether a cluster answers, and a call on every node
versions  what must be alike on all nodes
"""
