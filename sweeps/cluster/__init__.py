"""Cluster: talking to Ray's nodes.

address   which cluster is meant, by RAY_ADDRESS or `ray start`
own_ray   a Ray that a sweep starts for itself
join      the Ray cluster that a sweep runs on, and what it has
launched  a cluster that `ray up` makes of a file, from another machine
loss      whether it is still there
gpus      which cards the nodes have
nodes     the living nodes, and a call on every node
leaving   a node that its cloud takes back
versions  what must be alike on all nodes
"""
