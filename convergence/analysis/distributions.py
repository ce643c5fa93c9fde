"""Activation statistics: means, sparsity and whole distributions of units, within and between nets (RQ5)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import wasserstein_distance

from convergence.alignment.matching import Matching, matching
from convergence.analysis.active_units import ActiveUnits, unit_means, unit_means_without
from convergence.analysis.steps import Tree
from convergence.inference import Estimate, jackknife
from convergence.statistics.file import ComparisonSums

Float64 = npt.NDArray[np.float64]
QUANTILES = (np.arange(100) + 0.5) / 100
CHUNK = 256


def mean_activation_distance(sums: ComparisonSums, live: ActiveUnits, x: str, y: str) -> Estimate:
    """Distance of two nets' distributions of mean activations (paper, section on activation statistics).

    Wasserstein-1 distance between the active units' means (for equal widths the mean gap between the two sorted
    curves), divided by the mean over both nets: 0 if the sorted curves coincide.
    """

    def distance(means: Float64) -> float:
        a, b = means[ux], means[uy]
        return float(wasserstein_distance(a, b) / np.abs(np.concatenate([a, b])).mean())

    ux, uy = (units[live.alive[units]] for units in (sums.units(x), sums.units(y)))
    return jackknife(distance(unit_means(sums)), [distance(means) for means in unit_means_without(sums)])


def compare_distributions(sums: ComparisonSums, live: ActiveUnits, x: str, y: str, partners: Matching) -> Tree:
    """Whether units of two nets have like distributions of activation: partners, the best fit, and any two.

    The distance of two units is the Wasserstein-1 distance of their values, each divided by its standard deviation: it
    sees the shape, sparsity and mean in units of spread, not the scale, which the next layer's weights undo.
    ``matched`` is its mean over the pairs matched by correlation; ``assigned`` that of the best one-to-one assignment
    by distance itself (are there the same distributions in both nets?); ``any`` of all pairs of units, chance;
    ``within_x`` and ``within_y`` of all pairs within a net; ``sparsity`` the Wasserstein distance of the units' shares
    of zeros. Histograms are kept over all images only, so these numbers have chance levels and no error over images.
    """
    assert sums.histograms is not None
    ux, uy = (units[live.alive[units]] for units in (sums.units(x), sums.units(y)))
    shapes_x, shapes_y = (unit_shapes(sums, units) for units in (ux, uy))
    between = shape_distances(shapes_x, shapes_y)
    zeros = sums.histograms.zero_fraction()
    return {
        "matched": float(between[partners.rows, partners.columns].mean()),
        "assigned": -matching(-between).mean,
        "any": float(between.mean()),
        "within_x": _mean_of_pairs(shape_distances(shapes_x, shapes_x)),
        "within_y": _mean_of_pairs(shape_distances(shapes_y, shapes_y)),
        "sparsity": float(wasserstein_distance(zeros[ux], zeros[uy])),
    }


def unit_shapes(sums: ComparisonSums, units: npt.NDArray[np.int64]) -> Float64:
    """(n_units, 100) quantiles of the units' values, divided by their standard deviation as the quantiles have it."""
    assert sums.histograms is not None
    quantiles = sums.histograms.percentiles(tuple(100 * QUANTILES))[units]
    deviation = quantiles.std(axis=1, keepdims=True)
    return np.asarray(quantiles / np.where(deviation > 0, deviation, 1.0))


def shape_distances(x: Float64, y: Float64) -> Float64:
    """(n_x, n_y) mean absolute differences of quantiles: the Wasserstein-1 distance, by a sum over quantiles."""
    out = np.empty((len(x), len(y)))
    for start in range(0, len(x), CHUNK):
        rows = x[start : start + CHUNK]
        total = np.zeros((len(rows), len(y)))
        for k in range(x.shape[1]):
            total += np.abs(rows[:, k, None] - y[None, :, k])
        out[start : start + CHUNK] = total / x.shape[1]
    return out


def _mean_of_pairs(distances: Float64) -> float:
    """Mean over pairs of different units; 0 for a single unit."""
    n = len(distances)
    return float(distances.sum() / (n * (n - 1))) if n > 1 else 0.0
