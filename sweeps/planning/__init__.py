"""Planning: what a sweep will cost, and where it fits.

candidates        which cells a sweep is about, and which trials of them compete, by its flags
order             in which order trials start: longest first, or cheapest first
capacity          what a cluster's nodes can hold, which trials fit there, and how long these take
rates             how fast trials go: from probes, measurements, a card's data sheet or a CPU core's speed
cores             what a CPU core of this machine reaches, from a moment's measurement
probed_rates      what probes measured, kept in the storage
memory_and_disk   what trials take of a GPU's memory and of disks
halving           where a grid's rungs are, how many go on there, and what share of the work that is
expected_savings  how much of the work the rule that stops at once is expected to leave
plan              all of this put together
plan_text         the lines that --plan prints
"""
