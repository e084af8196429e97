"""Loop: what train() is made of.

step             the gradient of an optimiser step, in micro-batches that fit into memory
survived         the micro-batch that fitted after one that didn't, for the node's next trial
optim            the learning rate and the official SGD
ledger           losses, time, journal and checkpoints of a run
state            exactly what must survive a restart
accelerator      how a process finds its device, its precision and the others; what its environment may decide
repeatable       which kernels may run, and what an attempt takes over from the one before
liveness         within what time a process will be heard of again
interruption     signals as a request to end
speed            what a row says of speed, the card's use, memory and waiting for images
profiling        a trace of ten steps, and what a GPU's memory held meanwhile
probe            how fast a model goes here, on random images
"""
