"""Everything about the units of one comparison that needs no second net: means, spread, sparsity, correlations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import wasserstein_distance

from convergence.analysis.units import LiveUnits
from convergence.statistics.file import Sums
from convergence.statistics.moments import correlation, covariance
from convergence.uncertainty import Estimate, jackknife, jackknife_error

Float64 = npt.NDArray[np.float64]


def unit_means(sums: Sums) -> Float64:
    """(n_units,) mean activations."""
    return sums.shift + sums.group_sums.sum(axis=0) / sums.group_count.sum()


def unit_means_without(sums: Sums) -> Float64:
    """(n_groups, n_units) mean activations without each image group."""
    n = sums.group_count.sum() - sums.group_count[:, None]
    return sums.shift + (sums.group_sums.sum(axis=0) - sums.group_sums) / n


def describe_units(sums: Sums, live: LiveUnits) -> dict[str, npt.NDArray[np.generic]]:
    """Per unit: mean with its error, standard deviation, share of zeros, percentiles, and why it is left out."""
    n = float(sums.group_count.sum())
    cov = covariance(n, sums.group_sums.sum(axis=0), sums.group_products.sum(axis=0))
    percentiles = sums.histograms.percentiles((50, 90, 99))
    return {
        "mean": np.nan_to_num(unit_means(sums)),
        "mean_error": np.nan_to_num(jackknife_error(unit_means_without(sums))),
        "standard_deviation": np.sqrt(np.maximum(np.nan_to_num(np.diag(cov)), 0.0)),
        "zero_fraction": sums.histograms.zero_fraction(),
        **dict(zip(("median", "percentile_90", "percentile_99"), percentiles.T, strict=True)),
        "alive": live.alive,
        "left_out_because": np.array(live.reason, dtype=object),
    }


def pooled_correlation(sums: Sums, live: LiveUnits) -> Float64:
    """(n_units, n_units) correlations within and between all nets; 0 for units that carry nothing."""
    cov = covariance(float(sums.group_count.sum()), sums.group_sums.sum(axis=0), sums.group_products.sum(axis=0))
    cov[~live.alive] = 0.0
    cov[:, ~live.alive] = 0.0
    return correlation(cov)


def mean_activation_distance(sums: Sums, live: LiveUnits, x: str, y: str) -> Estimate:
    """Distance of two nets' distributions of mean activations (paper, section on activation statistics).

    Wasserstein-1 distance between the live units' means (for equal widths the mean gap between the two sorted
    curves), divided by the mean over both nets: 0 if the sorted curves coincide.
    """

    def distance(means: Float64) -> float:
        a, b = means[ux], means[uy]
        return float(wasserstein_distance(a, b) / np.abs(np.concatenate([a, b])).mean())

    ux, uy = (units[live.alive[units]] for units in (sums.units(x), sums.units(y)))
    return jackknife(distance(unit_means(sums)), [distance(means) for means in unit_means_without(sums)])
