"""From sums to results: ``statistics.h5`` in, ``analysis.h5`` out, on a laptop, without torch or MPI.

units.py          which units carry anything, and the moments of two nets with or without some image groups
section.py        a part of a pair's results, and its replicates
measures.py       measures of whole layers, on all images and held out
one_to_one.py     partners of single units
few_to_one.py     units predicted from few
many_to_many.py   groups of units
information.py    partners by mutual information
distributions.py  activation statistics
pair.py           all of these for two nets (one task)
joint.py, nets.py, over_time.py   all nets of a comparison at once, and over epochs
layer.py          the units of one comparison
run.py            the stage: tasks, resumable, on any executor; the assembled file
file.py           reading ``analysis.h5``
"""
