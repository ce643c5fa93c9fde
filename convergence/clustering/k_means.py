"""K-means with all starts in parallel: equivalent to scikit-learn's, and faster for the few columns of an embedding.

Starts are drawn by greedy k-means++ (Arthur and Vassilvitskii 2007), for all runs in step with one matrix product.
Lloyd's algorithm then runs from each start, and the run with the smallest inertia is returned. Sums are in the order of
the points, on one thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convergence.clustering.graph import Labels, Matrix
from convergence.kernels.jit import njit
from convergence.kernels.lanes import dot

N_INIT = 10
MAX_ITERATIONS = 300
# A run ends if no point moves, or if the squared shift of the means is below this share of the mean variance.
TOLERANCE = 1e-4

_jit = njit(nogil=True)  # no fastmath: see convergence.kernels.lanes
Array = Any  # a numpy array here, numba's array type in compiled code


def k_means(points: Matrix, k: int, seed: int, n_init: int = N_INIT) -> tuple[Labels, float]:
    """Cluster points (n, d); return labels (n,) and inertia of the best of ``n_init`` runs.

    With fewer distinct points than k there are fewer clusters. The inertia is the sum of the squared distances of
    points to the mean of their cluster.
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    k = min(k, distinct(points))
    draws = np.random.default_rng(seed).random((n_init, k, 2 + int(np.log(k))))
    norms = np.einsum("ij,ij->i", points, points)
    chosen = _starts(points, norms, draws)
    return _best(points, norms, points[chosen], _tolerance(points))


def k_means_from(points: Matrix, labels: Labels, k: int) -> tuple[Labels, float] | None:
    """Run once from the means of a partition (n,) into k parts; None for an empty part or two equal means.

    Points of label -1 do not count for the means.
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    if np.bincount(labels[labels >= 0], minlength=k).min() == 0:
        return None
    means = np.stack([points[labels == cluster].mean(axis=0) for cluster in range(k)])
    if distinct(means) < k:
        return None
    return _best(points, np.einsum("ij,ij->i", points, points), means[None], _tolerance(points))


def distinct(points: Matrix) -> int:
    """Count the distinct points, to seven decimals; eigenvectors are accurate to eight."""
    return len(np.unique(points.round(7), axis=0))


def _tolerance(points: Matrix) -> float:
    return TOLERANCE * float(points.var(axis=0).mean())


def _best(points: Matrix, norms: Matrix, starts: Matrix, tolerance: float) -> tuple[Labels, float]:
    """Run from each of ``starts`` (n_runs, k, d); return labels and inertia of the (first) best run."""
    runs = [_lloyd(points, norms, start, MAX_ITERATIONS, tolerance) for start in starts]
    labels, inertia = min(runs, key=lambda run: float(run[1]))
    return labels, float(inertia)


@_jit
def _starts(points: Array, norms: Array, draws: Array) -> NDArray[np.int64]:
    """Draw the indices (n_runs, k) of the start points of all runs by greedy k-means++.

    Candidates are drawn with probability proportional to the squared distance from the chosen points, ``n_trials`` per
    point, from uniform ``draws`` (n_runs, k, n_trials). The candidate that lowers the sum of squared distances most is
    chosen.
    """
    n, (n_runs, k, n_trials) = len(points), draws.shape
    chosen = np.empty((n_runs, k), dtype=np.int64)
    candidates = np.empty(n_runs * n_trials, dtype=np.int64)
    rows = np.empty((n_runs * n_trials, points.shape[1]))
    products = np.empty((n, n_runs * n_trials))
    closest = np.full((n, n_runs), np.inf)
    running, left = np.empty(n), np.empty(n_runs * n_trials)
    for c in range(k):
        for run in range(n_runs):
            total = 0.0
            for i in range(n):
                total += closest[i, run] if c else 1.0
                running[i] = total
            for trial in range(n_trials):
                at = min(np.searchsorted(running, draws[run, c, trial] * total, side="right"), n - 1)
                candidates[run * n_trials + trial] = at
                rows[run * n_trials + trial] = points[at]
        np.dot(points, rows.T, products)
        left[:] = 0.0
        for i in range(n):
            for run in range(n_runs):
                for column in range(run * n_trials, (run + 1) * n_trials):
                    distance = norms[i] + norms[candidates[column]] - 2.0 * products[i, column]
                    left[column] += max(min(distance, closest[i, run]), 0.0)
        for run in range(n_runs):
            trials = n_trials if c else 1
            column = run * n_trials + np.argmin(left[run * n_trials : run * n_trials + trials])
            chosen[run, c] = candidates[column]
            for i in range(n):
                distance = norms[i] + norms[candidates[column]] - 2.0 * products[i, column]
                closest[i, run] = max(min(distance, closest[i, run]), 0.0)
    return chosen


@_jit
def _lloyd(
    points: Array, norms: Array, start: Array, max_iterations: int, tolerance: float
) -> tuple[NDArray[np.int64], float]:
    """Run Lloyd's algorithm; return labels and inertia. An empty cluster gets the point farthest from its mean."""
    n, k = len(points), len(start)
    means, sums = start.copy(), np.empty(start.shape)
    products, half, apart = np.empty((n, k)), np.empty(k), np.empty(n)
    labels, counts = np.full(n, -1, dtype=np.int64), np.empty(k, dtype=np.int64)
    last, inertia = False, 0.0
    for _ in range(max_iterations):
        np.dot(points, means.T, products)
        for j in range(k):
            half[j] = 0.5 * dot(means[j], means[j], 0, means.shape[1])
        moved, inertia = 0, 0.0
        for i in range(n):
            nearest, least = 0, half[0] - products[i, 0]
            for j in range(1, k):
                value = half[j] - products[i, j]
                if value < least:
                    nearest, least = j, value
            if labels[i] != nearest:
                labels[i] = nearest
                moved += 1
            apart[i] = max(norms[i] + 2.0 * least, 0.0)
            inertia += apart[i]
        if moved == 0 or last:
            break
        sums[:] = 0.0
        counts[:] = 0
        for i in range(n):
            counts[labels[i]] += 1
            for d in range(points.shape[1]):
                sums[labels[i], d] += points[i, d]
        for j in range(k):
            if counts[j] == 0:
                far = np.argmax(apart)
                sums[labels[far]] -= points[far]
                counts[labels[far]] -= 1
                sums[j] = points[far]
                counts[j] = 1
                labels[far] = j
                apart[far] = -1.0
        shift = 0.0
        for j in range(k):
            if counts[j] == 0:  # its only point went to another cluster: too few distinct points
                continue
            for d in range(points.shape[1]):
                mean = sums[j, d] / counts[j]
                shift += (mean - means[j, d]) ** 2
                means[j, d] = mean
        last = shift <= tolerance
    return labels, inertia
