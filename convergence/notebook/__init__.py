"""Nets of a notebook: ``convergence.compare`` on live modules, or on arrays without torch.

compare.py   the function: settings in, results of a run out
inputs.py    arrays, tensors, data sets and loaders become images that are read by index
nets.py      names and layers of the nets, copies that are read, the experiment that compares them
stage.py     the sums in this process, bit by bit those of ``convergence statistics``
"""
