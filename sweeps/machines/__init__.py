"""Machines: facts about GPUs, machines and prices. Knows no Ray.

cards         which GPU to plan for, by our names and Ray's
node_types    the kinds of nodes that a cluster's file names, and those that may still come
offers        clouds' machines and images, with the sources of their prices and drivers
speeds        how fast this machine's GPUs compute and exchange data
spot_notices  when a cloud takes its machine back
prices        what a GPU-hour costs, and how many hours some dollars buy
"""
