"""Results for a notebook: files opened by :func:`convergence.open`, as labelled arrays, tables and figures.

run.py       a file or run folder: nets, comparisons
layer.py     one comparison: correlation, matchings, mutual information, measures, clusters, recipes
pairs.py     what two nets have in common, with its table and figure
labelled.py  arrays and tables that say what their axes and columns are
moments.py   correlations of two nets straight from the sums
"""
