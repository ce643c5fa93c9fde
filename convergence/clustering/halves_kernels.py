"""Compiled evidence of many partitions of the same graph: agreement of two of each, and separation of one.

The plain definitions are :func:`~convergence.clustering.number.agreement` and
:func:`~convergence.clustering.number.separation`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.clustering.graph import Labels, Matrix
from convergence.kernels.jit import njit

Array = Any  # a numpy array here, numba's array type in compiled code
_jit = njit(nogil=True)


@_jit
def agreements(first: Labels, second: Labels) -> Matrix:
    """Adjusted Rand indices (n_ks,) of the partitions (n_ks, n) in the rows; units of label -1 are alone."""
    out = np.empty(len(first))
    for row in range(len(first)):
        out[row] = agreement_of(first[row], second[row], 0.0)
    return out


@_jit
def agreement_of(first: Array, second: Array, alone: float) -> float:
    """Adjusted Rand index of two partitions (n,); ``alone`` if no two units are together in either."""
    n = len(first)
    most = max(second.max(), 0) + 1
    keys = np.empty(n, dtype=np.int64)
    n_both = 0
    for unit in range(n):
        if first[unit] >= 0 and second[unit] >= 0:
            keys[n_both] = first[unit] * most + second[unit]
            n_both += 1
    both, pairs_first, pairs_second = _pairs(keys[:n_both]), _pairs(first), _pairs(second)
    expected = pairs_first * pairs_second / max(n * (n - 1) / 2, 1.0)
    largest = (pairs_first + pairs_second) / 2
    if largest == 0:
        return alone
    return (both - expected) / (largest - expected) if largest > expected else 1.0


@_jit
def _pairs(labels: Array) -> float:
    """Number of pairs of units of the same label; those of label -1 are left out."""
    ordered = np.sort(labels)
    found, start = 0.0, 0
    for place in range(1, len(ordered) + 1):
        if place == len(ordered) or ordered[place] != ordered[start]:
            if ordered[start] >= 0:
                found += (place - start) * (place - start - 1) / 2
            start = place
    return found


@_jit
def n_not_alone(labels: Labels) -> Labels:
    """(n_ks,) number of units that share their cluster with another."""
    out = np.zeros(len(labels), dtype=np.int64)
    for row in range(len(labels)):
        ordered = np.sort(labels[row])
        start = 0
        for place in range(1, len(ordered) + 1):
            if place == len(ordered) or ordered[place] != ordered[start]:
                if ordered[start] >= 0 and place - start > 1:
                    out[row] += place - start
                start = place
    return out


@_jit
def separations(graph: Matrix, labels: Labels) -> Matrix:
    """(n_ks,) mean weight to the others of the cluster minus that to units outside, of partitions (n_ks, n)."""
    n_ks, n = labels.shape
    out = np.zeros(n_ks)
    for row in range(n_ks):
        own = labels[row]
        sizes = np.zeros(max(own.max(), 0) + 1, dtype=np.int64)
        n_linked = 0
        for unit in range(n):
            if own[unit] >= 0:
                sizes[own[unit]] += 1
                n_linked += 1
        if n_linked < 2:
            continue
        total = 0.0
        for unit in range(n):
            if own[unit] < 0:
                continue
            inside, outside = 0.0, 0.0
            for other in range(n):
                if own[other] == own[unit]:
                    inside += graph[unit, other]
                elif own[other] >= 0:
                    outside += graph[unit, other]
            size = sizes[own[unit]]
            total += inside / max(size - 1, 1) - outside / max(n_linked - size, 1)
        out[row] = total / n_linked
    return out
