"""What steps take: seconds on one core, as constants times powers of widths. ``python -m benchmarks.plan`` fits them.

They decide how steps are cut and so are part of the arithmetic (a sum over targets is made range by range): they are
constants of a version, never measured while it runs. A factor of two does no harm.
"""

GOAL = 8.0
"""Seconds that a range of a step should take."""
TOGETHER = 4.0
"""Steps that take less than so many seconds are one task, and a pair that does is one."""
CALL = 0.01
"""What calling all measures takes, however few units there are."""
MEASURES = 3.8e-9
"""All measures of the moments of a pair once, times n³."""
MEASURES_SQUARE = 5e-7
"""The same, times n²."""
MOMENTS = 2e-8
"""Correlations of some image groups, times n²."""
MATCHING = 5e-11
"""One-to-one matching, times n³."""
PARTIAL = 4e-10
"""One partial soft matching, times n³."""
ROTATION = 2e-10
"""A rotation drawn and applied, times n³."""
PATH = 4.2e-10
"""LASSO path of one target, times n² and penalties."""
FORWARD = 3e-9
"""One step of forward selection of one target, times n."""
DENSE = 1.5e-10
"""Dense fit of all targets, times n³."""
GRAPH = 1.5e-9
"""Eigenvectors of the graph of both nets and its clusters, times n² and clusters."""
SUBSPACES = 4.5e-11
"""Subspaces of all clusters, times n³."""
DISTRIBUTIONS = 6e-7
"""Distances of all pairs of units' distributions, times n²."""
CONSENSUS = 1e-9
"""Consensus units, times pairs of nets and n³."""
