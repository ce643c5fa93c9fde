"""The paper's tables and figures for a run, beside the values that were published (Li et al. 2016, arXiv 1511.07543).

published.py    the paper's numbers, each with where it comes from, and exact values on its own conv1
readings.py     this run's numbers, layer by layer
tables.py       numbers as plain text in columns
corrections.py  what the paper got wrong that the run shows, each with both readings
figures.py      loss against penalty in all readings; the other figures are the report's
run.py          the command: find the run, read, print, draw
"""
