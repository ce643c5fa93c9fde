"""Activation statistics: means, sparsity and whole distributions of units, within and between nets (RQ5)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from convergence.alignment.matching import Matching, matching
from convergence.analysis.active_units import ActiveUnits, unit_means, unit_means_without
from convergence.analysis.net_sums import NetSums
from convergence.analysis.steps import Tree
from convergence.inference import jackknife
from convergence.statistics.file import ComparisonSums

Float64 = npt.NDArray[np.float64]
DEALS = 200
"""Deals of the units of two nets to two nets, for the chance level of the distance of mean activations."""


def mean_activation_distance(sums: ComparisonSums, live: ActiveUnits, x: str, y: str, seed: int) -> Tree:
    """Distance of two nets' distributions of mean activations (paper, section on activation statistics).

    Wasserstein-1 distance between the mean activations of the active units, those of each net divided by the mean of
    their absolute values: 0 if the sorted curves are equal up to the scale of a layer, which the next layer's weights
    undo. For equal widths it is the mean gap between the two sorted curves.

    Chance: the units of both nets dealt at random to two nets of the same widths. In draw k a unit has the same lot in
    every pair, so that draws of different pairs can be averaged draw by draw. ``p`` is the share of the deals, the nets
    themselves among them, in which the distance is at least as large.
    """

    def scaled(means: Float64) -> tuple[Float64, Float64]:
        return relative(means[ux]), relative(means[uy])

    ux, uy = (units[live.alive[units]] for units in (sums.units(x), sums.units(y)))
    distance = Wasserstein(len(ux), len(uy))
    a, b = scaled(unit_means(sums))
    without = [float(distance(*scaled(means))) for means in unit_means_without(sums)]
    lots = [_lots(seed, sums.nets.index(net), len(sums.units(net)))[:, live.alive[sums.units(net)]] for net in (x, y)]
    dealt = np.concatenate([a, b])[np.argsort(np.concatenate(lots, axis=1), axis=1)]
    draws = distance(relative(dealt[:, : len(a)]), relative(dealt[:, len(a) :]))
    estimate = jackknife(float(distance(a, b)), without)
    p = (1 + np.count_nonzero(draws >= estimate.value)) / (1 + DEALS)
    return estimate.against((float(draws.mean()), float(draws.std(ddof=1)))).as_dict() | {"draws": draws, "p": p}


def relative(means: Float64) -> Float64:
    """Values (…, n_units) divided by the mean of their absolute values."""
    scale = np.abs(means).mean(axis=-1, keepdims=True)
    return np.asarray(means / np.where(scale > 0, scale, 1.0))


def _lots(seed: int, member: int, n_units: int) -> Float64:
    """(DEALS, n_units) random numbers of a member's units: the smaller ones are dealt to x."""
    return np.random.default_rng([seed, member]).random((DEALS, n_units))


class Wasserstein:
    """Wasserstein-1 distance of ``n_x`` and ``n_y`` values: the area between their quantile functions, exact.

    The quantile functions are steps; where they step depends on the numbers of values alone.
    """

    def __init__(self, n_x: int, n_y: int) -> None:
        edges = np.unique(np.concatenate([np.arange(n_x + 1) * n_y, np.arange(n_y + 1) * n_x]))
        self._rows, self._columns = edges[:-1] // n_y, edges[:-1] // n_x
        self._weights = np.diff(edges) / (n_x * n_y)

    def __call__(self, x: Float64, y: Float64) -> Float64:
        """Distances (…) of values (…, n_x) and (…, n_y)."""
        x, y = np.sort(x, axis=-1), np.sort(y, axis=-1)
        return np.asarray(np.abs(x[..., self._rows] - y[..., self._columns]) @ self._weights)


def compare_distributions(x: NetSums, y: NetSums, partners: Matching) -> Tree:
    """Whether units of two nets have like distributions of activation: partners, the best fit, and any two.

    The distance of two units is the Wasserstein-1 distance of their values, each divided by its standard deviation: it
    sees the shape, sparsity and mean in units of spread, not the scale, which the next layer's weights undo.
    ``matched`` is its mean over the pairs matched by correlation; ``assigned`` that of the best one-to-one assignment
    by distance itself (are there the same distributions in both nets?); ``any`` of all pairs of units, chance;
    ``within_x`` and ``within_y`` of all pairs within a net; ``sparsity`` the Wasserstein distance of the units' shares
    of zeros. Histograms are kept over all images only, so these numbers have chance levels and no error over images.
    """
    between = shape_distances(x.shapes, y.shapes)
    return {
        "matched": float(between[partners.rows, partners.columns].mean()),
        "assigned": -matching(-between).mean,
        "any": float(between.mean()),
        "within_x": _mean_of_pairs(shape_distances(x.shapes, x.shapes)),
        "within_y": _mean_of_pairs(shape_distances(y.shapes, y.shapes)),
        "sparsity": float(Wasserstein(len(x), len(y))(x.zero_shares, y.zero_shares)),
    }


def shape_distances(x: Float64, y: Float64) -> Float64:
    """(n_x, n_y) mean absolute differences of quantiles: the Wasserstein-1 distance, by a sum over quantiles."""
    return np.asarray(cdist(x, y, "cityblock") / x.shape[1])


def _mean_of_pairs(distances: Float64) -> float:
    """Mean over pairs of different units; 0 for a single unit."""
    n = len(distances)
    return float(distances.sum() / (n * (n - 1))) if n > 1 else 0.0
