"""From sums to results: ``statistics.h5`` in, ``analysis.h5`` out, on a laptop, without torch or MPI.

units.py    which units carry anything, and the moments of two nets with or without some image groups
pair.py     everything about two nets in one comparison (one task)
layer.py    everything about the units of one comparison that needs no second net
run.py      the stage: tasks, resumable, on any executor; the assembled file
file.py     reading ``analysis.h5``
"""
