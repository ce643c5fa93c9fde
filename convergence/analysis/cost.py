"""Cost of steps: seconds on one core, as constants times powers of widths, fitted by ``python -m benchmarks.plan``.

The constants determine how steps are cut, and so the order of sums over targets. They are fixed for a version and never
measured at run time. A factor of two is accurate enough.
"""

GOAL = 8.0
"""Seconds that a range of a step should take."""
TOGETHER = 4.0
"""Steps of less than this many seconds together are one task."""
CALL = 0.01
"""Overhead of calling all measures."""
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
DIMENSIONS = 6e-10
"""Directions that nets share, fitted once, times the cubes of the widths and of their sum."""
CLUSTERS = 20
"""Clusters that a graph is expected to have."""
HALVES = 1e-8
"""Eigenvectors of the graphs of both halves of the images, cut into every candidate number of clusters, times n³."""
GRAPH = 1.5e-9
"""Eigenvectors of the graph of both nets and its clusters, times n² and clusters."""
SUBSPACES = 4.5e-11
"""Subspaces of all clusters, times n³."""
DISTRIBUTIONS = 6e-7
"""Distances of all pairs of units' distributions, times n²."""
CONSENSUS = 1e-9
"""Consensus units, times pairs of nets and n³."""
