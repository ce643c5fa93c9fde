"""From sums to results: ``statistics.h5`` in, ``analysis.h5`` out, on a laptop, without torch or MPI.

active_units.py     units that enter results, their statistics and correlations
pair_sums.py        moments of two nets with or without some image groups
steps.py, cost.py   methods as steps, their replicates, and what steps cost
measures.py         similarity measures of whole layers, on all images and held out
one_to_one.py, mutual_information.py  partners of single units, by correlation and by mutual information
within_class.py     similarity within classes, beyond the label
few_to_one.py       prediction of a unit from few units
many_to_many.py     groups of units and the subspaces that they span
distributions.py    activation statistics
pair.py             all of these for two nets
joint.py, nets.py   all nets of a comparison together, and over epochs
best_layers.py      the layer of another net that has a unit's best partner
plan.py, worker.py, part_files.py, run.py, task_progress.py   the stage: tasks, resumable, on any executor
schema.py, layout.py, pair_tables.py   the declaration of the tables of ``analysis.h5``
assembly.py, file.py   tables from results of tasks; writing and reading them
"""
