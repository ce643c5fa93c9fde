"""What steps take: seconds on one core, as constants times powers of widths. ``python -m benchmarks.plan`` fits them.

They decide how steps are cut and so are part of the arithmetic (a sum over targets is made range by range): they are
constants of a version, never measured while it runs. A factor of two does no harm.
"""

GOAL = 8.0
"""Seconds that a range of a step should take, and a task of several steps."""
TOGETHER = 4.0
"""A pair that takes less than so many seconds is one task."""
CALL = 2e-3
"""What calling all measures takes, however few units there are."""
MEASURES = 3e-9
"""All measures of the moments of a pair once, times n³."""
MOMENTS = 2e-8
"""Correlations of some image groups, times n²."""
MATCHING = 4e-10
"""One-to-one matching, times n³."""
PARTIAL = 6e-9
"""One partial soft matching, times n³."""
ROTATION = 4e-10
"""A rotation drawn and applied, times n³."""
PATH = 4e-9
"""LASSO path, refit and scores of one target, times n² and penalties."""
FORWARD = 3e-9
"""One step of forward selection of one target, times n."""
DENSE = 1e-9
"""Dense fit of all targets, times n³."""
GRAPH = 1e-8
"""Eigenvectors of the graph of both nets and its clusters, times n²·(clusters)."""
SUBSPACES = 1e-9
"""Subspaces of all clusters, times n³."""
DISTRIBUTIONS = 1e-7
"""Distances of all pairs of units' distributions, times n²."""
CONSENSUS = 4e-9
"""Consensus units, times pairs of nets and n³."""
